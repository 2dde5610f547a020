//! `stackctl up`: how it starts and stops, and that it leaves nothing behind.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;
use testkit::{
    AgentScript, Fault, GitServer, RunningCommand, SseResponse, Stack, descendants,
    processes_of_directory, target_binary, wait_for,
};
use tokio::process::Command;
use workspace::Workspace;

use crate::support::{
    Marks, PATIENCE, all_jobs, execute, post_execute, post_pull, post_workflow, registry,
    send_signal, terminal, wait_until_gone, workflow,
};

/// A stack with a workflow whose agent waits for `gate`, with a child in a session of its own.
async fn running(git: &GitServer, marks: &Marks, stack: &Stack) -> SseResponse {
    git.create_repo("app", &[("a", "a")]);
    let script = AgentScript::new()
        .spawn_in_new_session(&["sleep", "300"])
        .touch(marks.path("began"))
        .wait_file(marks.path("gate"));
    let request = post_workflow(stack, &workflow(&git.url("app"), &script)).allow_cut();
    let response = request.send().await;
    marks.wait("began").await;
    response
}

/// Everything that runs: a gateway, three replicas, an agent and its child.
async fn pids(stack: &Stack) -> Vec<u32> {
    // The replica that pulled has exited, and its replacement is starting.
    wait_for("all processes of the stack", PATIENCE, || async {
        let pids: Vec<_> = stack.descendants().into_iter().map(|process| process.pid).collect();
        (pids.len() >= 6).then_some(pids)
    })
    .await
}

#[tokio::test]
async fn the_first_ctrl_c_lets_jobs_finish() {
    let git = GitServer::start().await;
    let marks = Marks::new();
    let mut stack = Stack::builder().start().await;
    let mut response = running(&git, &marks, &stack).await;
    let pids = pids(&stack).await;
    stack.signal(Signal::SIGINT);
    wait_for("the message about it", PATIENCE, || async {
        stack.log().contains("letting running jobs finish").then_some(())
    })
    .await;
    // New jobs are refused.
    wait_for("the gateway to take no more jobs", PATIENCE, || async {
        let body = workflow(&git.url("app"), &AgentScript::new());
        let response = post_workflow(&stack, &body).allow_cut().send().await;
        if response.status == 200 {
            // The gateway does not know yet. The job leaves the queue when its caller disconnects.
            return None;
        }
        assert_eq!(response.status, 503);
        assert!(response.headers.contains_key("retry-after"));
        let answer = response.json().await;
        assert_eq!(answer["code"], "terminated", "{answer}");
        Some(())
    })
    .await;
    marks.open("gate");
    let events = response.collect_all().await;
    assert!(!response.ended_without_terminal(), "the stream was cut");
    assert_eq!(terminal(&events)["type"], "workflow_complete", "{}", terminal(&events));
    assert_eq!(stack.ended().await, 0, "{}", stack.log());
    wait_until_gone(&pids, Duration::from_secs(1)).await;
}

/// Replicas that are just starting are stopped too.
#[tokio::test]
async fn ctrl_c_while_replicas_are_starting() {
    for round in 0..16 {
        let mut stack = Stack::builder().replicas(1, 1, 4).start().await;
        let mut responses = Vec::new();
        for _ in 0..4 {
            responses.push(post_execute(&stack, &execute(&AgentScript::new())).send().await);
        }
        for mut response in responses {
            assert_eq!(terminal(&response.collect_all().await)["type"], "completed");
        }
        // This does not wait for anything. Replacements start now, and each round interrupts them at another moment.
        tokio::time::sleep(Duration::from_millis(3 * round)).await;
        stack.signal(Signal::SIGINT);
        assert_eq!(stack.ended().await, 0, "{}", stack.log());
    }
}

