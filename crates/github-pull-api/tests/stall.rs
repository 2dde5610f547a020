//! Git hosts that stop sending. A process of its own: libgit2 keeps its time limits for the process.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail loudly and run real git"
)]

#[path = "pull/support.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod support;

use std::time::{Duration, Instant};

use contract::Code;
use testkit::{Fault, GitServer};

use crate::support::Scene;

#[tokio::test]
async fn a_host_that_stops_sending() {
    let server = GitServer::start().await;
    server.create_big_repo("app", 100, 10_000);
    let mut scene = Scene::new();
    scene.config.stall = Duration::from_secs(1);
    for fault in [Fault::Stall, Fault::StallAfter(0), Fault::StallAfter(100_000)] {
        server.set_fault("app", fault.clone());
        let start = Instant::now();
        let outcome = scene.pull(&server.url("app")).await;
        let sentence = outcome.failed(Code::RemoteStalled);
        assert!(sentence.contains("sent nothing for 1 s"), "{fault:?}: {sentence}");
        assert!(start.elapsed() < Duration::from_secs(5), "{fault:?}: {:?}", start.elapsed());
        assert!(!scene.path("repo").exists());
        scene.assert_clean();
    }
    // Slow is not silent.
    server.set_fault("app", Fault::Delay(Duration::from_millis(600)));
    scene.pull(&server.url("app")).await.commit();
}

#[tokio::test]
async fn a_mirror_that_is_there_outlives_it() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let mut scene = Scene::new();
    scene.config.stall = Duration::from_secs(1);
    scene.pull(&server.url("app")).await.commit();
    let commit = server.commit("app", "main", &[("a", "2\n")]);
    server.set_fault("app", Fault::StallAfter(300));
    scene.pull(&server.url("app")).await.failed(Code::RemoteStalled);
    server.clear_fault("app");
    let outcome = scene.pull(&server.url("app")).await;
    assert_eq!(outcome.commit(), commit);
    assert!(outcome.messages().contains(&"Updating the mirror"));
}
