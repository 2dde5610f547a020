//! `ps`, `scale` and `logs` with a stack that `up` runs.

use std::process::Stdio;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testkit::{AgentScript, GitServer, PATIENCE, Stack, is_alive, wait_for};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
};

use crate::support::{ran, stackctl};

/// An engine address that does not exist, because no command may ask an engine about this machine's
/// stack.
const NO_ENGINE: &str = "unix:///nonexistent/docker.sock";

fn workspace(stack: &Stack) -> String {
    stack.workspace().to_str().unwrap().to_owned()
}

fn row<'a>(ps: &'a Value, service: &str) -> &'a Value {
    let rows = ps["services"].as_array().unwrap();
    rows.iter().find(|row| row["service"] == service).unwrap()
}

/// Starts a workflow whose agent waits until the file at `gate` exists.
fn begin(stack: &Stack, git: &GitServer, gate: &std::path::Path) -> Child {
    let script = AgentScript::new().say("began").wait_file(gate);
    let (url, repo, prompt) = (stack.workflow_url(), git.url("app"), script.prompt());
    let arguments = ["run", "--url", &url, "--repo", &repo, "--prompt", &prompt];
    let mut command = stackctl(NO_ENGINE, &arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[tokio::test]
async fn ps_shows_busy_replicas_and_failures() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("README.md", "hello\n")]);
    let stack = Stack::builder().replicas(2, 1, 1).start().await;
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate");
    let workspace = workspace(&stack);
    let ps = async || ran(NO_ENGINE, &["ps", "--workspace", &workspace, "--json"]).await.json();

    let mut runs =
        [begin(&stack, &git, &gate), begin(&stack, &git, &gate), begin(&stack, &git, &gate)];
    let shown = wait_for("both workflows to be busy, and one to wait", PATIENCE, || async {
        let shown = ps().await;
        let workflow = row(&shown, "workflow-api");
        let claude = row(&shown, "claude-code-api");
        let working = workflow["states"] == json!({"busy": 2}) && workflow["queued"] == 1;
        (working && claude["states"] == json!({"busy": 1}) && claude["queued"] == 1)
            .then_some(shown)
    })
    .await;
    let target = shown["target"].as_str().unwrap();
    assert!(target.contains(&workspace) && target.contains(&stack.pid().to_string()), "{target}");
    let replicas = shown["replicas"].as_array().unwrap();
    assert_eq!(replicas.len(), 5, "{shown}");
    for replica in replicas {
        // An idle pull replica may have exited between the two measurements.
        if replica["state"] == "busy" {
            assert!(replica["memoryBytes"].as_u64().unwrap() > 1_000_000, "{replica}");
            assert_eq!(replica["job"].as_str().unwrap().len(), 8, "{replica}");
        }
    }
    assert_eq!(row(&shown, "github-pull-api")["jobs"], json!({"count": 2, "exact": "exact"}));

    // A replica that dies with its job counts as a failure, and so does the job.
    let agent = stack.processes_of("claude-code-api")[0];
    kill(Pid::from_raw(agent.cast_signed()), Signal::SIGKILL).unwrap();
    let shown = wait_for("both failures", PATIENCE, || async {
        let shown = ps().await;
        (shown["failures"].as_array().unwrap().len() == 2).then_some(shown)
    })
    .await;
    let failures = shown["failures"].to_string();
    assert!(failures.contains("claude-code-api.1") && failures.contains("SIGKILL"), "{failures}");
    assert!(failures.contains("replica_lost"), "{failures}");
    assert_eq!(row(&shown, "workflow-api")["jobsFailed"]["count"], 1);

    let drawn = ran(NO_ENGINE, &["ps", "--local", "--workspace", &workspace]).await;
    assert_eq!(drawn.code, 0, "{drawn:?}");
    assert!(
        drawn.stdout.contains("LAST FAILURE OF") && !drawn.stdout.contains('\x1b'),
        "{drawn:?}"
    );
    std::fs::write(&gate, "").unwrap();
    for run in &mut runs {
        run.wait().await.unwrap();
    }
}

