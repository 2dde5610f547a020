//! Cancelling jobs that are queued, running or finished.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{AgentScript, Fault, GitServer, Stack, wait_for};

use crate::support::{
    Marks, PATIENCE, all_jobs, cancel, execute, job, post_pull, post_workflow, registry, terminal,
    wait_for_state, workflow,
};

/// The longest that a running job may take to end after it was cancelled.
const END: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_queued_job_and_one_whose_agent_hides_its_children() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().start().await;
    let marks = Marks::new();
    // In sessions of their own, like the CLI's shell commands. The second one ignores everything but SIGKILL.
    let script = AgentScript::new()
        .spawn_in_new_session(&["sleep", "300"])
        .spawn_in_new_session(&["sh", "-c", "trap '' TERM INT HUP; sleep 300 & wait"])
        .touch(marks.path("began"))
        .hang();
    let mut running = post_workflow(&stack, &workflow(&git.url("app"), &script)).send().await;
    let running_id = running.job_id();
    marks.wait("began").await;

    let never = AgentScript::new().log_run(marks.path("runs"));
    let mut waiting = post_workflow(&stack, &workflow(&git.url("app"), &never)).send().await;
    let waiting_id = waiting.job_id();
    assert_eq!(waiting.next_event().await.unwrap().kind(), "queued");
    let asked = Instant::now();
    let answer = cancel(&stack, &waiting_id).await;
    assert_eq!(answer, (202, json!({"jobId": waiting_id, "state": "cancelled"})));
    let events = waiting.collect_all().await;
    let [end] = &*events else { panic!("{events:?}") };
    assert_eq!((end.kind(), &end.json["code"]), ("workflow_error", &json!("cancelled")));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    let ended = job(&stack, &waiting_id).await;
    assert_eq!((&ended["state"], &ended["code"]), (&json!("cancelled"), &json!("cancelled")));
    assert!(ended["started"].is_null() && ended["ended"].is_string(), "{ended}");

    // The shell may still be starting its command.
    wait_for("all processes of the agent", PATIENCE, || async {
        (stack.agents().len() >= 4).then_some(())
    })
    .await;
    let asked = Instant::now();
    let (status, answer) = cancel(&stack, &running_id).await;
    assert_eq!((status, &answer["jobId"]), (202, &json!(running_id)));
    assert!(["running", "cancelled"].contains(&answer["state"].as_str().unwrap()), "{answer}");
    let events = running.collect_all().await;
    let end = terminal(&events);
    assert!(asked.elapsed() < END, "{:?}", asked.elapsed());
    assert_eq!((&end["type"], &end["code"]), (&json!("workflow_error"), &json!("cancelled")));
    assert_eq!(end["step"], 2, "{end}");
    assert!(stack.agents().is_empty(), "agents left behind: {:#?}", stack.agents());

    // Newest first: the agent, its pull, their workflow, and a workflow that waited.
    let ends: Vec<_> = all_jobs(&stack)
        .await
        .iter()
        .map(|job| (job["service"].clone(), job["state"].clone()))
        .collect();
    let mut ends: Vec<_> = ends
        .iter()
        .map(|(service, state)| (service.as_str().unwrap(), state.as_str().unwrap()))
        .collect();
    ends.sort_unstable();
    let expected = [
        ("claude-code-api", "cancelled"),
        ("github-pull-api", "succeeded"),
        ("workflow-api", "cancelled"),
        ("workflow-api", "cancelled"),
    ];
    assert_eq!(ends, expected);
    for id in [&waiting_id, &running_id] {
        assert_eq!(cancel(&stack, id).await, (200, json!({"jobId": id, "state": "cancelled"})));
    }
    for id in ["019aa000-0000-7000-8000-000000000000", "x", ".."] {
        let (status, answer) = cancel(&stack, id).await;
        assert_eq!((status, &answer["code"]), (404, &json!("not_found")), "{id}: {answer}");
    }
    stack.wait_until_idle().await;
    assert!(!marks.exists("runs"));
    // The queued job did not consume a replica: the log contains only the first one and its replacement.
    let ready = || stack.log().matches("workflow-api replica=").count();
    wait_for("both in the log", PATIENCE, || async { (ready() >= 2).then_some(()) }).await;
    assert_eq!(ready(), 2, "{}", stack.log());
    assert_eq!(registry(&stack, "workflow-api").len(), 1);
}

