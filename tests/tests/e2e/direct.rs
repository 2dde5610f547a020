//! One replica without a gateway, as behind any load balancer: it serves one job and exits.

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    AgentScript, SseClient, SseRequest, Stack, http_json, scratch_root, scripted_agent,
    target_binary, wait_for,
};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::support::{Marks, PATIENCE, execute, get, header, registry, send_signal, terminal};

/// One replica of the claude service, alone on its volume.
struct Single {
    child: Child,
    address: SocketAddr,
    workspace: TempDir,
}

impl Single {
    async fn start(environment: &[(&str, &str)]) -> Self {
        let workspace = TempDir::new().unwrap();
        let mut command = Command::new(target_binary("stackctl"));
        command.args(["serve", "claude-code-api"]).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.env("WORKSPACE_DIR", workspace.path()).env("CLAUDE_BIN", scripted_agent());
        command.envs([
            ("PORT", "0"),
            ("BIND_ADDRESS", "127.0.0.1"),
            ("IS_SANDBOX", "1"),
            ("AGENT_USER", "none"),
        ]);
        command.env("CLAUDE_CODE_CREDENTIALS_JSON", r#"{"apiKey":"sk-ant-test-0123456789abcdef"}"#);
        command.env("AGENT_WRITE_PATHS", scratch_root()).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.kill_on_drop(true).spawn().unwrap();
        let registry = workspace.path().join(".stack/replicas/claude-code-api");
        let address = wait_for("the replica's registry entry", PATIENCE, || async {
            let entry = std::fs::read_dir(&registry).ok()?.next()?.ok()?;
            let entry: Value = serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()?;
            entry["address"].as_str()?.parse().ok()
        })
        .await;
        Self { child, address, workspace }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn post(&self, script: &AgentScript) -> SseRequest {
        SseClient::post(&self.url("/api/execute"), &execute(script))
    }

    fn signal(&self, signal: Signal) {
        send_signal(self.child.id().expect("it runs"), signal);
    }

    /// Waits for the exit, and returns its code.
    async fn exit(&mut self) -> Option<i32> {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        status.expect("the replica does not exit").unwrap().code()
    }

    /// Whether its port is closed.
    async fn refuses(&self) -> bool {
        TcpStream::connect(self.address).await.is_err()
    }
}

#[tokio::test]
async fn it_serves_one_job_and_exits() {
    let marks = Marks::new();
    let mut single = Single::start(&[]).await;
    assert_eq!(get(&single.url("/status")).await.1["status"], "idle");
    let kernel = child_process::Enforcement::of_this_kernel();
    let health = get(&single.url("/health")).await.1;
    let isolation = json!({"landlock": kernel.landlock, "scopes": kernel.scopes, "seccomp": kernel.seccomp, "uid": false});
    assert_eq!(health["isolation"], isolation, "{health}");
    let script = AgentScript::new().touch(marks.path("began")).wait_file(marks.path("gate"));
    let mut response = single.post(&script).send().await;
    marks.wait("began").await;

    assert_eq!(get(&single.url("/status")).await.1["status"], "busy");
    let root = single.workspace.path().canonicalize().unwrap();
    let health = get(&single.url("/health")).await.1;
    assert_eq!((&health["status"], &health["workspace"]), (&json!("ok"), &json!(root)));
    let body = Some(execute(&AgentScript::new()).to_string().into());
    let (status, headers, answer) = http_json("POST", &single.url("/api/execute"), body, &[]).await;
    assert_eq!((status.as_u16(), &answer["code"]), (503, &json!("busy")), "{answer}");
    assert_eq!(header(&headers, "retry-after"), "1");

    marks.open("gate");
    let mut last = None;
    while let Some(event) = response.next_event().await {
        if event.kind() == "completed" {
            assert!(single.refuses().await, "the port is open at the terminal event");
        }
        last = Some(event);
    }
    let last = last.unwrap();
    assert_eq!((last.kind(), &last.json["result"]), ("completed", &json!("Done.")));
    assert_eq!(single.exit().await, Some(0));
    let entries = single.workspace.path().join(".stack/replicas/claude-code-api");
    assert_eq!(std::fs::read_dir(entries).unwrap().count(), 0);
}

/// The exit code is about the replica, not about its job.
#[tokio::test]
async fn it_exits_with_0_after_a_failed_job() {
    let mut single = Single::start(&[]).await;
    let mut response = single.post(&AgentScript::new().exit(3)).send().await;
    assert_eq!(terminal(&response.collect_all().await)["code"], "agent_failed");
    assert_eq!(single.exit().await, Some(0));
}

#[tokio::test]
async fn sigterm_and_sigint_while_idle() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut single = Single::start(&[]).await;
        let told = Instant::now();
        single.signal(signal);
        assert_eq!(single.exit().await, Some(0), "{signal}");
        assert!(told.elapsed() < Duration::from_secs(3), "{signal}: {:?}", told.elapsed());
        assert!(single.refuses().await);
    }
}

