//! A damaged file of one job costs only that job.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{fs, net::Ipv4Addr, time::Duration};

use contract::{JobId, JobRequest as _, JobState, Policy, PullRequest, Service};
use gateway::{Config, Gateway};
use http::Method;
use workspace::{Job, JobRecord, NewJob, RequestDigest, Workspace};

fn queued(workspace: &Workspace) -> Job {
    let body = br#"{"repoUrl":"https://host.example/r.git"}"#;
    let request = PullRequest::parse(body, workspace.root_text(), &Policy::default()).unwrap();
    let digest = RequestDigest::of(&request, body, None);
    let record = JobRecord::of(workspace, &request, digest, JobId::new(), None).unwrap();
    match Job::create(workspace, &record).unwrap() {
        NewJob::Created(job) => job,
        NewJob::Exists(_) => unreachable!(),
    }
}

/// One such job once stayed queued for good, and its gateway said so nowhere but in a listing.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_record_is_damaged_is_set_aside_and_the_others_are_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let workspace = Workspace::open(dir.path()).unwrap();
    let (damaged, whole) = (queued(&workspace), queued(&workspace));
    fs::write(damaged.directory().join("job.json"), "{").unwrap();
    let config = Config {
        bind: Ipv4Addr::LOCALHOST.into(),
        ports: contract::PerService::default(),
        workspace: dir.path().to_owned(),
        queue_limit: 1000,
        queue_wait: Duration::from_secs(600),
        policy: Policy::default(),
        cors: web::Cors::default(),
        allowed_hosts: None,
        drain: false,
    };
    let gateway = Gateway::start(config).await.unwrap();
    assert!(Job::open(&workspace, damaged.id()).unwrap().is_none());
    let aside: Vec<_> = fs::read_dir(workspace.damaged()).unwrap().flatten().collect();
    let [aside] = &aside[..] else { panic!("{aside:?}") };
    assert_eq!(fs::read(aside.path().join("job.json")).unwrap(), b"{");

    let base = gateway.address(Service::Pull).into();
    let path = format!("/api/jobs/{}", whole.id());
    let asked = web::ask(&base, Method::GET, &path, &[], "".into(), Duration::from_secs(5));
    assert_eq!(asked.await.unwrap().status, 200);
    assert_eq!(whole.view().unwrap().state, JobState::Queued);
    gateway.stop().await;
}