/// A pull whose git host is silent ends just as quickly.
#[tokio::test]
async fn a_pull_in_the_middle_of_a_transfer() {
    let git = GitServer::start().await;
    git.create_big_repo("big", 20, 100_000);
    git.set_fault("big", Fault::StallAfter(500_000));
    let stack = Stack::builder().start().await;
    let script = AgentScript::new();
    let mut alone = post_pull(&stack, &json!({"repoUrl": git.url("big")})).send().await;
    alone.next_of_kind("connected").await;
    let mut flow = post_workflow(&stack, &workflow(&git.url("big"), &script)).send().await;
    flow.next_of_kind("workflow_started").await;
    for response in [&mut alone, &mut flow] {
        let asked = Instant::now();
        assert_eq!(cancel(&stack, &response.job_id()).await.0, 202);
        let events = response.collect_all().await;
        assert_eq!(terminal(&events)["code"], "cancelled");
        assert!(asked.elapsed() < END, "{:?}", asked.elapsed());
    }
    let jobs = all_jobs(&stack).await;
    assert!(jobs.len() >= 2, "{jobs:#?}");
    assert!(jobs.iter().all(|job| job["state"] == "cancelled"), "{jobs:#?}");
    assert!(!stack.workspace().join("big").exists(), "half a checkout was left");
    git.clear_fault("big");
    stack.wait_until_idle().await;
    let again = post_workflow(&stack, &workflow(&git.url("big"), &script)).send().await;
    let events = { again }.collect_all().await;
    assert_eq!(terminal(&events)["type"], "workflow_complete", "{}", terminal(&events));
}

/// `X-On-Disconnect: cancel`: the job ends with its caller.
#[tokio::test]
async fn a_job_ends_with_its_caller_only_if_the_caller_asked_for_that() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().replicas(2, 1, 2).start().await;
    let marks = Marks::new();
    let script =
        |name: &str| AgentScript::new().touch(marks.path(name)).wait_file(marks.path("gate"));
    let mut left = Vec::new();
    for (wish, state) in [("cancel", "cancelled"), ("continue", "succeeded")] {
        let body = workflow(&git.url("app"), &script(wish));
        let request = post_workflow(&stack, &body).header("x-on-disconnect", wish);
        let response = request.send().await;
        marks.wait(wish).await;
        left.push((response.job_id(), state));
        // This closes its connection.
        drop(response);
    }
    wait_for_state(&stack, &left[0].0, "cancelled").await;
    assert!(!marks.exists("gate"));
    marks.open("gate");
    for (id, state) in left {
        wait_for_state(&stack, &id, state).await;
    }
    let (status, error) = {
        let url = format!("{}/api/workflow", stack.workflow_url());
        let body = workflow(&git.url("app"), &AgentScript::new()).to_string();
        let headers = [("content-type", "application/json"), ("x-on-disconnect", "maybe")];
        let (status, _, error) =
            testkit::http_json("POST", &url, Some(body.into()), &headers).await;
        (status.as_u16(), error)
    };
    assert_eq!((status, &error["code"]), (400, &json!("invalid_field")));
}

/// The header counts as soon as the request has been read, not only after the answer.
#[tokio::test]
async fn a_caller_that_disconnects_before_the_answer_cancels_its_job_too() {
    use tokio::io::AsyncWriteExt as _;
    let stack = Stack::builder().replicas(1, 1, 4).start().await;
    let marks = Marks::new();
    let body = execute(&AgentScript::new().wait_file(marks.path("gate"))).to_string();
    let head =
        "POST /api/execute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let request =
        format!("{head}x-on-disconnect: cancel\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let address = stack.claude_url().replace("http://", "");
    let mut jobs = Vec::new();
    for n in 0.. {
        // On a busy machine the first callers may all leave before their request is read.
        if n >= 12 {
            jobs = all_jobs(&stack).await;
            if !jobs.is_empty() {
                break;
            }
        }
        assert!(n < 1_000, "no request was ever read");
        let mut caller = tokio::net::TcpStream::connect(&address).await.unwrap();
        caller.write_all(request.as_bytes()).await.unwrap();
        // This does not wait for anything: each caller disconnects at another moment.
        tokio::time::sleep(std::time::Duration::from_micros(n * 300)).await;
    }
    for job in jobs {
        wait_for_state(&stack, job["jobId"].as_str().unwrap(), "cancelled").await;
    }
}
