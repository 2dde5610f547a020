//! The rehearsal agent as a replica starts it: `stackctl` under another name, with the CLI's command line.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::symlink,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::target_binary;

const SESSION: &str = "0b1f8a0e-5a3e-4bd5-8ba5-5e8be7c7a1d6";

/// A running agent in a directory of its own.
struct Agent {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Agent {
    fn start(home: &Path, session: &str) -> Self {
        Self::start_with(home, session, "bypassPermissions")
    }

    fn start_with(home: &Path, session: &str, permission_mode: &str) -> Self {
        let program = home.join("claude-rehearsal");
        if !program.exists() {
            symlink(target_binary("stackctl"), &program).unwrap();
            fs::create_dir_all(home.join("work")).unwrap();
        }
        let mut child = Command::new(program)
            .args(["-p", "--input-format", "stream-json", "--output-format", "stream-json"])
            .args(["--permission-mode", permission_mode, "--setting-sources", ""])
            .args([session, SESSION, "--verbose", "--strict-mcp-config"])
            .env_clear()
            .env("IS_SANDBOX", "1")
            .env("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1")
            .env("CLAUDE_CONFIG_DIR", home.join("config"))
            .current_dir(home.join("work"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    fn tell(&mut self, line: &Value) {
        self.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn prompt(&mut self, text: &str) {
        self.tell(&json!({"type": "user", "message": {"role": "user", "content": text}}));
    }

    /// Lines up to the first for which this holds.
    fn until(&mut self, is_last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "it ended after {lines:#?}");
            lines.push(serde_json::from_str(&line).unwrap());
            if is_last(lines.last().unwrap()) {
                return lines;
            }
        }
    }

    /// Closes its standard input, and says what it exits with.
    fn leave(mut self) -> i32 {
        drop(self.stdin.take());
        self.child.wait().unwrap().code().unwrap()
    }
}

fn is_idle(line: &Value) -> bool {
    line["subtype"] == "session_state_changed" && line["state"] == "idle"
}

#[test]
fn a_turn_from_the_prompt_to_the_exit() {
    let home = TempDir::new().unwrap();
    let mut agent = Agent::start(home.path(), "--session-id");
    agent.prompt("Look around");
    let lines = agent.until(is_idle);
    let init = lines.iter().find(|line| line["subtype"] == "init").unwrap();
    assert_eq!((&init["model"], &init["session_id"]), (&json!("rehearsal"), &json!(SESSION)));
    let result = lines.iter().find(|line| line["type"] == "result").unwrap();
    assert_eq!((&result["is_error"], &result["total_cost_usd"]), (&json!(false), &json!(0.0)));
    assert!(home.path().join("work/REHEARSAL.md").is_file());
    // It is done, and waits until its input is closed.
    assert!(agent.child.try_wait().unwrap().is_none());
    assert_eq!(agent.leave(), 0);

    // The session can be resumed.
    let mut again = Agent::start(home.path(), "--resume");
    again.prompt("Look again");
    again.until(is_idle);
    assert_eq!(again.leave(), 0);
    let text = fs::read_to_string(home.path().join("work/REHEARSAL.md")).unwrap();
    assert!(text.contains("Look around") && text.contains("Look again"), "{text}");
}

/// What it says of a change it may not or cannot make.
fn refused(home: &Path, permission_mode: &str) -> (Vec<Value>, i32) {
    let mut agent = Agent::start_with(home, "--session-id", permission_mode);
    agent.prompt("Look around");
    let lines = agent.until(is_idle);
    (lines, agent.leave())
}

#[test]
fn without_permission_it_changes_nothing_and_says_so() {
    let home = TempDir::new().unwrap();
    let (lines, code) = refused(home.path(), "default");
    let result = lines.iter().find(|line| line["type"] == "result").unwrap();
    assert_eq!((&result["is_error"], code), (&json!(false), 0));
    assert_eq!(result["permission_denials"][0]["tool_name"], "Write");
    let answers: Vec<_> = lines.iter().filter(|line| line["type"] == "user").collect();
    assert_eq!(answers[1]["message"]["content"][0]["is_error"], true);
    assert!(!home.path().join("work/REHEARSAL.md").exists());
}

#[test]
fn it_does_not_write_through_a_link() {
    let (home, outside) = (TempDir::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    fs::create_dir(home.path().join("work")).unwrap();
    symlink(outside.path(), home.path().join("work/REHEARSAL.md")).unwrap();
    let (lines, code) = refused(home.path(), "bypassPermissions");
    let result = lines.iter().find(|line| line["type"] == "result").unwrap();
    assert!(result["result"].as_str().unwrap().starts_with("I changed nothing"), "{result}");
    assert_eq!((code, outside.path().metadata().unwrap().len()), (0, 0));
}

#[test]
fn an_interrupt_ends_it_at_once() {
    let home = TempDir::new().unwrap();
    let mut agent = Agent::start(home.path(), "--session-id");
    agent.prompt("Look around");
    agent.until(|line| line["subtype"] == "init");
    let told = Instant::now();
    agent.tell(&json!({
        "type": "control_request", "request_id": "stop", "request": {"subtype": "interrupt"},
    }));
    let lines = agent.until(is_idle);
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    let kinds: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert!(kinds.ends_with(&["control_response", "user", "result", "system"]), "{kinds:?}");
    assert_eq!(lines[lines.len() - 2]["is_error"], true);
    assert_eq!(agent.leave(), 1);
    assert!(!home.path().join("work/REHEARSAL.md").exists());
}

#[test]
fn it_says_what_it_is() {
    let output = Command::new(target_binary("stackctl"))
        .args(["rehearsal-agent", "--version"])
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("rehearsal"));
}
