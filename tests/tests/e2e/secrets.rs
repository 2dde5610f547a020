//! On a single machine, the agent has the same user as the whole stack, and still cannot read the
//! stack's secrets.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::chown,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::unistd::geteuid;
use tempfile::TempDir;
use testkit::{
    AgentScript, GitServer, PATIENCE, Stack, copy_program, descendants, memory, scripted_agent,
    skip, target_binary, wait_for, write_program,
};
use tokio::process::Command;

use crate::support::{every_file, execute, post_execute, post_workflow, terminal, workflow};

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
        copy_program(&binary, &place.path().join(name));
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

/// Whoever reads this file or this test's memory must not find them whole.
fn canaries() -> [(&'static str, String); 3] {
    [("API key", "sk-ant-can"), ("git token", "ghp_can"), ("URL password", "pa55-can")]
        .map(|(what, begin)| (what, format!("{begin}{}", "ary0f".repeat(4))))
}

/// The secrets that are in `bytes`.
fn found(bytes: &[u8]) -> Vec<&'static str> {
    let holds = |text: &String| memchr::memmem::find(bytes, text.as_bytes()).is_some();
    canaries().into_iter().filter(|(_, text)| holds(text)).map(|(what, _)| what).collect()
}

/// What a process of the stack shows to others: its arguments and its environment.
fn shown(pid: u32) -> Vec<u8> {
    let read = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    [read("cmdline"), read("environ")].concat()
}

/// A thread watches until this is dropped, also by a failure.
#[derive(Default)]
struct Watching(Arc<AtomicBool>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries_are_in_no_process_file_or_log() {
    if !geteuid().is_root() {
        let test = "canaries_are_in_no_process_file_or_log";
        return skip(
            test,
            "only root sees what the stack hides, so that its absence proves something",
        );
    }
    let [(_, key), (_, token), (_, password)] = canaries();
    let git = GitServer::start().await;
    git.create_repo("app", &[("README.md", "hello\n")]);
    git.set_auth("app", "reader", &password);
    let stack = Stack::builder()
        .replicas(2, 2, 2)
        .env("CLAUDE_CODE_CREDENTIALS_JSON", format!("{{\"apiKey\":\"{key}\"}}"))
        .env("GITHUB_TOKEN", &token)
        .env("LOG_LEVEL", "debug")
        .start()
        .await;

    // Looks at every process from its first moment, as often as it can.
    let up = stack.pid();
    let watching = Watching::default();
    let stopped = Arc::clone(&watching.0);
    let watch = tokio::task::spawn_blocking(move || {
        let (mut seen, mut leaks) = (BTreeSet::new(), BTreeSet::new());
        let of_up = fs::read(format!("/proc/{up}/cmdline")).unwrap();
        while !stopped.load(Ordering::Relaxed) {
            for process in descendants(up) {
                // Between fork and exec, a process is a copy of `up`, and just as inaccessible to the agent.
                if fs::read(format!("/proc/{}/cmdline", process.pid)).is_ok_and(|it| it != of_up) {
                    seen.insert(process.pid);
                    for what in found(&shown(process.pid)) {
                        leaks.insert(format!("{what} in {}", process.cmdline()));
                    }
                }
            }
        }
        (seen, leaks)
    });
    let url = git.url_with_credentials("app", "reader", &password);
    let script = AgentScript::new().say("working").touch("begun").wait_file("gate");
    let jobs = ["one", "two", "three", "four"].map(|directory| {
        let mut body = workflow(&url, &script);
        body["directory"] = directory.into();
        body
    });
    let run = async |body: &serde_json::Value| {
        let mut response = post_workflow(&stack, body).send().await;
        let checkout = stack.workspace().join(body["directory"].as_str().unwrap());
        let begun = || async { checkout.join("begun").exists().then_some(()) };
        wait_for("the agent", PATIENCE, begun).await;
        let mut agents = stack.agents();
        agents.retain(|process| process.cmdline().contains("scripted-agent"));
        assert!(!agents.is_empty());
        for agent in agents {
            assert_eq!(found(&memory(agent.pid)), Vec::<&str>::new(), "{}", agent.cmdline());
        }
        fs::write(checkout.join("gate"), "").unwrap();
        let events = response.collect_all().await;
        assert_eq!(terminal(&events)["type"], "workflow_complete", "{}", terminal(&events));
        for event in events {
            assert_eq!(found(event.json.to_string().as_bytes()), Vec::<&str>::new());
        }
    };
    let [first, second, third, fourth] = &jobs;
    tokio::join!(run(first), run(second));
    tokio::join!(run(third), run(fourth));
    stack.wait_until_idle().await;
    drop(watching);
    let (seen, leaks) = watch.await.unwrap();
    // A gateway, and at least two processes in each of the six slots.
    assert!(seen.len() > 12, "{seen:?}");
    assert_eq!(leaks, BTreeSet::new());
    // The control: they are where they belong, and would be found.
    assert_eq!(found(&shown(up)), ["API key", "git token"]);
    let holds =
        |part: &str| stack.processes_of(part).iter().any(|pid| !found(&memory(*pid)).is_empty());
    assert!(holds("claude-code-api") && holds("github-pull-api") && !holds("workflow-api"));

    for (path, content) in every_file(stack.workspace()) {
        assert_eq!(found(&content), Vec::<&str>::new(), "{path}");
    }
    assert_eq!(found(stack.log().as_bytes()), Vec::<&str>::new());
}

/// A shell script that everybody may execute.
fn script(directory: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = directory.join(name);
    write_program(&path, &format!("#!/bin/sh\n{text}\n"));
    path
}