#[tokio::test]
async fn scaling_up_and_down_interrupts_no_job() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("README.md", "hello\n")]);
    let stack = Stack::builder().replicas(1, 1, 1).start().await;
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate");
    let workspace = workspace(&stack);
    let scale = async |more: &[&str]| {
        ran(NO_ENGINE, &[&["scale", "--workspace", &workspace], more].concat()).await
    };

    let more = scale(&["workflow=3", "claude=2"]).await;
    assert_eq!(more.code, 0, "{more:?}");
    assert!(more.stderr.contains("workflow-api: 1 -> 3"), "{more:?}");
    assert_eq!(stack.processes_of("workflow-api").len(), 3);
    assert_eq!(stack.processes_of("claude-code-api").len(), 2);

    // All three workflows are busy, two of them in the slots that will leave.
    let mut runs =
        [begin(&stack, &git, &gate), begin(&stack, &git, &gate), begin(&stack, &git, &gate)];
    wait_for("three busy workflows", PATIENCE, || async {
        let ps = ran(NO_ENGINE, &["ps", "--workspace", &workspace, "--json"]).await.json();
        (row(&ps, "workflow-api")["states"] == json!({"busy": 3})).then_some(())
    })
    .await;
    let late = scale(&["workflow=1", "--timeout", "1"]).await;
    assert_eq!(late.code, 1, "{late:?}");
    assert!(late.stderr.contains("2 still finishing a job"), "{late:?}");
    let before = stack.processes_of("workflow-api");
    assert_eq!(before.len(), 3, "busy replicas stay until their jobs are done");
    std::fs::write(&gate, "").unwrap();
    for run in &mut runs {
        assert_eq!(run.wait().await.unwrap().code(), Some(0));
    }
    let fewer = scale(&["workflow=1"]).await;
    assert_eq!(fewer.code, 0, "{fewer:?}");
    wait_for("one workflow replica", PATIENCE, || async {
        let there = stack.processes_of("workflow-api");
        (there.len() == 1 && before.iter().all(|pid| !is_alive(*pid))).then_some(())
    })
    .await;

    for (arguments, what) in [
        (&["gateway=2"][..], "has one gateway"),
        (&["workflow=2", "workflow-api=3"], "named twice"),
        (&["workflow=1001"], "0 to 1000"),
        (&[], "SERVICE=N"),
    ] {
        let wrong = scale(arguments).await;
        assert_eq!(wrong.code, 2, "{wrong:?}");
        assert!(wrong.stderr.contains(what), "{wrong:?}");
    }
    // It drains the same way as before the scaling.
    assert_eq!(stack.stop().await, 0);
}

#[tokio::test]
async fn logs_of_the_stack_of_one_service_and_of_a_job() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("README.md", "hello\n")]);
    let stack = Stack::builder().start().await;
    let directory = tempfile::tempdir().unwrap();
    let gate = directory.path().join("gate");
    std::fs::write(&gate, "").unwrap();
    let workspace = workspace(&stack);
    let logs = async |more: &[&str]| {
        let output = ran(NO_ENGINE, &[&["logs", "--workspace", &workspace], more].concat()).await;
        assert_eq!(output.code, 0, "{output:?}");
        output.stdout
    };

    let follow = ["logs", "--workspace", &workspace, "--follow", "--tail", "0", "claude"];
    let mut following = stackctl(NO_ENGINE, &follow).spawn().unwrap();
    let mut followed = BufReader::new(following.stdout.take().unwrap()).lines();
    // `--follow` does not show earlier lines. It shows a job that begins after it prints its first
    // line.
    let first = async {
        loop {
            begin(&stack, &git, &gate).wait().await.unwrap();
            if let Ok(line) =
                tokio::time::timeout(std::time::Duration::from_secs(2), followed.next_line()).await
            {
                return line.unwrap().unwrap();
            }
        }
    };
    let line = tokio::time::timeout(PATIENCE, first).await.unwrap();
    assert!(line.starts_with("claude-code-api.1 | "), "{line}");
    following.kill().await.unwrap();

    let all = logs(&[]).await;
    for part in ["gateway.1", "workflow-api.1", "github-pull-api.1", "claude-code-api.1"] {
        assert!(all.lines().any(|line| line.starts_with(part)), "{part}: {all}");
    }
    let last = logs(&["workflow", "--tail", "2"]).await;
    assert_eq!(last.lines().count(), 2, "{last}");
    assert!(last.lines().all(|line| line.starts_with("workflow-api.1")), "{last}");

    // The end of the ID is enough. The output has the jobs that this one started, and nothing about
    // others.
    begin(&stack, &git, &gate).wait().await.unwrap();
    let url = stack.workflow_url();
    let jobs = ran(NO_ENGINE, &["jobs", "--url", &url, "--json", "--all"]).await.json();
    let jobs = jobs["jobs"].as_array().unwrap();
    let job = jobs.iter().find(|job| job["service"] == "workflow-api").unwrap()["jobId"]
        .as_str()
        .unwrap();
    let family: Vec<&str> = jobs
        .iter()
        .filter(|it| it["jobId"] == job || it["parent"] == job)
        .map(|it| it["jobId"].as_str().unwrap())
        .collect();
    assert_eq!(family.len(), 3);
    let about = logs(&["--job", &job[job.len() - 10..]]).await;
    for id in &family {
        assert!(about.contains(id), "{id}: {about}");
    }
    for line in about.lines() {
        assert!(family.iter().any(|id| line.contains(id)), "{line}");
    }
    assert!(logs(&["--since", "2099-01-01T00:00:00Z"]).await.is_empty());
}

