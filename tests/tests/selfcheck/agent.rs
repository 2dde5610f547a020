//! The scripted agent as a real child process.

use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{AgentScript, descendants, is_alive, scripted_agent, wait_for};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

const SESSION: &str = "5ccfa640-c6db-4838-93a9-c1d8e2383074";

struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    home: TempDir,
}

fn start_in(home: TempDir, arguments: &[&str]) -> Running {
    let mut child = Command::new(scripted_agent())
        .args(["-p", "--input-format", "stream-json", "--output-format", "stream-json"])
        .args(["--verbose", "--permission-mode", "bypassPermissions", "--max-turns", "7"])
        .args(arguments)
        .current_dir(home.path())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("CLAUDE_CONFIG_DIR", home.path().join("config"))
        .env("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1")
        .env("IS_SANDBOX", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let stdin = child.stdin.take();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Running { child, stdin, lines, home }
}

async fn start(prompt: &str) -> Running {
    let mut running = start_in(tempfile::tempdir().unwrap(), &["--session-id", SESSION]);
    running.send(&user(prompt)).await;
    running
}

fn user(prompt: &str) -> Value {
    json!({"type": "user", "message": {"role": "user", "content": prompt}})
}

impl Running {
    async fn send(&mut self, line: &Value) {
        let line = format!("{line}\n");
        self.stdin.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
    }

    async fn next(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(Duration::from_secs(20), self.lines.next_line());
        Some(serde_json::from_str(&line.await.expect("a line in time").unwrap()?).unwrap())
    }

    async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let line = self.next().await.expect("more lines");
            if line["type"] == kind {
                return line;
            }
        }
    }

    /// Closes the agent's standard input, and returns its exit code and its standard error.
    async fn finish(&mut self) -> (Option<i32>, String) {
        self.stdin = None;
        let mut error = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut error).await.unwrap();
        (self.child.wait().await.unwrap().code(), error)
    }
}

fn kinds(lines: &[Value]) -> Vec<String> {
    let name = |line: &Value| {
        let part = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}", part("type"), part("subtype")).trim().to_owned()
    };
    lines.iter().map(name).collect()
}

#[tokio::test]
async fn without_a_script_it_succeeds_and_waits_for_its_input_to_close() {
    let started = Instant::now();
    let mut agent = start("Say hello").await;
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &Value| line["state"] != "idle") {
        lines.push(agent.next().await.unwrap());
    }
    let took = started.elapsed();
    let expected = [
        "system session_state_changed",
        "system init",
        "assistant",
        "result success",
        "system session_state_changed",
    ];
    assert_eq!(kinds(&lines), expected);
    assert_eq!(lines[1]["session_id"], SESSION);
    assert_eq!(Path::new(lines[1]["cwd"].as_str().unwrap()), agent.home.path());
    assert!(agent.child.try_wait().unwrap().is_none(), "it waits for its input to close");
    assert_eq!(agent.finish().await, (Some(0), String::new()));
    assert!(took < Duration::from_secs(2), "it took {took:?}");
}

#[tokio::test]
async fn it_prints_api_errors_raw_lines_and_late_lines() {
    let script = AgentScript::new()
        .stderr("oops")
        .emit_raw("{\"type\":\"odd\"}\n")
        .api_error(401, "Invalid API key")
        .say("after the result")
        .emit(json!({"type": "last"}));
    let mut agent = start(&script.prompt()).await;
    agent.next_of("odd").await;
    let result = agent.next_of("result").await;
    assert_eq!(
        (&result["subtype"], &result["is_error"], &result["api_error_status"], &result["result"]),
        (&json!("success"), &json!(true), &json!(401), &json!("Invalid API key"))
    );
    agent.next_of("last").await;
    assert_eq!(agent.finish().await, (Some(1), "oops\n".to_owned()));
}

