//! The mock Messages API, with and without the real Claude CLI.

use std::{fs, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{MockApi, Turn, descendants, http_json, real_claude, skip, wait_for};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

const KEY: &str = "sk-ant-test-0123456789abcdef";

#[tokio::test]
async fn the_mock_answers_without_the_cli() {
    let api = MockApi::start(vec![Turn::text("hi"), Turn::status(529)]).await;
    let messages = format!("{}/v1/messages?beta=true", api.url());
    let main = json!({"model": "m", "tools": [{"name": "Bash"}], "messages": []}).to_string();
    let side = json!({"model": "m", "messages": []}).to_string();
    let ask = async |body: &str| {
        let headers = [("x-api-key", KEY)];
        let (status, _, body) =
            http_json("POST", &messages, Some(body.to_owned().into()), &headers).await;
        (status.as_u16(), body["content"][0]["text"].clone(), body["error"]["type"].clone())
    };
    assert_eq!(ask(&side).await, (200, json!("ok"), Value::Null));
    assert_eq!(ask(&main).await, (200, json!("hi"), Value::Null));
    assert_eq!(ask(&main).await, (529, Value::Null, json!("overloaded_error")));
    assert_eq!(ask(&main).await, (200, json!("done"), Value::Null));
    let count = format!("{}/v1/messages/count_tokens", api.url());
    assert_eq!(http_json("POST", &count, Some(side.into()), &[]).await.2["input_tokens"], 1000);
    assert_eq!(http_json("HEAD", &api.url(), None, &[]).await.0.as_u16(), 200);
    let unknown = format!("{}/v1/other", api.url());
    assert_eq!(http_json("GET", &unknown, None, &[]).await.0.as_u16(), 404);
    assert_eq!((api.requests().len(), api.turns().len()), (7, 3));
    assert_eq!(api.turns()[0].api_key.as_deref(), Some(KEY));
}

struct Cli {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    home: TempDir,
}

impl Cli {
    /// Runs the CLI as the claude service does. Returns `None` if the CLI is not installed.
    async fn start(test: &str, api: &MockApi, home: TempDir) -> Option<Self> {
        let Some(binary) = real_claude() else {
            skip(test, "CLAUDE_BIN_REAL does not name the Claude CLI");
            return None;
        };
        let work = home.path().join("work");
        fs::create_dir_all(&work).unwrap();
        let mut command = Command::new(binary);
        command
            .args(["-p", "--input-format", "stream-json", "--output-format", "stream-json"])
            .args(["--verbose", "--permission-mode", "bypassPermissions"])
            .args(["--setting-sources", "", "--strict-mcp-config"])
            .args(["--tools", "Bash,Read,Edit,Write", "--model", "sonnet", "--max-turns", "20"])
            .args(["--session-id", "5ccfa640-c6db-4838-93a9-c1d8e2383074"])
            .current_dir(work)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", home.path())
            .env("ANTHROPIC_API_KEY", KEY)
            .env("ANTHROPIC_BASE_URL", api.url())
            .env("CLAUDE_CODE_MAX_RETRIES", "1");
        for (name, directory) in
            [("CLAUDE_CONFIG_DIR", "config"), ("TMPDIR", "tmp"), ("CLAUDE_CODE_TMPDIR", "tmp")]
        {
            fs::create_dir_all(home.path().join(directory)).unwrap();
            command.env(name, home.path().join(directory));
        }
        for switch in [
            "IS_SANDBOX",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
            "DISABLE_AUTOUPDATER",
            "DISABLE_TELEMETRY",
            "DISABLE_ERROR_REPORTING",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS",
            "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS",
        ] {
            command.env(switch, "1");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("failed to run the Claude CLI");
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut cli = Self { child, stdin, lines, home };
        cli.send(&json!({"type": "user", "message": {"role": "user", "content": "Do it."}})).await;
        Some(cli)
    }

    async fn send(&mut self, line: &Value) {
        let line = format!("{line}\n");
        self.stdin.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
    }

    async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let line = tokio::time::timeout(Duration::from_secs(60), self.lines.next_line());
            let line = line.await.expect("a line in time").unwrap().expect("more lines");
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["type"] == kind {
                return line;
            }
        }
    }

    async fn result(mut self) -> (Value, Option<i32>) {
        let result = self.next_of("result").await;
        self.stdin = None;
        (result, self.child.wait().await.unwrap().code())
    }
}

