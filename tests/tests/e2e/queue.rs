//! Waiting in the queue, first come, first served.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{AgentScript, GitServer, SseResponse, Stack, StackBuilder, wait_for};

use crate::support::{
    Marks, PATIENCE, cancel, execute, header, job, post_execute, post_workflow, terminal,
    wait_for_state, workflow,
};

/// A stack whose only agent is busy until `gate` is opened.
async fn busy(builder: StackBuilder) -> (Stack, Marks, SseResponse) {
    let stack = builder.start().await;
    let marks = Marks::new();
    let script = AgentScript::new().wait_file(marks.path("gate"));
    let mut running = post_execute(&stack, &execute(&script)).send().await;
    running.next_of_kind("connected").await;
    (stack, marks, running)
}

async fn queued(response: &mut SseResponse) -> Value {
    let event = response.next_event().await.unwrap();
    assert_eq!(event.kind(), "queued", "{event:?}");
    assert!(event.json["timestamp"].is_string() && event.json["waitingFor"].is_null(), "{event:?}");
    assert_eq!(event.json["service"], "claude-code-api");
    event.json["position"].clone()
}

#[tokio::test]
async fn positions_in_the_queue_change_as_callers_cancel_and_disconnect() {
    let (stack, marks, running) = busy(Stack::builder()).await;
    let running_id = running.job_id();
    let note = |name: &str| AgentScript::new().log_run(marks.path("runs")).touch(marks.path(name));
    let mut waiting = Vec::new();
    for name in ["first", "second", "third", "fourth"] {
        let mut response = post_execute(&stack, &execute(&note(name))).send().await;
        assert_eq!(queued(&mut response).await, waiting.len() + 1);
        waiting.push(response);
    }

    // One is cancelled, and all jobs behind it move up.
    let cancelled = waiting.remove(1);
    assert_eq!(cancel(&stack, &cancelled.job_id()).await.0, 202);
    assert_eq!(queued(&mut waiting[1]).await, 2);
    assert_eq!(queued(&mut waiting[2]).await, 3);

    // One caller disconnects, which cancels its job, and the next job moves up.
    let left = waiting.remove(1);
    let left_id = left.job_id();
    drop(left);
    let ended = wait_for_state(&stack, &left_id, "cancelled").await;
    assert_eq!((&ended["code"], &ended["started"]), (&json!("caller_left"), &Value::Null));
    assert_eq!(queued(&mut waiting[1]).await, 2);

    // The caller of the running job disconnects, and its job continues.
    drop(running);
    let status = format!("{}/status", stack.claude_url());
    assert_eq!(crate::support::get(&status).await.1["queue"]["depth"], 2);
    assert_eq!(job(&stack, &running_id).await["state"], "running");
    marks.open("gate");
    wait_for_state(&stack, &running_id, "succeeded").await;
    for mut response in waiting {
        assert_eq!(terminal(&response.collect_all().await)["type"], "completed");
    }
    assert!(marks.exists("first") && marks.exists("fourth"));
    stack.wait_until_idle().await;
    assert_eq!(marks.lines("runs").len(), 2, "a job without a caller has run");
}

/// Jobs start in the order in which they arrived, however many there are.
#[tokio::test]
async fn jobs_run_in_the_order_of_arrival() {
    let (stack, marks, _running) = busy(Stack::builder()).await;
    let mut waiting = Vec::new();
    for number in 0..10 {
        let script = AgentScript::new().log_run(marks.path("runs"));
        let mut response = post_execute(&stack, &execute(&script)).send().await;
        assert_eq!(queued(&mut response).await, number + 1);
        waiting.push(response);
    }
    marks.open("gate");
    let mut sessions = Vec::new();
    for mut response in waiting {
        let events = response.collect_all().await;
        sessions.push(terminal(&events)["sessionId"].as_str().unwrap().to_owned());
    }
    let ran: Vec<_> = marks.lines("runs");
    let ran: Vec<_> = ran.iter().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect();
    assert_eq!(ran, sessions);
}

#[tokio::test]
async fn a_full_queue_refuses_jobs() {
    let (stack, marks, mut running) = busy(Stack::builder().env("QUEUE_LIMIT", "2")).await;
    let body = execute(&AgentScript::new());
    let mut waiting = Vec::new();
    for position in 1..=2 {
        let mut response = post_execute(&stack, &body).send().await;
        assert_eq!(queued(&mut response).await, position);
        waiting.push(response);
    }
    for _ in 0..3 {
        let refused = post_execute(&stack, &body).send().await;
        assert_eq!(refused.status, 503);
        let seconds: u64 = header(&refused.headers, "retry-after").parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        let answer = refused.json().await;
        assert_eq!(answer["code"], "queue_full", "{answer}");
        assert!(answer["error"].as_str().unwrap().contains('2'), "{answer}");
    }
    // The queues of the other services are separate.
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let mut flow = post_workflow(&stack, &workflow(&git.url("app"), &AgentScript::new()));
    flow = flow.patience(PATIENCE);
    let mut flow = flow.send().await;
    // The limit does not apply to the jobs that a running workflow starts.
    let event = flow.next_of_kind("queued").await;
    assert_eq!(
        (&event.json["service"], &event.json["position"]),
        (&json!("claude-code-api"), &json!(3))
    );
    marks.open("gate");
    waiting.push(flow);
    for response in waiting.iter_mut().chain([&mut running]) {
        let events = response.collect_all().await;
        assert!(terminal(&events)["code"].is_null(), "{}", terminal(&events));
    }
}

#[tokio::test]
async fn a_job_that_waits_too_long_ends() {
    let builder = Stack::builder().env("QUEUE_WAIT_SECONDS", "1");
    let (stack, marks, mut running) = busy(builder).await;
    let script = AgentScript::new().log_run(marks.path("runs"));
    let asked = Instant::now();
    let mut response = post_execute(&stack, &execute(&script)).send().await;
    let id = response.job_id();
    assert_eq!(queued(&mut response).await, 1);
    let events = response.collect_all().await;
    let waited = asked.elapsed();
    assert!(waited > Duration::from_millis(900), "{waited:?}");
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    let end = terminal(&events);
    assert_eq!((&end["type"], &end["code"]), (&json!("error"), &json!("queue_timeout")), "{end}");
    assert_eq!(job(&stack, &id).await["state"], "failed");
    marks.open("gate");
    assert_eq!(terminal(&running.collect_all().await)["type"], "completed");
    wait_for("an idle replica", PATIENCE, || async {
        let status = crate::support::get(&format!("{}/status", stack.claude_url())).await.1;
        (status["replicas"]["idle"] == 1).then_some(())
    })
    .await;
    assert!(!marks.exists("runs"));
}
