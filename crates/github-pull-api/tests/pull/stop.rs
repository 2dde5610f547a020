//! Jobs that are to end before they are done.

use std::{
    fs::{self, File},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use contract::{Code, JobState};
use futures_util::StreamExt as _;
use github_pull_api::pull;
use oneshot::{Stop, StopReason};
use serde_json::{Value, json};
use testkit::{Fault, GitServer, wait_for};

use crate::support::{Outcome, Scene, run, snapshot};

/// Runs a pull that is stopped at the first event for which `when` says so.
async fn stopped_at(
    scene: &Scene,
    url: &str,
    reason: StopReason,
    when: impl Fn(&Value) -> bool,
) -> (Outcome, Duration) {
    let stop = Stop::default();
    let request = scene.request(&json!({"repoUrl": url, "directory": "repo"}));
    let mut since = None;
    let config = Arc::new(scene.config.clone());
    let outcome = run(config, scene.context(&stop), request, |event| {
        if since.is_none() && when(event) {
            stop.request(reason);
            since = Some(Instant::now());
        }
    })
    .await;
    (outcome, since.unwrap().elapsed())
}

/// Its progress may be told when it is over already: there are at most ten such events a second.
fn checks_out(event: &Value) -> bool {
    event["message"].as_str().is_some_and(|message| message.starts_with("Checking out"))
}

async fn until_clean(scene: &Scene) {
    wait_for("the temporary directory to be empty", Duration::from_secs(10), async || {
        fs::read_dir(scene.workspace.temporary()).unwrap().next().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn stuck_in_a_socket() {
    for (fault, reason, code, state) in [
        (Fault::Stall, StopReason::Cancelled, Code::Cancelled, JobState::Cancelled),
        (Fault::StallAfter(0), StopReason::Deadline, Code::Deadline, JobState::Failed),
        (Fault::StallAfter(100_000), StopReason::Terminated, Code::Terminated, JobState::Failed),
    ] {
        let server = GitServer::start().await;
        server.create_big_repo("app", 100, 10_000);
        server.set_fault("app", fault.clone());
        let scene = Scene::new();
        let stage = if fault == Fault::StallAfter(100_000) { "progress" } else { "message" };
        let (outcome, took) =
            stopped_at(&scene, &server.url("app"), reason, |event| event["type"] == stage).await;
        assert_eq!(outcome.failed(code), reason.sentence());
        assert_eq!(outcome.state, state);
        assert!(took < Duration::from_millis(1500), "{took:?}");
        assert!(!scene.path("repo").exists());
        until_clean(&scene).await;
        assert_eq!(
            fs::read_dir(scene.workspace.mirrors())
                .unwrap()
                .flatten()
                .filter(|e| e.path().is_dir())
                .count(),
            0,
            "no half mirror"
        );
    }
}

#[tokio::test]
async fn in_the_middle_of_a_clones_checkout() {
    let server = GitServer::start().await;
    server.create_big_repo("app", 5000, 100);
    let scene = Scene::new();
    let (outcome, took) =
        stopped_at(&scene, &server.url("app"), StopReason::Cancelled, checks_out).await;
    outcome.failed(Code::Cancelled);
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert!(!scene.path("repo").exists());
    until_clean(&scene).await;
    // The mirror is whole.
    scene.pull(&server.url("app")).await.commit();
}

#[tokio::test]
async fn in_the_middle_of_an_update() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let scene = Scene::new();
    scene.pull(&server.url("app")).await.commit();
    let texts: Vec<_> =
        (0..3000).map(|number| (format!("many/{number}"), "x".repeat(100))).collect();
    let files: Vec<_> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    server.commit("app", "main", &files);
    let before = snapshot(&scene.path("repo"));
    let receives = |event: &Value| event["stage"] == "receiving";
    for (stage, when) in
        [("receiving", &receives as &dyn Fn(&Value) -> bool), ("checkout", &checks_out)]
    {
        let (outcome, took) =
            stopped_at(&scene, &server.url("app"), StopReason::Cancelled, when).await;
        outcome.failed(Code::Cancelled);
        assert!(took < Duration::from_millis(1500), "{took:?}");
        assert!(snapshot(&scene.path("repo")) == before, "{stage}");
        until_clean(&scene).await;
        server.commit("app", "main", &[("a", stage)]);
    }
    scene.pull(&server.url("app")).await.commit();
}

#[tokio::test]
async fn while_another_pull_has_the_mirror() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let scene = Scene::new();
    scene.pull(&server.url("app")).await.commit();
    let lock = scene.mirror().with_extension("lock");
    let lock = File::options().write(true).open(lock).unwrap();
    lock.lock().unwrap();
    let (outcome, took) = stopped_at(&scene, &server.url("app"), StopReason::Cancelled, |event| {
        event["message"] == "Waiting for another pull of this repository"
    })
    .await;
    outcome.failed(Code::Cancelled);
    assert!(took < Duration::from_millis(1000), "{took:?}");
    scene.assert_clean();
}

#[tokio::test]
async fn before_it_began() {
    let scene = Scene::new();
    let stop = Stop::default();
    stop.request(StopReason::Terminated);
    let body = json!({"repoUrl": "http://127.0.0.1:1/app"});
    scene.pull_in(scene.context(&stop), body).await.failed(Code::Terminated);
    until_clean(&scene).await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_takes_the_work_with_it() {
    let server = GitServer::start().await;
    server.create_big_repo("app", 5000, 100);
    let scene = Scene::new();
    let request = scene.request(&json!({"repoUrl": server.url("app"), "directory": "repo"}));
    {
        let context = scene.context(&Stop::default());
        let mut steps = pin!(pull(Arc::new(scene.config.clone()), context, request));
        for _ in 0..3 {
            steps.next().await.unwrap();
        }
    }
    until_clean(&scene).await;
    assert!(!scene.path("repo").exists());
}