/// The grace period, an hour here, is for jobs. A part without one that does not react is killed; a job may finish.
#[tokio::test]
async fn a_part_without_a_job_that_does_not_react_is_killed() {
    let marks = Marks::new();
    let mut stack = Stack::builder().replicas(1, 1, 2).start().await;
    let script = AgentScript::new().touch(marks.path("began")).wait_file(marks.path("gate"));
    let mut response = post_execute(&stack, &execute(&script)).allow_cut().send().await;
    response.next_of_kind("connected").await;
    marks.wait("began").await;
    let idle = registry(&stack, "claude-code-api");
    let idle = idle.values().map(|entry| u32::try_from(entry["pid"].as_u64().unwrap()).unwrap());
    let stuck: Vec<u32> = idle.chain(stack.processes_of("gateway")).collect();
    assert_eq!(stuck.len(), 2, "{stuck:?}");
    for pid in stuck {
        send_signal(pid, Signal::SIGSTOP);
    }
    stack.signal(Signal::SIGINT);
    let killed = || stack.log().matches("has no job and did not exit").count();
    wait_for("the idle replica to be killed", PATIENCE, || async { (killed() == 1).then_some(()) })
        .await;
    marks.open("gate");
    assert_eq!(stack.ended().await, 0, "{}", stack.log());
    assert_eq!(stack.log().matches("has no job and did not exit").count(), 2, "{}", stack.log());
    let job = format!(".stack/jobs/{}/outcome", response.job_id());
    let outcome = fs::read_to_string(stack.workspace().join(job)).unwrap();
    assert!(outcome.contains("completed"), "{outcome}");
}

/// A workflow's deadline is suspended while its job waits, here for an agent replica that does not exist.
#[tokio::test]
async fn the_first_ctrl_c_ends_within_the_grace_period_although_a_job_waits() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let mut stack =
        Stack::builder().replicas(1, 1, 0).env("JOB_TIMEOUT_SECONDS", "3").start().await;
    let body = workflow(&git.url("app"), &AgentScript::new());
    let mut response = post_workflow(&stack, &body).send().await;
    response.next_of_kind("queued").await;
    let told = Instant::now();
    stack.signal(Signal::SIGINT);
    let events = response.collect_all().await;
    let end = terminal(&events);
    assert_eq!((&end["type"], &end["code"]), (&json!("workflow_error"), &json!("terminated")));
    assert_eq!(stack.ended().await, 0, "{}", stack.log());
    let took = told.elapsed();
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(12), "{took:?}");
    assert!(stack.log().contains("for at most 3 s"), "{}", stack.log());
}

/// By default, `up` lets jobs finish for an hour. A queued job does not take that long.
#[tokio::test]
async fn the_first_ctrl_c_ends_when_the_wait_of_a_queued_job_ends() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let mut stack = Stack::builder().replicas(1, 1, 0).env("QUEUE_WAIT_SECONDS", "3").start().await;
    let body = workflow(&git.url("app"), &AgentScript::new());
    let mut response = post_workflow(&stack, &body).send().await;
    response.next_of_kind("queued").await;
    let told = Instant::now();
    stack.signal(Signal::SIGINT);
    let events = response.collect_all().await;
    assert_eq!(terminal(&events)["code"], "queue_timeout", "{}", terminal(&events));
    assert_eq!(stack.ended().await, 0, "{}", stack.log());
    assert!(told.elapsed() < Duration::from_secs(15), "{:?}", told.elapsed());
}

#[tokio::test]
async fn the_second_ctrl_c_kills_everything() {
    let git = GitServer::start().await;
    let marks = Marks::new();
    let mut stack = Stack::builder().start().await;
    let mut response = running(&git, &marks, &stack).await;
    let pids = pids(&stack).await;
    stack.signal(Signal::SIGINT);
    wait_for("the message about it", PATIENCE, || async {
        stack.log().contains("Ctrl-C again to kill").then_some(())
    })
    .await;
    let told = Instant::now();
    stack.signal(Signal::SIGINT);
    stack.ended().await;
    assert!(told.elapsed() < Duration::from_secs(8), "it took {:?}", told.elapsed());
    wait_until_gone(&pids, Duration::from_secs(1)).await;
    response.collect_all().await;
}