#[tokio::test]
async fn the_real_cli_writes_files_and_reports_them() {
    let home = tempfile::tempdir().unwrap();
    let work = home.path().join("work");
    let api = MockApi::start(vec![
        Turn::write(work.join("written").to_str().unwrap(), "by Write\n"),
        Turn::bash("echo hi > echoed"),
        Turn::text("all written"),
    ])
    .await;
    let test = "the_real_cli_writes_files_and_reports_them";
    let Some(cli) = Cli::start(test, &api, home).await else { return };
    let home = cli.home.path().to_owned();
    // The directory is deleted with `cli`, so look at it before that.
    let mut cli = cli;
    let result = cli.next_of("result").await;
    assert_eq!(result["result"], "all written", "{result}");
    assert_eq!((&result["is_error"], &result["num_turns"]), (&json!(false), &json!(3)));
    assert_eq!(fs::read_to_string(home.join("work/written")).unwrap(), "by Write\n");
    assert_eq!(fs::read_to_string(home.join("work/echoed")).unwrap(), "hi\n");
    cli.stdin = None;
    assert_eq!(cli.child.wait().await.unwrap().code(), Some(0));
    let turns = api.turns();
    assert_eq!(turns.len(), 3);
    assert!(turns.iter().all(|turn| turn.api_key.as_deref() == Some(KEY)));
    assert!(turns[1].body["messages"].to_string().contains("File created successfully"));
}

#[tokio::test]
async fn the_real_cli_fails_on_api_errors() {
    for status in [401, 500] {
        let home = tempfile::tempdir().unwrap();
        let api = MockApi::always(Turn::status(status)).await;
        let test = "the_real_cli_fails_on_api_errors";
        let Some(cli) = Cli::start(test, &api, home).await else { return };
        let (result, code) = cli.result().await;
        assert_eq!(
            (&result["subtype"], &result["is_error"], &result["api_error_status"], code),
            (&json!("success"), &json!(true), &json!(status), Some(1)),
            "{result}"
        );
        assert_eq!(api.turns().len(), 2, "one retry was asked for");
    }
}

#[tokio::test]
async fn the_real_cli_is_interrupted_in_a_shell_command_and_in_a_stalled_answer() {
    let test = "the_real_cli_is_interrupted_in_a_shell_command_and_in_a_stalled_answer";
    for turn in [Turn::bash("sleep 300"), Turn::Hang, Turn::Stall("I was about to".to_owned())] {
        let home = tempfile::tempdir().unwrap();
        let api = MockApi::start(vec![turn.clone()]).await;
        let Some(mut cli) = Cli::start(test, &api, home).await else { return };
        let pid = cli.child.id().unwrap();
        wait_for("the turn to begin", Duration::from_secs(30), || async {
            let is_asleep = || descendants(pid).iter().any(|child| child.cmdline() == "sleep 300");
            let has_asked = !api.turns().is_empty();
            (has_asked && (!matches!(turn, Turn::ToolUse { .. }) || is_asleep())).then_some(())
        })
        .await;
        cli.send(&json!({"type": "control_request", "request_id": "r1",
            "request": {"subtype": "interrupt"}}))
            .await;
        let (result, code) = cli.result().await;
        assert_eq!(result["subtype"], "error_during_execution", "{turn:?}: {result}");
        assert_eq!(code, Some(1));
    }
}
