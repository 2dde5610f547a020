//! How long the jobs of a workflow may wait in the queue: each as long as any other job, whichever part dies meanwhile.

use std::time::{Duration, Instant};

use contract::{Service, Timestamp};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{AgentScript, GitServer, SseResponse, Stack, StackBuilder, wait_for};

use crate::support::{
    PATIENCE, all_jobs, post_pull, post_workflow, process_of, send_signal, terminal,
    wait_for_state, workflow,
};

/// A stack without agents, and a workflow in the checkout `shared` that waits for one.
async fn waiting(git: &GitServer, builder: StackBuilder) -> (Stack, SseResponse) {
    git.create_repo("app", &[("a", "a")]);
    let stack = builder.replicas(1, 1, 0).start().await;
    let mut body = workflow(&git.url("app"), &AgentScript::new());
    body["directory"] = "shared".into();
    let mut response = post_workflow(&stack, &body).allow_cut().send().await;
    let queued = response.next_of_kind("queued").await;
    assert_eq!(queued.json["service"], "claude-code-api");
    (stack, response)
}

/// How long a job took from its creation to its end.
fn lasted(job: &Value) -> Duration {
    let at = |field: &str| {
        let at: Timestamp = serde_json::from_value(job[field].clone()).unwrap();
        at.as_millisecond()
    };
    Duration::from_millis(u64::try_from(at("ended") - at("created")).unwrap())
}

async fn agent_job(stack: &Stack) -> Value {
    let jobs = all_jobs(stack).await;
    jobs.into_iter().find(|job| job["service"] == "claude-code-api").unwrap()
}

#[tokio::test]
async fn a_workflow_whose_agent_never_comes_ends_and_frees_its_checkout() {
    let git = GitServer::start().await;
    let (stack, mut response) =
        waiting(&git, Stack::builder().env("QUEUE_WAIT_SECONDS", "3")).await;
    let events = response.collect_all().await;
    let end = terminal(&events);
    assert_eq!(
        (&end["type"], &end["code"], &end["step"]),
        (&json!("workflow_error"), &json!("queue_timeout"), &json!(2)),
        "{end}"
    );
    let error = end["error"].as_str().unwrap();
    assert!(error.contains("claude-code-api") && error.contains("more replicas"), "{error}");
    let job = agent_job(&stack).await;
    assert_eq!((&job["state"], &job["code"]), (&json!("failed"), &json!("queue_timeout")));
    assert!((3..8).contains(&lasted(&job).as_secs()), "{job}");
    assert!(all_jobs(&stack).await.iter().all(|job| job["ended"].is_string()));

    let pull = json!({"repoUrl": git.url("app"), "directory": "shared"});
    let events = post_pull(&stack, &pull).send().await.collect_all().await;
    assert_eq!(terminal(&events)["type"], "completed", "the checkout is free");
}

#[tokio::test]
async fn a_restarted_gateway_counts_the_wait_from_the_start() {
    let git = GitServer::start().await;
    let (stack, response) = waiting(&git, Stack::builder().env("QUEUE_WAIT_SECONDS", "8")).await;
    // Half of its wait is over when the gateway dies.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let gateway = process_of(&stack, "gateway");
    send_signal(gateway, Signal::SIGKILL);
    wait_for("the next gateway", PATIENCE, || async {
        let next = stack.processes_of("gateway").into_iter().find(|pid| *pid != gateway)?;
        let port = stack.ports()[Service::Workflow];
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(|_| next)
    })
    .await;
    let flow = wait_for_state(&stack, &response.job_id(), "failed").await;
    assert_eq!(flow["code"], "queue_timeout", "{flow}");
    let job = agent_job(&stack).await;
    assert_eq!(job["code"], "queue_timeout", "{job}");
    assert!((8..11).contains(&lasted(&job).as_secs()), "{job}");
}

#[tokio::test]
async fn a_workflow_ends_a_wait_itself_if_no_gateway_is_left() {
    let git = GitServer::start().await;
    let (stack, mut response) =
        waiting(&git, Stack::builder().env("QUEUE_WAIT_SECONDS", "2")).await;
    // The gateway dies, and nobody starts another one.
    send_signal(stack.pid(), Signal::SIGSTOP);
    send_signal(process_of(&stack, "gateway"), Signal::SIGKILL);
    response.collect_all().await;
    let job = workspace_job(&stack, &response.job_id());
    let since = Instant::now();
    wait_for("the end of the workflow", Duration::from_secs(30), || async {
        job.join("outcome").exists().then_some(())
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    let outcome = std::fs::read(job.join("outcome")).unwrap();
    let outcome: Value = serde_json::from_slice(&outcome).unwrap();
    assert_eq!(outcome["code"], "queue_timeout", "{outcome}");
    for child in std::fs::read_dir(job.join("children")).unwrap() {
        let id = child.unwrap().file_name().into_string().unwrap();
        assert!(workspace_job(&stack, &id).join("outcome").exists(), "job {id} is still queued");
    }
    send_signal(stack.pid(), Signal::SIGCONT);
}

fn workspace_job(stack: &Stack, id: &str) -> std::path::PathBuf {
    stack.workspace().join(".stack/jobs").join(id)
}
