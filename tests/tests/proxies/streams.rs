//! Whole workflows, each event at once.

use std::{process::Stdio, time::Duration};

use futures_util::future::join_all;
use testkit::{AgentScript, RunningCommand, skip, target_binary};
use tokio::process::Command;

use crate::{
    caller::{EventStream, post, says},
    proxy::{Proxy, missing_program},
    recipe::{Kind, TOKEN},
    scene::Scene,
};

#[tokio::test]
async fn events_arrive_one_by_one() {
    if let Some(program) = missing_program() {
        return skip("events_arrive_one_by_one", &format!("{program} is not installed"));
    }
    let scene = Scene::new().await;
    let versions = ["--http1.1", "--http2"];
    let cases = Kind::ALL.into_iter().flat_map(|kind| versions.map(|version| (kind, version)));
    join_all(cases.map(|(kind, version)| {
        let scene = &scene;
        async move {
            let proxy = Proxy::start(kind, scene.port()).await;
            let gate = format!("{kind:?}{version}");
            let body = scene.gated_workflow(&gate);
            let request = post(&proxy, "/api/workflow", &body, &[version]);
            let mut stream = EventStream::open(request);
            stream.until_message("before").await;
            // Only now can the agent continue.
            scene.open(&gate);
            let (rest, is_complete) = stream.rest().await;
            assert!(rest.iter().any(|event| says(event, "after")), "{gate}: {rest:?}");
            assert_eq!(rest.last().unwrap()["type"], "workflow_complete", "{gate}");
            assert!(is_complete, "{gate}");
        }
    }))
    .await;
}

/// nginx with its default buffers, and without the header that asks it not to use them.
#[tokio::test]
async fn a_proxy_that_buffers_holds_events_back() {
    if let Some(program) = missing_program() {
        let why = format!("{program} is not installed");
        return skip("a_proxy_that_buffers_holds_events_back", &why);
    }
    let scene = Scene::new().await;
    let buffered = "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;";
    let changes = [("proxy_buffering off;", buffered)];
    let proxy = Proxy::start_changed(Kind::Nginx, scene.port(), &changes).await;
    let request = post(&proxy, "/api/workflow", &scene.gated_workflow("gate"), &["--http1.1"]);
    let mut held = EventStream::open(request);
    let mut direct = scene.only_workflow().await;
    while !says(&direct.next_event().await.unwrap().json, "before") {}
    // Long after the event was sent.
    let nothing = tokio::time::timeout(Duration::from_secs(2), held.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    scene.open("gate");
    let (events, _) = held.rest().await;
    assert_eq!(events.last().unwrap()["type"], "workflow_complete");
}

#[tokio::test]
async fn stackctl_runs_a_workflow() {
    if let Some(program) = missing_program() {
        return skip("stackctl_runs_a_workflow", &format!("{program} is not installed"));
    }
    let scene = Scene::new().await;
    let (repo, prompt) = (scene.repo(), AgentScript::new().say("hello").prompt());
    for kind in Kind::ALL {
        let proxy = Proxy::start(kind, scene.port()).await;
        let run = |token: &str| {
            let mut command = Command::new(target_binary("stackctl"));
            command.args(["run", "--repo", &repo, "--prompt", &prompt]).env_clear();
            command.env("STACK_URL", format!("https://localhost:{}", proxy.port));
            command.env("STACK_TOKEN", token).env("SSL_CERT_FILE", proxy.certificate());
            command.stdin(Stdio::null());
            RunningCommand::start(command).finish()
        };
        let output = run(TOKEN).await;
        assert_eq!((output.code, &*output.stderr), (0, ""), "{kind:?}: {output:?}");
        assert!(output.stdout.contains("  hello\n"), "{kind:?}: {output:?}");
        let output = run("another-token").await;
        assert_eq!((output.code, &*output.stdout), (2, ""), "{kind:?}: {output:?}");
        assert!(output.stderr.contains("STACK_TOKEN"), "{kind:?}: {output:?}");
    }
}
