//! A caller that hangs up is gone for the stack too.

use std::time::Duration;

use futures_util::future::join_all;
use testkit::skip;

use crate::{
    caller::{EventStream, post},
    proxy::{Proxy, missing_program},
    recipe::Kind,
    scene::Scene,
};

/// Starts a workflow that ends with its caller, hangs up while its agent runs, and returns its ID.
async fn start_and_hang_up(scene: &Scene, proxy: &Proxy, gate: &str, version: &str) -> String {
    let wish = ["-H", "X-On-Disconnect: cancel", version];
    let request = post(proxy, "/api/workflow", &scene.gated_workflow(gate), &wish);
    let mut stream = EventStream::open(request);
    let first = loop {
        let event = stream.next().await.expect("a workflow that starts");
        if event["type"] == "workflow_started" {
            break event;
        }
    };
    stream.until_message("before").await;
    stream.hang_up().await;
    first["workflowId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_caller_that_hangs_up_cancels_its_job() {
    if let Some(program) = missing_program() {
        let why = format!("{program} is not installed");
        return skip("a_caller_that_hangs_up_cancels_its_job", &why);
    }
    let scene = Scene::new().await;
    let versions = ["--http1.1", "--http2"];
    let cases = Kind::ALL.into_iter().flat_map(|kind| versions.map(|version| (kind, version)));
    join_all(cases.map(|(kind, version)| {
        let scene = &scene;
        async move {
            let proxy = Proxy::start(kind, scene.port()).await;
            let id = start_and_hang_up(scene, &proxy, "never", version).await;
            scene.wait_for_state(&id, "cancelled").await;
        }
    }))
    .await;
}

/// Without the option in HAProxy's configuration, and with the one that Caddy's must not have.
#[tokio::test]
async fn a_proxy_that_hides_it_cancels_nothing() {
    if let Some(program) = missing_program() {
        let why = format!("{program} is not installed");
        return skip("a_proxy_that_hides_it_cancels_nothing", &why);
    }
    let scene = Scene::new().await;
    let changes = [
        (Kind::HaProxy, ("option abortonclose ", "# ")),
        (Kind::Caddy, (":5000 {\n", ":5000 {\n\t\tflush_interval -1\n")),
    ];
    join_all(changes.map(|(kind, change)| {
        let scene = &scene;
        async move {
            let proxy = Proxy::start_changed(kind, scene.port(), &[change]).await;
            let gate = format!("{kind:?}");
            let id = start_and_hang_up(scene, &proxy, &gate, "--http1.1").await;
            // The proxy notices it when it passes on the next ping.
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(scene.state(&id).await, "running", "{kind:?}");
            scene.open(&gate);
            scene.wait_for_state(&id, "succeeded").await;
        }
    }))
    .await;
}
