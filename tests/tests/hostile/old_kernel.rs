//! A machine that cannot confine agents.

use std::path::Path;

use child_process::Enforcement;
use serde_json::Value;
use tempfile::TempDir;
use testkit::{AgentScript, Stack, skip};

use crate::scene::{PYTHON, post, without_landlock};

/// The terminal event of a job on a stack whose kernel seems to have no Landlock, the first event, and the log.
async fn job(isolation: &str) -> (Value, Value, String) {
    let directory = TempDir::new().unwrap();
    let program = without_landlock(directory.path());
    let stack = Stack::builder().binary(program).env("AGENT_ISOLATION", isolation).start().await;
    let mut response = post(&stack, &AgentScript::new().say("hello")).send().await;
    let connected = response.next_of_kind("connected").await.json;
    let ended = response.collect_all().await.last().unwrap().json.clone();
    (connected, ended, stack.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_refused_if_its_agent_must_be_confined_and_cannot_be() {
    let kernel = Enforcement::of_this_kernel();
    if !Path::new(PYTHON).exists() || !kernel.seccomp {
        return skip(
            "a_job_is_refused_if_its_agent_must_be_confined_and_cannot_be",
            "no python3 or seccomp",
        );
    }
    let (connected, ended, log) = job("require").await;
    assert_eq!((&connected["isolation"]["landlock"], &ended["type"]), (&0.into(), &"error".into()));
    assert_eq!(ended["code"], "isolation_unavailable", "{ended}");
    let error = ended["error"].as_str().unwrap();
    assert!(error.contains("Landlock") && error.contains("AGENT_ISOLATION=best-effort"), "{error}");
    assert!(log.contains("every job will be refused: the agent cannot be confined"), "{log}");

    let (connected, ended, log) = job("best-effort").await;
    let isolation = &connected["isolation"];
    assert_eq!((&isolation["landlock"], &isolation["seccomp"]), (&0.into(), &true.into()));
    assert_eq!(ended["type"], "completed", "{ended}");
    assert!(log.contains("agents are NOT fully confined"), "{log}");
}
