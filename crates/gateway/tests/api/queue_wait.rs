//! How long a job may wait in the queue. All times count from the job's record.

use std::time::Duration;

use contract::{Code, JobState, Service};

use crate::support::{Volume, ended, get};

const WAIT: Duration = Duration::from_secs(600);

/// A restarted gateway does not count from zero, and each job of a workflow has a wait of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_waited_too_long_ends_also_if_its_workflow_runs() {
    let volume = Volume::new();
    let workflow = volume.running_workflow("app");
    let parent = Some(workflow.job().id());
    let late = WAIT + Duration::from_secs(1);
    let children = [volume.pull(parent, late), volume.pull(parent, late)];
    let (own, young) = (volume.pull(None, late), volume.pull(parent, Duration::ZERO));
    let gateway = volume.gateway(|config| config.queue_wait = WAIT).await;
    for job in children.iter().chain([&own]) {
        let outcome = ended(job).await;
        assert_eq!((outcome.state, outcome.code), (JobState::Failed, Some(Code::QueueTimeout)));
        let error = outcome.error.unwrap();
        assert!(error.contains("github-pull-api") && error.contains("600 s"), "{error}");
    }
    assert_eq!(young.view().unwrap().state, JobState::Queued, "its wait has just begun");
    let (_, status) = get(&gateway, Service::Pull, "/status").await;
    assert_eq!(status["queue"]["depth"], 1, "{status}");
    gateway.stop().await;
}

/// The error names the job that used the checkout for so long.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_too_long_for_its_turn_says_for_which_job() {
    let volume = Volume::new();
    let workflow = volume.running_workflow("r");
    let pull = volume.pull(None, WAIT);
    let gateway = volume.gateway(|config| config.queue_wait = WAIT).await;
    let outcome = ended(&pull).await;
    assert_eq!(outcome.code, Some(Code::QueueTimeout));
    let error = outcome.error.unwrap();
    let holder = workflow.job().id().to_string();
    assert!(error.contains(&holder) && error.contains("directory 'r'"), "{error}");
    gateway.stop().await;
}
