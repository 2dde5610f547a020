//! On a single machine, the agent has the same user as the whole stack, and still cannot read the
//! stack's secrets.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
};

use nix::unistd::geteuid;
use tempfile::TempDir;
use testkit::{AgentScript, Stack, scripted_agent, skip, target_binary};
use tokio::process::Command;

use crate::support::{execute, post_execute, terminal};

/// Not the key of the other tests, because their processes are searched too.
const KEY: &str = "sk-ant-0ut-0f-reach";
const TOKEN: &str = "ghp_0utOfReachOfAgents";
/// Root can read every process, so the stack runs as another user (`nobody` on most systems).
const SOMEBODY: u32 = 65534;

#[tokio::test]
async fn no_process_shows_secrets_to_the_agent() {
    let test = "no_process_shows_secrets_to_the_agent";
    let place = TempDir::new().unwrap();
    let (workspace, seen) = (place.path().join("workspace"), place.path().join("seen"));
    fs::create_dir(&workspace).unwrap();
    for (binary, name) in [(target_binary("stackctl"), "binary"), (scripted_agent(), "agent")] {
        fs::copy(binary, place.path().join(name)).unwrap();
    }
    let binary = place.path().join("binary").display().to_string();
    let mut command = format!("exec {binary} \"$@\"");
    if geteuid().is_root() {
        if Command::new("setpriv").arg("--version").output().await.is_err() {
            return skip(test, "setpriv is not here, and root sees everything");
        }
        let user = format!("--reuid={SOMEBODY} --regid={SOMEBODY} --clear-groups");
        command = format!("exec setpriv {user} {binary} \"$@\"");
        for path in [place.path(), &*workspace] {
            chown(path, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        }
    }
    let program = script(place.path(), "stackctl", &command);
    // The agent can find its own process. Without this check, the test would pass if the agent
    // found nothing at all.
    let look = format!(
        "for it in /proc/[0-9]*; do \
           if grep -aqE '{KEY}|{TOKEN}|L00K=1' $it/environ; then tr '\\0' ' ' < $it/cmdline; echo; fi; \
         done > {0}.part 2>/dev/null; mv {0}.part {0}",
        seen.display()
    );
    let look = script(place.path(), "look", &look);
    let stack = Stack::builder()
        .binary(program)
        .workspace(&workspace)
        .env("CLAUDE_BIN", place.path().join("agent"))
        .env("CLAUDE_CODE_CREDENTIALS_JSON", format!("{{\"apiKey\":\"{KEY}\"}}"))
        .env("GITHUB_TOKEN", TOKEN)
        // Confinement, which the tests in `hostile` are about, also closes other processes.
        .env("AGENT_ISOLATION", "none")
        .start()
        .await;
    let agent =
        AgentScript::new().spawn(&["env", "L00K=1", look.to_str().unwrap()]).wait_file(&seen);
    let mut response = post_execute(&stack, &execute(&agent)).send().await;
    let events = response.collect_all().await;
    assert_eq!(terminal(&events)["type"], "completed", "{}", terminal(&events));
    let seen = fs::read_to_string(&seen).unwrap();
    assert!(seen.contains("look"), "the agent has not seen its own process: {seen}");
    let others: Vec<_> = seen.lines().filter(|line| !line.contains("/look")).collect();
    assert!(others.is_empty(), "these processes show their environment: {others:#?}");
}

/// A shell script that everybody may execute.
fn script(directory: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
