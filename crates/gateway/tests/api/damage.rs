//! A damaged file of one job costs only that job.

use std::{fs, time::Duration};

use contract::{JobState, Service};
use workspace::Job;

use crate::support::{Volume, get};

/// Such a job once stayed queued forever, and only a listing showed it.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_record_is_damaged_is_set_aside_and_the_others_are_taken_up() {
    let volume = Volume::new();
    let (damaged, whole) = (volume.pull(None, Duration::ZERO), volume.pull(None, Duration::ZERO));
    fs::write(damaged.directory().join("job.json"), "{").unwrap();
    let gateway = volume.gateway(|_| {}).await;
    let workspace = &volume.workspace;
    assert!(Job::open(workspace, damaged.id()).unwrap().is_none());
    let aside: Vec<_> = fs::read_dir(workspace.damaged()).unwrap().flatten().collect();
    let [aside] = &aside[..] else { panic!("{aside:?}") };
    assert_eq!(fs::read(aside.path().join("job.json")).unwrap(), b"{");

    let path = format!("/api/jobs/{}", whole.id());
    assert_eq!(get(&gateway, Service::Pull, &path).await.0, 200);
    assert_eq!(whole.view().unwrap().state, JobState::Queued);
    gateway.stop().await;
}