#[tokio::test]
async fn when_it_is_killed_everything_exits_and_the_next_one_ends_the_lost_jobs() {
    let git = GitServer::start().await;
    let marks = Marks::new();
    let workspace = TempDir::new().unwrap();
    let mut stack = Stack::builder().workspace(workspace.path()).start().await;
    let mut response = running(&git, &marks, &stack).await;
    let pids = pids(&stack).await;
    stack.signal(Signal::SIGKILL);
    wait_until_gone(&pids, Duration::from_secs(10)).await;
    let left = processes_of_directory(&workspace.path().canonicalize().unwrap());
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(stack.ended().await, 137);
    response.collect_all().await;
    let id = response.job_id();

    let next = Stack::builder().workspace(workspace.path()).start().await;
    let jobs = all_jobs(&next).await;
    assert_eq!(jobs.len(), 3, "{jobs:#?}");
    for job in &jobs {
        let code = job["code"].as_str();
        let ended = match job["service"].as_str().unwrap() {
            "github-pull-api" => job["state"] == "succeeded",
            // The replica may have had time to end the job itself.
            "workflow-api" | "claude-code-api" => {
                ["failed", "cancelled"].contains(&job["state"].as_str().unwrap())
                    && ["replica_lost", "terminated", "cancelled"].contains(&code.unwrap())
            }
            other => panic!("a job of {other}: {job}"),
        };
        assert!(ended, "{job}");
    }
    assert!(jobs.iter().any(|job| job["jobId"] == *id && job["state"] == "failed"), "{jobs:#?}");
    // The next stack works with the existing checkouts and mirrors.
    let body = workflow(&git.url("app"), &AgentScript::new());
    let events = { post_workflow(&next, &body).send().await }.collect_all().await;
    assert_eq!(terminal(&events)["type"], "workflow_complete", "{}", terminal(&events));
    next.wait_until_idle().await;
    assert_eq!(next.stop().await, 0);
}

/// The pull is queued in a gateway that dies, so the workflow would wait forever.
#[tokio::test]
async fn when_it_is_killed_a_workflow_with_a_queued_pull_ends_too() {
    let git = GitServer::start().await;
    for name in ["app", "stalled"] {
        git.create_repo(name, &[("a", "a")]);
    }
    git.set_fault("stalled", Fault::Stall);
    let workspace = TempDir::new().unwrap();
    let stack = Stack::builder().workspace(workspace.path()).start().await;
    let mut pull =
        post_pull(&stack, &json!({"repoUrl": git.url("stalled")})).allow_cut().send().await;
    pull.next_of_kind("connected").await;
    let body = workflow(&git.url("app"), &AgentScript::new());
    let mut response = post_workflow(&stack, &body).allow_cut().send().await;
    let queued = response.next_of_kind("pull_progress").await;
    assert_eq!(queued.json["data"]["type"], "queued", "{}", queued.json);
    let pids: Vec<_> = stack.descendants().iter().map(|process| process.pid).collect();
    stack.signal(Signal::SIGKILL);
    wait_until_gone(&pids, Duration::from_secs(5)).await;
    drop(stack);
    let next = Stack::builder().workspace(workspace.path()).start().await;
    let jobs = all_jobs(&next).await;
    assert_eq!(jobs.len(), 3, "{jobs:#?}");
    assert!(jobs.iter().all(|job| job["ended"].is_string()), "{jobs:#?}");
}

