//! Limits of a job: its deadline, the silence timeout, slow callers, and repeated requests.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use testkit::{AgentScript, GitServer, Stack, http_json};

use crate::support::{
    Marks, execute, job, post_execute, post_workflow, process_of, terminal, wait_for_state,
    without_waits, workflow,
};

/// What is passed on is a little longer than what the caller sent: defaults are written out, and escapes in URLs.
#[tokio::test]
async fn a_request_of_the_longest_body_is_passed_on() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().start().await;
    let mut body = workflow(&git.url("app"), &AgentScript::new());
    let prompt = body["prompt"].as_str().unwrap().to_owned();
    let room = web::BODY_LIMIT - body.to_string().len();
    body["prompt"] = format!("{}{prompt}", "x".repeat(room)).into();
    assert_eq!(body.to_string().len(), web::BODY_LIMIT);
    let events = { post_workflow(&stack, &body).send().await }.collect_all().await;
    assert_eq!(terminal(&events)["type"], "workflow_complete", "{}", terminal(&events));
}

#[tokio::test]
async fn a_job_past_its_deadline_and_a_silent_one_are_ended() {
    let stack = Stack::builder().env("SILENCE_TIMEOUT_SECONDS", "2").start().await;
    let quiet = AgentScript::new().spawn_in_new_session(&["sleep", "300"]).hang();
    let mut talking = AgentScript::new();
    for _ in 0..200 {
        talking = talking.say("still here").sleep_ms(200);
    }
    let with_deadline = |script: &AgentScript| {
        let mut body = execute(script);
        body["timeoutSeconds"] = 1.into();
        body
    };
    for (body, code) in [
        (execute(&quiet), "silence"),
        (with_deadline(&quiet), "deadline"),
        (with_deadline(&talking), "deadline"),
    ] {
        let mut response = post_execute(&stack, &body).send().await;
        let events = response.collect_all().await;
        let end = terminal(&events);
        assert_eq!((&end["type"], &end["code"]), (&json!("error"), &json!(code)), "{end}");
        assert!(stack.agents().is_empty(), "{code}: these are left: {:#?}", stack.agents());
    }
    stack.wait_until_idle().await;
}

/// The deadline of a workflow covers the time it works, not the time it waits for a replica.
#[tokio::test]
async fn waiting_does_not_count_towards_the_deadline() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().start().await;
    let marks = Marks::new();
    let holding = AgentScript::new().wait_file(marks.path("gate"));
    let mut running = post_execute(&stack, &execute(&holding)).send().await;
    running.next_of_kind("connected").await;
    let mut body = workflow(&git.url("app"), &AgentScript::new());
    body["timeoutSeconds"] = 3.into();
    let mut waiting = post_workflow(&stack, &body).send().await;
    waiting.next_of_kind("queued").await;
    // Longer than its deadline: that is the point of this test.
    tokio::time::sleep(Duration::from_secs(4)).await;
    marks.open("gate");
    let events = waiting.collect_all().await;
    assert_eq!(terminal(&events)["type"], "workflow_complete", "{}", terminal(&events));
}

/// A caller that does not read holds up neither the agent nor the replica, and uses no memory.
#[tokio::test]
async fn a_caller_that_does_not_read_holds_nothing_up() {
    const LINES: usize = 3000;
    const BYTES: usize = 20_000;
    let stack = Stack::builder().start().await;
    let gateway = process_of(&stack, "gateway");
    let script = AgentScript::new().flood(LINES, BYTES);
    let mut response = post_execute(&stack, &execute(&script)).send().await;
    wait_for_state(&stack, &response.job_id(), "succeeded").await;
    stack.wait_until_idle().await;
    let memory = resident(gateway);
    assert!(memory < 60_000, "the gateway holds {memory} kB of {} kB", LINES * BYTES / 1000);
    let events = without_waits(response.collect_all().await);
    let said = events.iter().filter(|event| event.json["content"]["type"] == "assistant");
    assert_eq!(said.count(), LINES);
    let memory = resident(gateway);
    assert!(memory < 60_000, "the gateway holds {memory} kB of {} kB", LINES * BYTES / 1000);
}

/// The memory of a process, in kB.
fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A caller that has received no answer repeats its request, and there is still one job.
#[tokio::test]
async fn the_same_request_twice_is_one_job() {
    let stack = Stack::builder().replicas(1, 1, 2).start().await;
    let marks = Marks::new();
    let script = AgentScript::new().log_run(marks.path("runs")).wait_file(marks.path("gate"));
    let id = uuid::Uuid::now_v7().to_string();
    let ask = || post_execute(&stack, &execute(&script)).header("x-job-id", &id);
    let mut first = ask().send().await;
    let mut second = ask().send().await;
    assert_eq!((first.job_id(), second.job_id()), (id.clone(), id.clone()));
    assert_eq!(job(&stack, &id).await["jobId"], *id);

    let other = execute(&AgentScript::new().log_run(marks.path("runs")));
    let url = format!("{}/api/execute", stack.claude_url());
    let other = Some(other.to_string().into());
    let (status, _, answer) = http_json("POST", &url, other, &[("x-job-id", &id)]).await;
    assert_eq!((status.as_u16(), &answer["code"]), (409, &json!("claimed")), "{answer}");
    let body = || Some(execute(&script).to_string().into());
    for nonsense in ["x", "../../x", "00000000-0000-0000-0000-000000000000"] {
        let (status, _, answer) = http_json("POST", &url, body(), &[("x-job-id", nonsense)]).await;
        assert_eq!((status.as_u16(), &answer["code"]), (400, &json!("invalid_field")), "{answer}");
    }

    marks.open("gate");
    let (first, second) = (first.collect_all().await, second.collect_all().await);
    let json = |events| without_waits(events).into_iter().map(|it| it.json).collect::<Vec<Value>>();
    assert_eq!(json(first), json(second));
    // And a third time, after the job has ended.
    let third = { ask().send().await }.collect_all().await;
    assert_eq!(terminal(&third)["type"], "completed");
    assert_eq!(marks.lines("runs").len(), 1);
}