#[tokio::test]
async fn sigterm_while_busy() {
    let marks = Marks::new();
    let mut single = Single::start(&[]).await;
    let script = AgentScript::new()
        .touch(marks.path("began"))
        .wait_file(marks.path("gate"))
        .touch(marks.path("finished"));
    let mut response = single.post(&script).send().await;
    marks.wait("began").await;
    single.signal(Signal::SIGTERM);
    // Enough time to exit, if it did not finish its job first.
    let early = tokio::time::timeout(Duration::from_millis(500), single.child.wait()).await;
    assert!(early.is_err(), "it abandoned its job: {early:?}");
    marks.open("gate");
    assert_eq!(terminal(&response.collect_all().await)["type"], "completed");
    assert!(marks.exists("finished"));
    assert_eq!(single.exit().await, Some(0));
}

#[tokio::test]
async fn sigterm_while_busy_with_a_grace_period_that_ends() {
    let marks = Marks::new();
    let mut single = Single::start(&[("GRACE_SECONDS", "1")]).await;
    let script = AgentScript::new()
        .spawn_in_new_session(&["sleep", "300"])
        .touch(marks.path("began"))
        .hang();
    let mut response = single.post(&script).send().await;
    marks.wait("began").await;
    let below = testkit::descendants(single.child.id().unwrap());
    assert!(below.len() >= 2, "{below:?}");
    let told = Instant::now();
    single.signal(Signal::SIGTERM);
    let events = response.collect_all().await;
    assert_eq!(terminal(&events)["code"], "terminated", "{}", terminal(&events));
    assert!(told.elapsed() > Duration::from_millis(900), "{:?}", told.elapsed());
    assert_eq!(single.exit().await, Some(0));
    assert!(told.elapsed() < Duration::from_secs(12), "{:?}", told.elapsed());
    for process in below {
        assert!(!testkit::is_alive(process.pid), "left behind: {process:?}");
    }
}

/// An agent on the same machine can find the ports of replicas, so they must not take jobs from it.
#[tokio::test]
async fn a_replica_of_a_stack_takes_no_job_from_a_stranger() {
    let stack = Stack::builder().start().await;
    let body = execute(&AgentScript::new());
    for (service, path, body) in [
        ("claude-code-api", "/api/execute", body),
        ("github-pull-api", "/api/pull", json!({"repoUrl": "https://host.example/r.git"})),
        (
            "workflow-api",
            "/api/workflow",
            json!({"repoUrl": "https://host.example/r.git", "prompt": "x"}),
        ),
    ] {
        let entries = registry(&stack, service);
        let (id, entry) = entries.iter().next().unwrap();
        let url = format!("http://{}{path}", entry["address"].as_str().unwrap());
        let id = id.trim_end_matches(".json");
        for (headers, expected) in [(&[][..], 403), (&[("x-replica-id", id)], 421)] {
            let body = Some(body.to_string().into());
            let (status, _, answer) = http_json("POST", &url, body, headers).await;
            assert_eq!((status.as_u16(), &answer["code"]), (expected, &json!("forbidden")));
        }
        assert_eq!(registry(&stack, service).len(), entries.len(), "it is still idle");
    }
}
