//! A replica dies in the middle of its job: the job ends soon, and only once.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use testkit::{AgentScript, Fault, GitServer, SseEvent, SseResponse, Stack, wait_for};

use crate::support::{
    Marks, PATIENCE, all_jobs, execute, post_execute, post_pull, post_workflow, process_of,
    send_signal, terminal, wait_for_state, workflow,
};

/// How soon a caller is told that its job is lost.
const SOON: Duration = Duration::from_secs(5);

/// Kills the only process of a part, and reads the rest of a stream that must end soon after.
async fn kill_and_read(stack: &Stack, part: &str, response: &mut SseResponse) -> Vec<SseEvent> {
    let killed = Instant::now();
    send_signal(process_of(stack, part), Signal::SIGKILL);
    let events = response.collect_all().await;
    assert!(killed.elapsed() < SOON, "the end came after {:?}", killed.elapsed());
    events
}

/// An agent with a child in a session of its own. It waits for `gate`, which is never opened.
fn endless(marks: &Marks) -> AgentScript {
    AgentScript::new()
        .spawn_in_new_session(&["sleep", "300"])
        .touch(marks.path("began"))
        .wait_file(marks.path("gate"))
}

async fn wait_until_no_agent_is_left(stack: &Stack) {
    wait_for("the end of the agent's processes", PATIENCE, || async {
        stack.agents().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_workflow() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().start().await;
    let marks = Marks::new();
    let body = workflow(&git.url("app"), &endless(&marks));
    let mut response = post_workflow(&stack, &body).send().await;
    marks.wait("began").await;
    let events = kill_and_read(&stack, "workflow-api", &mut response).await;
    let end = terminal(&events);
    assert_eq!((&end["type"], &end["code"]), (&json!("workflow_error"), &json!("replica_lost")));
    assert_eq!(end["workflowId"], *response.job_id());

    // Its agent is cancelled, and all of the agent's processes exit.
    let jobs = all_jobs(&stack).await;
    let agent = jobs.iter().find(|job| job["service"] == "claude-code-api").unwrap();
    let agent = wait_for_state(&stack, agent["jobId"].as_str().unwrap(), "cancelled").await;
    assert_eq!(
        (&agent["parent"], &agent["code"]),
        (&json!(response.job_id()), &json!("cancelled"))
    );
    wait_until_no_agent_is_left(&stack).await;
    stack.wait_until_idle().await;
}

#[tokio::test]
async fn an_agent() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().start().await;
    let marks = Marks::new();
    let body = workflow(&git.url("app"), &endless(&marks));
    let mut response = post_workflow(&stack, &body).send().await;
    marks.wait("began").await;
    let events = kill_and_read(&stack, "claude-code-api", &mut response).await;
    let end = terminal(&events);
    assert_eq!((&end["type"], &end["code"]), (&json!("workflow_error"), &json!("replica_lost")));
    assert_eq!(end["step"], 2);
    // The job never runs a second time, because nobody knows how far it got.
    wait_until_no_agent_is_left(&stack).await;
    stack.wait_until_idle().await;
    let jobs = all_jobs(&stack).await;
    let runs: Vec<_> = jobs.iter().filter(|job| job["service"] == "claude-code-api").collect();
    assert_eq!(runs.len(), 1, "{runs:#?}");
    assert_eq!(runs[0]["code"], "replica_lost");

    // The same without a workflow.
    let marks = Marks::new();
    let mut response = post_execute(&stack, &execute(&endless(&marks))).send().await;
    marks.wait("began").await;
    let events = kill_and_read(&stack, "claude-code-api", &mut response).await;
    assert_eq!(terminal(&events)["code"], "replica_lost");
    wait_until_no_agent_is_left(&stack).await;
    stack.wait_until_idle().await;
}

#[tokio::test]
async fn a_pull() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().start().await;
    git.set_fault("app", Fault::Stall);
    let mut alone = post_pull(&stack, &json!({"repoUrl": git.url("app")})).send().await;
    stalled(&git, 0).await;
    let events = kill_and_read(&stack, "github-pull-api", &mut alone).await;
    let end = terminal(&events);
    assert_eq!((&end["type"], &end["code"]), (&json!("error"), &json!("replica_lost")));
    stack.wait_until_idle().await;

    // A workflow retries its pull once: pulling a second time does no harm.
    let before = git.requests("app");
    let body = workflow(&git.url("app"), &AgentScript::new());
    let mut flow = post_workflow(&stack, &body).send().await;
    stalled(&git, before).await;
    git.clear_fault("app");
    send_signal(process_of(&stack, "github-pull-api"), Signal::SIGKILL);
    let events = flow.collect_all().await;
    assert_eq!(terminal(&events)["type"], "workflow_complete", "{}", terminal(&events));
    assert_eq!(pulls(&events), ["connected", "error", "connected", "completed"]);
    stack.wait_until_idle().await;

    // Once, and not forever.
    git.set_fault("app", Fault::Stall);
    let mut requests = git.requests("app");
    let mut flow = post_workflow(&stack, &body).send().await;
    let mut killed = Vec::new();
    for _ in 0..2 {
        stalled(&git, requests).await;
        requests = git.requests("app");
        let pid = wait_for("a pull that is stalled", PATIENCE, || async {
            let pid = *stack.processes_of("github-pull-api").first()?;
            (!killed.contains(&pid)).then_some(pid)
        })
        .await;
        killed.push(pid);
        send_signal(pid, Signal::SIGKILL);
    }
    let events = flow.collect_all().await;
    let end = terminal(&events);
    assert_eq!((&end["code"], &end["step"]), (&json!("replica_lost"), &json!(1)), "{end}");
    assert_eq!(pulls(&events), ["connected", "error", "connected", "error"]);
}

/// Waits until one more request is stalled at the git server.
async fn stalled(git: &GitServer, before: usize) {
    wait_for("a request to the git server", PATIENCE, || async {
        (git.requests("app") > before).then_some(())
    })
    .await;
}

/// The start and terminal events of a workflow's pulls.
fn pulls(events: &[SseEvent]) -> Vec<&str> {
    let pulls = events.iter().filter(|event| event.kind() == "pull_progress");
    let kinds = pulls.filter_map(|event| event.json["data"]["type"].as_str());
    kinds.filter(|kind| !["message", "progress", "queued"].contains(kind)).collect()
}