/// Also when it was killed.
#[tokio::test]
async fn logs_outlive_the_stack() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("README.md", "hello\n")]);
    let directory = tempfile::tempdir().unwrap();
    let (workspace, gate) = (directory.path().join("workspace"), directory.path().join("gate"));
    std::fs::write(&gate, "").unwrap();
    let first = Stack::builder().workspace(&workspace).start().await;
    begin(&first, &git, &gate).wait().await.unwrap();
    let jobs = ran(NO_ENGINE, &["jobs", "--url", &first.workflow_url(), "--json"]).await.json();
    let job = jobs["jobs"][0]["jobId"].as_str().unwrap().to_owned();
    let path = workspace.to_str().unwrap();
    let logs = async || ran(NO_ENGINE, &["logs", "--workspace", path, "--job", &job]).await.stdout;
    let before = logs().await;
    assert!(before.contains("workflow-api.1"), "{before}");
    first.signal(Signal::SIGKILL);
    drop(first);
    let second = Stack::builder().workspace(&workspace).start().await;
    let after = logs().await;
    assert!(after.starts_with(&before), "before:\n{before}after:\n{after}");
    assert_eq!(second.stop().await, 0);
}

#[tokio::test]
async fn commands_without_a_stack_fail_with_a_hint() {
    let empty = tempfile::tempdir().unwrap();
    let workspace = empty.path().to_str().unwrap();
    for command in [&["ps"][..], &["scale", "workflow=2"], &["logs"]] {
        let arguments = [command, &["--workspace", workspace]].concat();
        let output = ran(NO_ENGINE, &[&arguments[..], &["--local"]].concat()).await;
        assert_eq!(output.code, 3, "{output:?}");
        assert!(output.stderr.contains(" up --workspace "), "{output:?}");
        let output = ran(NO_ENGINE, &[&arguments[..], &["--swarm"]].concat()).await;
        assert_eq!(output.code, 3, "{output:?}");
        assert!(output.stderr.contains("DOCKER_HOST"), "{output:?}");
        let output = ran(NO_ENGINE, &arguments).await;
        assert_eq!(output.code, 3, "{output:?}");
        assert!(
            output.stderr.contains(workspace) && output.stderr.contains("no such socket"),
            "{output:?}"
        );
    }
}

/// A second `up` on a workspace works, but commands keep asking the first one. An `up` that was
/// killed is no obstacle.
#[tokio::test]
async fn the_socket_belongs_to_the_first_up_and_is_removed_with_it() {
    let home = tempfile::tempdir().unwrap();
    let workspace = home.path().join("w");
    let text = workspace.to_str().unwrap().to_owned();
    let first = Stack::builder().replicas(0, 0, 1).workspace(&workspace).start().await;
    let ports = ["--port-workflow", "0", "--port-pull", "0", "--port-claude", "0"];
    let arguments =
        [&["up", "--workspace", &text, "--workflow=0", "--pull=0", "--claude=0"], &ports[..]];
    let mut second = stackctl(NO_ENGINE, &arguments.concat()).spawn().unwrap();
    let mut output = BufReader::new(second.stderr.take().unwrap()).lines();
    let holder = format!("another `stackctl up` (process {}) runs in this workspace", first.pid());
    let hears = async { while !output.next_line().await.unwrap().unwrap().contains(&holder) {} };
    tokio::time::timeout(PATIENCE, hears)
        .await
        .expect("the second `up` prints who owns the socket");
    let target = async || {
        let output = ran(NO_ENGINE, &["ps", "--workspace", &text, "--json"]).await;
        output.json()["target"].as_str().unwrap().to_owned()
    };
    assert!(target().await.contains(&first.pid().to_string()));
    let pid = second.id().unwrap().cast_signed();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    second.wait().await.unwrap();
    assert!(target().await.contains(&first.pid().to_string()));
    first.signal(Signal::SIGKILL);
    let pid = first.pid();
    drop(first);
    let third = Stack::builder().replicas(0, 0, 1).workspace(&workspace).start().await;
    assert_ne!(third.pid(), pid);
    assert!(target().await.contains(&third.pid().to_string()));
    assert_eq!(third.stop().await, 0);
    assert!(!workspace.join(".stack/up.sock").exists());
}
