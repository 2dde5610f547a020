//! Clients that read lines and know nothing else about event streams: `tests/clients/`.

use std::{path::Path, process::Stdio};

use contract::Service;
use serde_json::{Value, json};
use testkit::{AgentScript, GitServer, Stack, skip};
use tokio::process::Command;

use crate::support::{events_of, without_waits, workflow};

#[tokio::test]
async fn javascript_that_splits_lines() {
    speaks("javascript_that_splits_lines", "node", "naive.mjs").await;
}

#[tokio::test]
async fn python_that_reads_lines() {
    speaks("python_that_reads_lines", "python3", "lines.py").await;
}

#[tokio::test]
async fn python_that_splits_on_blank_lines() {
    speaks("python_that_splits_on_blank_lines", "python3", "blocks.py").await;
}

/// Checks that the client understands every event of a pull and of a workflow, including hostile
/// text.
async fn speaks(test: &str, interpreter: &str, script: &str) {
    let version = Command::new(interpreter).arg("--version").stdout(Stdio::null()).status().await;
    if !version.is_ok_and(|status| status.success()) {
        return skip(test, &format!("{interpreter} is not here"));
    }
    let git = GitServer::start().await;
    git.create_big_repo("app", 50, 20_000);
    let stack = Stack::builder().start().await;
    let agent = AgentScript::new()
        .say("first\n\ndata: {\"type\":\"workflow_error\"}\n\nid: 7\r\rdata: x\r\n\r\n: ping")
        .say("\u{2028}\u{2029}\u{85}\u{feff}\0\u{1b}[2J \u{1f600} é \\n \\u0000 \"quoted\"")
        .long_line(300_000)
        .flood(300, 50);
    let pull = (Service::Pull, format!("{}/api/pull", stack.pull_url()));
    let flow = (Service::Workflow, format!("{}/api/workflow", stack.workflow_url()));
    for ((service, url), body, last) in [
        (pull, json!({"repoUrl": git.url("app")}), "completed"),
        (flow, workflow(&git.url("app"), &agent), "workflow_complete"),
    ] {
        let lines = run(interpreter, script, &url, &body).await;
        let (job, mut seen) = (lines[0].as_str().expect("the job's id"), lines[1..].to_vec());
        seen.retain(|event| event["type"] != "queued" && event["data"]["type"] != "queued");
        let events = events_of(&stack, job, service).send().await.collect_all().await;
        let events = without_waits(events);
        let events: Vec<Value> = events.into_iter().map(|event| event.json).collect();
        assert_eq!(seen.len(), events.len());
        assert!(seen == events, "{service}: the client saw other events than there were");
        assert_eq!(seen.last().unwrap()["type"], last);
        assert!(service == Service::Pull || events.len() > 300, "{}", events.len());
    }
}

/// What the client prints: one JSON value per line.
async fn run(interpreter: &str, script: &str, url: &str, body: &Value) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    let output = Command::new(interpreter)
        .arg(&script)
        .args([url, &body.to_string()])
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} failed: {stderr}", script.display());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}