#[tokio::test]
async fn a_replica_that_is_killed_while_idle_is_replaced() {
    let stack = Stack::builder().replicas(1, 1, 2).start().await;
    for service in ["workflow-api", "github-pull-api", "claude-code-api"] {
        let before = registry(&stack, service);
        let (id, entry) = before.first_key_value().unwrap();
        let pid = u32::try_from(entry["pid"].as_u64().unwrap()).unwrap();
        assert!(descendants(stack.pid()).iter().any(|process| process.pid == pid));
        send_signal(pid, Signal::SIGKILL);
        wait_for("another replica in its place", PATIENCE, || async {
            let now = registry(&stack, service);
            (now.len() == before.len() && !now.contains_key(id)).then_some(())
        })
        .await;
    }
    stack.wait_until_idle().await;
    // Callers do not notice.
    let events = post_execute(&stack, &execute(&AgentScript::new())).send().await;
    assert_eq!(terminal(&{ events }.collect_all().await)["type"], "completed");
}

/// A job that arrives just after an idle replica was killed goes to another one.
#[tokio::test]
async fn callers_do_not_notice_idle_replicas_that_die() {
    let stack = Stack::builder().replicas(1, 1, 2).start().await;
    for _ in 0..5 {
        stack.wait_until_idle().await;
        let entries = registry(&stack, "claude-code-api");
        let pid = entries.values().next().unwrap()["pid"].as_u64().unwrap();
        send_signal(u32::try_from(pid).unwrap(), Signal::SIGKILL);
        let mut response = post_execute(&stack, &execute(&AgentScript::new())).send().await;
        assert_eq!(response.status, 200);
        assert_eq!(terminal(&response.collect_all().await)["type"], "completed");
    }
    assert!(stack.agents().is_empty(), "{:#?}", stack.agents());
}

#[tokio::test]
async fn a_missing_cli() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().env("CLAUDE_BIN", "/nowhere/claude").start().await;
    let warned = stack.log();
    let mut warnings = warned.lines().filter(|line| line.contains("WARN"));
    let is_about_it = |line: &str| line.contains("/nowhere/claude") && line.contains("CLAUDE_BIN");
    assert!(warnings.any(is_about_it), "{warned}");
    let body = workflow(&git.url("app"), &AgentScript::new());
    let events = { post_workflow(&stack, &body).send().await }.collect_all().await;
    let end = terminal(&events);
    assert_eq!((&end["code"], &end["step"]), (&json!("agent_not_found"), &json!(2)), "{end}");
    let error = end["error"].as_str().unwrap();
    assert!(error.contains("CLAUDE_BIN") && error.contains("install"), "{error}");
    stack.wait_until_idle().await;
}

/// With another secret, everything on the volume would be taken for forged.
#[tokio::test]
async fn a_stack_with_another_secret_does_not_start() {
    let dir = TempDir::new().unwrap();
    let (root, other) = (dir.path().join("w"), dir.path().join("other"));
    let workspace = Workspace::open(&root).unwrap();
    fs::write(&other, "8".repeat(64)).unwrap();
    let run = async |arguments: &[&str], secret: Option<&Path>| {
        let mut command = Command::new(target_binary("stackctl"));
        command.args(arguments).arg("--workspace").arg(&root).env_remove("STACK_SECRET_FILE");
        if let Some(secret) = secret {
            command.env("STACK_SECRET_FILE", secret);
        }
        RunningCommand::start(command).finish().await
    };
    // Whoever only looks does not decide which secret it is.
    for look in [&["gc", "--dry-run"][..], &["token", "list"], &["adopt"]] {
        run(look, Some(&other)).await;
        assert!(!root.join(".stack/signed").exists(), "{look:?}");
    }
    workspace.sign_with(Some(&workspace.stack_secret_file())).unwrap();
    let refused = run(&["up"], Some(&other)).await;
    assert_eq!(refused.code, 69, "{refused:?}");
    assert!(refused.stderr.contains("it signs with another secret"), "{refused:?}");
    assert_eq!(run(&["gc", "--dry-run"], Some(&other)).await.code, 1);
    assert_eq!(run(&["gc", "--dry-run"], None).await.code, 0);
}
