//! The gateway is killed while jobs run and wait, and nothing is lost.

use contract::Service;
use nix::sys::signal::Signal;
use serde_json::json;
use testkit::{AgentScript, GitServer, SseEvent, SseResponse, Stack, wait_for};

use crate::support::{
    Marks, PATIENCE, events_of, job, post_workflow, process_of, send_signal, terminal,
    wait_for_state, workflow,
};

/// Reads until the stream is cut.
async fn until_cut(response: &mut SseResponse) -> Vec<SseEvent> {
    let events = response.collect_all().await;
    assert!(response.ended_without_terminal(), "the stream was not cut");
    events
}

#[tokio::test]
async fn jobs_continue_and_callers_reconnect_when_the_gateway_is_killed() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().start().await;
    let marks = Marks::new();
    let script = AgentScript::new()
        .flood(50, 100)
        .log_run(marks.path("began"))
        .wait_file(marks.path("gate"))
        .flood(50, 100);
    let body = workflow(&git.url("app"), &script);
    let running = post_workflow(&stack, &body).accept_event_stream().allow_cut();
    let mut running = running.send().await;
    marks.wait("began").await;
    let note = |name: &str| workflow(&git.url("app"), &AgentScript::new().touch(marks.path(name)));
    let mut waiting = Vec::new();
    for name in ["returns", "stays-away"] {
        let request = post_workflow(&stack, &note(name)).accept_event_stream().allow_cut();
        let mut response = request.send().await;
        assert_eq!(response.next_event().await.unwrap().kind(), "queued");
        waiting.push(response);
    }
    let [mut returns, mut stays_away] = <[_; 2]>::try_from(waiting).unwrap();

    let gateway = process_of(&stack, "gateway");
    send_signal(gateway, Signal::SIGKILL);
    let mut before = until_cut(&mut running).await;
    until_cut(&mut returns).await;
    until_cut(&mut stays_away).await;
    wait_for("another gateway", PATIENCE, || async {
        let now = stack.processes_of("gateway");
        let health = testkit::http_json;
        let there = now.len() == 1 && now[0] != gateway && tcp(&stack).await;
        if !there {
            return None;
        }
        let url = format!("{}/health", stack.workflow_url());
        (health("GET", &url, None, &[]).await.0 == 200).then_some(())
    })
    .await;

    let last = before.last().unwrap().id.clone().expect("the last event is not `queued`");
    let (running_id, returns_id) = (running.job_id(), returns.job_id());
    let back = events_of(&stack, &running_id, Service::Workflow).last_event_id(&last);
    let mut back = back.send().await;
    let mut returned = events_of(&stack, &returns_id, Service::Workflow).send().await;
    assert_eq!(returned.next_event().await.unwrap().kind(), "queued");
    assert_eq!(job(&stack, &running_id).await["state"], "running");

    // Nobody reconnects for the third job, so it loses its place. The second one keeps its own.
    let lost = wait_for_state(&stack, &stays_away.job_id(), "cancelled").await;
    assert_eq!((&lost["code"], &lost["started"]), (&json!("caller_left"), &json!(null)));
    assert_eq!(job(&stack, &returns_id).await["state"], "queued");

    marks.open("gate");
    let after = back.collect_all().await;
    assert_eq!(terminal(&after)["type"], "workflow_complete");
    before.extend(after);
    let whole = events_of(&stack, &running_id, Service::Workflow).send().await.collect_all().await;
    assert!(whole.len() > 100, "{}", whole.len());
    assert!(before == whole, "events were lost or repeated");
    let events = returned.collect_all().await;
    assert_eq!(terminal(&events)["type"], "workflow_complete");
    assert!(marks.exists("returns") && !marks.exists("stays-away"));
    assert_eq!(marks.lines("began").len(), 1, "an agent ran twice");
    stack.wait_until_idle().await;
    assert_eq!(stack.stop().await, 0);
}

/// A queued job starts only for a caller that reconnects, even if a replica is idle all the time.
#[tokio::test]
async fn a_queued_job_never_starts_if_its_caller_does_not_reconnect() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().start().await;
    let marks = Marks::new();
    let gate = AgentScript::new().touch(marks.path("began")).wait_file(marks.path("gate"));
    let running = post_workflow(&stack, &workflow(&git.url("app"), &gate)).allow_cut();
    let mut running = running.send().await;
    marks.wait("began").await;
    let script = AgentScript::new().log_run(marks.path("runs"));
    let waiting = post_workflow(&stack, &workflow(&git.url("app"), &script)).allow_cut();
    let mut waiting = waiting.send().await;
    let id = waiting.job_id();
    assert_eq!(waiting.next_event().await.unwrap().kind(), "queued");

    send_signal(process_of(&stack, "gateway"), Signal::SIGKILL);
    until_cut(&mut running).await;
    until_cut(&mut waiting).await;
    marks.open("gate");
    wait_for("the gateway and its replicas", PATIENCE, || async {
        tcp(&stack).await.then_some(())
    })
    .await;
    stack.wait_until_idle().await;
    assert_eq!(job(&stack, &running.job_id()).await["state"], "succeeded");
    let ended = wait_for_state(&stack, &id, "cancelled").await;
    assert_eq!(ended["started"], json!(null), "{ended}");
    assert!(!marks.exists("runs"));
}

/// Whether the workflow port accepts connections.
async fn tcp(stack: &Stack) -> bool {
    let address = stack.workflow_url();
    let address = address.strip_prefix("http://").unwrap();
    tokio::net::TcpStream::connect(address).await.is_ok()
}