#[tokio::test]
async fn it_writes_files_waits_at_gates_and_counts_runs() {
    let script = AgentScript::new()
        .log_run("runs")
        .write("deep/file", "content")
        .touch("at-the-gate")
        .wait_file("gate")
        .env_dump("dump.json")
        .exit(3);
    let mut agent = start(&script.prompt()).await;
    let home = agent.home.path().to_owned();
    wait_for("the gate", Duration::from_secs(10), || async {
        home.join("at-the-gate").exists().then_some(())
    })
    .await;
    assert_eq!(fs::read_to_string(home.join("deep/file")).unwrap(), "content");
    assert!(!home.join("dump.json").exists());
    fs::write(home.join("gate"), "").unwrap();
    let pid = agent.child.id().unwrap();
    assert_eq!(agent.finish().await.0, Some(3));
    let runs = fs::read_to_string(home.join("runs")).unwrap();
    assert_eq!(runs, format!("{pid} {SESSION}\n"));
    let dump: Value = serde_json::from_slice(&fs::read(home.join("dump.json")).unwrap()).unwrap();
    let names: Vec<_> = dump["env"].as_object().unwrap().keys().collect();
    let expected =
        ["CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "CLAUDE_CONFIG_DIR", "IS_SANDBOX", "PATH"];
    assert_eq!(names, expected);
    assert_eq!(dump["pid"], pid);
    assert!(dump["fds"]["1"].as_str().unwrap().starts_with("pipe:"), "{}", dump["fds"]);
    assert_eq!(dump["argv"].as_array().unwrap().len(), 13);
}

#[tokio::test]
async fn it_prints_floods_long_lines_and_partial_messages() {
    let home = tempfile::tempdir().unwrap();
    let mut agent = start_in(home, &["--session-id", SESSION, "--include-partial-messages"]);
    let script = AgentScript::new().flood(1000, 200).long_line(3_000_000);
    agent.send(&user(&script.prompt())).await;
    let (mut whole, mut partial, mut longest) = (0, 0, 0);
    loop {
        let line = agent.next().await.unwrap();
        match line["type"].as_str().unwrap() {
            "assistant" => {
                whole += 1;
                let text = line["message"]["content"][0]["text"].as_str().unwrap();
                longest = longest.max(text.len());
            }
            "stream_event" => partial += 1,
            "result" => break,
            _ => {}
        }
    }
    assert_eq!((whole, partial, longest), (1001, 6006, 3_000_000));
    assert_eq!(agent.finish().await.0, Some(0));
}

#[tokio::test]
async fn an_interrupt_ends_it_as_it_ends_the_cli() {
    let mut agent = start(&AgentScript::new().say("x").hang().prompt()).await;
    agent.next_of("assistant").await;
    let request = json!({"type": "control_request", "request_id": "r1",
        "request": {"subtype": "interrupt"}});
    agent.send(&request).await;
    let response = agent.next_of("control_response").await;
    assert_eq!(response["response"], json!({"subtype": "success", "request_id": "r1"}));
    let result = agent.next_of("result").await;
    assert_eq!(
        (&result["subtype"], &result["is_error"]),
        (&json!("error_during_execution"), &json!(true))
    );
    assert_eq!(result.get("result"), None);
    assert_eq!(agent.next().await.unwrap()["state"], "idle");
    assert_eq!(agent.finish().await, (Some(1), String::new()));
}

#[tokio::test]
async fn if_it_ignores_interrupts_and_signals_only_sigkill_ends_it() {
    let script = AgentScript::new()
        .ignore_interrupt()
        .ignore_signals()
        .spawn(&["sleep", "300"])
        .spawn_in_new_session(&["sleep", "301"])
        .say("deaf")
        .wait_file("gate")
        .say("still here")
        .hang();
    let mut agent = start(&script.prompt()).await;
    agent.next_of("assistant").await;
    let pid = agent.child.id().unwrap();
    let children = wait_for("both children", Duration::from_secs(10), || async {
        let children = descendants(pid);
        let are_sleeping = children.len() == 2
            && children.iter().all(|child| child.cmdline().starts_with("sleep"));
        are_sleeping.then_some(children)
    })
    .await;
    agent.send(&json!({"type": "control_request", "request": {"subtype": "interrupt"}})).await;
    let signal = |pid: u32, signal| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).unwrap();
    };
    signal(pid, nix::sys::signal::SIGTERM);
    signal(pid, nix::sys::signal::SIGINT);
    fs::write(agent.home.path().join("gate"), "").unwrap();
    let text = agent.next_of("assistant").await["message"]["content"][0]["text"].clone();
    assert_eq!(text, "still here");

    let session_of = |pid: u32| {
        let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
        nix::unistd::getsid(Some(pid)).unwrap().as_raw().cast_unsigned()
    };
    let own = |child: &&testkit::ProcInfo| session_of(child.pid) == child.pid;
    assert_eq!(children.iter().filter(own).count(), 1);
    agent.child.kill().await.unwrap();
    for child in children {
        assert!(is_alive(child.pid), "a spawned process outlives the agent");
        // The agent would inherit a blocked SIGTERM, so the shell handles it instead.
        signal(child.pid, nix::sys::signal::SIGTERM);
        wait_for("the child's end", Duration::from_secs(10), || async {
            (!is_alive(child.pid)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn sigterm_ends_it_with_143() {
    let mut agent = start(&AgentScript::new().say("x").hang().prompt()).await;
    agent.next_of("assistant").await;
    let pid = nix::unistd::Pid::from_raw(agent.child.id().unwrap().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).unwrap();
    assert_eq!(agent.child.wait().await.unwrap().code(), Some(143));
    assert_eq!(agent.next().await, None);
}

#[tokio::test]
async fn it_can_close_its_output_and_keep_running() {
    let mut agent = start(&AgentScript::new().close_stdout().wait_file("gate").prompt()).await;
    while agent.next().await.is_some() {}
    assert!(agent.child.try_wait().unwrap().is_none());
    fs::write(agent.home.path().join("gate"), "").unwrap();
    assert_eq!(agent.finish().await.0, Some(0));
}

#[tokio::test]
async fn sessions_are_kept_and_unknown_sessions_are_refused() {
    let mut first = start("remember this").await;
    first.next_of("result").await;
    assert_eq!(first.finish().await.0, Some(0));

    let mut again = start_in(first.home, &["--session-id", SESSION]);
    again.send(&user("x")).await;
    let in_use = format!("Error: Session ID {SESSION} is already in use.\n");
    assert_eq!(again.finish().await, (Some(1), in_use));

    let mut resumed = start_in(again.home, &["--resume", SESSION]);
    resumed.send(&user("and now?")).await;
    assert_eq!(resumed.next_of("result").await["session_id"], SESSION);
    assert_eq!(resumed.finish().await.0, Some(0));

    let mut unknown = start_in(resumed.home, &["--resume", "2b32e65a-adc6-42d6-bf98-ba43d08be2c9"]);
    unknown.send(&user("x")).await;
    let result = unknown.next().await.unwrap();
    assert_eq!(result["subtype"], "error_during_execution");
    assert!(result["errors"][0].as_str().unwrap().starts_with("No conversation found"));
    assert_eq!(unknown.finish().await.0, Some(1));
}
