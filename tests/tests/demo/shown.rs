//! `stackctl demo`: what it shows, and that nothing is left of it, however it ends.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::{
    AgentScript, MockApi, PATIENCE, RunningCommand, Turn, http_json, real_claude, scripted_agent,
    skip, wait_for,
};

use crate::support::Home;

/// Without a key, without a network, without git, without a `PATH`.
#[tokio::test]
async fn it_shows_a_workflow_and_removes_everything() {
    let home = Home::new();
    let said = home.ran(&["demo"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    for part in [
        "sample.git",
        "This is a rehearsal",
        "Write REHEARSAL.md",
        "Done after",
        "+++ b/REHEARSAL.md",
        "+# Rehearsal",
        "+- tea.py (11 lines)",
        "stackctl run --repo",
        "removed everything",
    ] {
        assert!(said.stdout.contains(part), "{part}: {}", said.stdout);
    }
    assert!(!said.stdout.contains('\x1b'), "colours in a file: {}", said.stdout);
    assert_eq!(said.stderr, "");
    home.assert_nothing_left();
}

#[tokio::test]
async fn the_prompt_is_the_callers() {
    let home = Home::new();
    let said = home.ran(&["demo", "--prompt", "Improve the README, it's short"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stdout.contains(r"--prompt 'Improve the README, it'\''s short'"),
        "{}",
        said.stdout
    );
    assert!(
        said.stdout.contains("+It was asked: Improve the README, it's short"),
        "{}",
        said.stdout
    );
    assert!(said.stdout.contains("--- a/README.md"), "{}", said.stdout);
    home.assert_nothing_left();
}

/// At its beginning, while the stack starts, while the agent works, and while it writes.
#[tokio::test]
async fn interrupted_it_leaves_nothing() {
    for (mark, signal) in [
        ("1. A sample", Signal::SIGINT),
        ("stackctl up", Signal::SIGTERM),
        ("Job ", Signal::SIGINT),
        ("This is a rehearsal", Signal::SIGINT),
        ("Glob", Signal::SIGHUP),
    ] {
        let home = Home::new();
        let demo = RunningCommand::start(home.stackctl(&["demo"]));
        demo.prints(mark).await;
        let told = Instant::now();
        demo.signal(signal);
        let said = demo.finish().await;
        assert_eq!(said.code, 130, "{mark}: {said:?}");
        assert!(
            said.stdout.ends_with("Interrupted; nothing is left behind.\n"),
            "{mark}: {said:?}"
        );
        assert_eq!(said.stderr, "", "{mark}");
        assert!(told.elapsed() < Duration::from_secs(10), "{mark}: {:?}", told.elapsed());
        home.assert_nothing_left();
    }
}

/// Nothing can take the files away then, but no process may live on.
#[tokio::test]
async fn killed_it_leaves_no_process() {
    let home = Home::new();
    let demo = RunningCommand::start(home.stackctl(&["demo"]));
    demo.prints("This is a rehearsal").await;
    assert!(home.processes().len() >= 6, "{:#?}", home.processes());
    demo.signal(Signal::SIGKILL);
    wait_for("all processes to be gone", PATIENCE, || async {
        home.processes().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn kept_it_is_a_stack_until_ctrl_c() {
    let home = Home::new();
    let demo = RunningCommand::start(home.stackctl(&["demo", "--keep"]));
    demo.prints("\nlog ").await;
    let printed = demo.stdout();
    let (_, rest) = printed.rsplit_once("workflows at ").unwrap();
    let (url, rest) = rest.split_once(", the sample at ").unwrap();
    let (sample, _) = rest.split_once('\n').unwrap();
    let (status, _, health) = http_json("GET", &format!("{url}/health"), None, &[]).await;
    assert_eq!(status, 200, "{health}");
    let other = Home::new();
    let run = other.ran(&["run", "--url", url, "--repo", sample, "--prompt", "again"]).await;
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("This is a rehearsal"), "{run:?}");
    demo.signal(Signal::SIGINT);
    let said = demo.finish().await;
    assert_eq!(said.code, 0, "{said:?}");
    home.assert_nothing_left();
}

#[tokio::test]
async fn the_real_agent_needs_something() {
    let home = Home::new();
    let said = home.ran(&["demo", "--real"]).await;
    assert_eq!((said.code, &*said.stdout), (1, ""), "{said:?}");
    for part in ["npm install -g @anthropic-ai/claude-code", "CLAUDE_CODE_CREDENTIALS", "doctor"] {
        assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
    }
    home.assert_nothing_left();
}

/// The real CLI before a mock of its API.
#[tokio::test]
async fn the_real_agent_plays_too() {
    let Some(claude) = real_claude() else {
        let why = "CLAUDE_BIN_REAL does not name the Claude CLI";
        return skip("the_real_agent_plays_too", why);
    };
    let api = MockApi::start(vec![
        Turn::bash("echo 'written by the CLI' > NOTE.md"),
        Turn::text("It is written down."),
    ])
    .await;
    let home = Home::new();
    let mut command = home.stackctl(&["demo", "--real"]);
    command.env("CLAUDE_BIN", claude).env("ANTHROPIC_BASE_URL", api.url());
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command
        .env("IS_SANDBOX", "1")
        .env("AGENT_USER", "none")
        .env("ANTHROPIC_API_KEY", "sk-ant-s3cret");
    let said = RunningCommand::start(command).finish().await;
    assert_eq!((said.code, &*said.stderr), (0, ""), "{said:?}");
    for part in [
        "--prompt 'Add a one-line docstring",
        "It is written down.",
        "Done after",
        "+written by the CLI",
        "removed everything",
    ] {
        assert!(said.stdout.contains(part), "{part}: {}", said.stdout);
    }
    assert!(!said.stdout.contains("rehearsal") && !said.stdout.contains("s3cret"), "{said:?}");
    let turns = api.turns();
    assert_eq!(turns.len(), 2, "{turns:#?}");
    assert!(turns[0].body["messages"].to_string().contains("docstring to each function of tea.py"));
    assert!(turns.iter().all(|turn| turn.api_key.as_deref() == Some("sk-ant-s3cret")));
    home.assert_nothing_left();
}

#[tokio::test]
async fn a_failure_shows_the_log_and_leaves_nothing() {
    let home = Home::new();
    let script = AgentScript::new().say("I try").exit(7);
    let mut command = home.stackctl(&["demo", "--real", "--prompt", &script.prompt()]);
    command.env("CLAUDE_BIN", scripted_agent()).env("IS_SANDBOX", "1").env("AGENT_USER", "none");
    command.env("ANTHROPIC_API_KEY", "sk-ant-s3cret");
    let said = RunningCommand::start(command).finish().await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("The last lines of the stack's log"), "{}", said.stdout);
    assert!(said.stdout.contains("claude-code-api.1"), "{}", said.stdout);
    assert!(said.stderr.contains("did not complete"), "{}", said.stderr);
    assert!(!said.stdout.contains("s3cret") && !said.stderr.contains("s3cret"), "{said:?}");
    home.assert_nothing_left();
}

#[tokio::test]
async fn a_place_that_cannot_be_written() {
    let home = Home::new();
    let mut command = home.stackctl(&["demo"]);
    command.env("TMPDIR", "/nowhere");
    let said = RunningCommand::start(command).finish().await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("TMPDIR"), "{}", said.stderr);
    assert_eq!(said.stdout, "");
}

/// As `head` does.
#[tokio::test]
async fn a_reader_who_has_seen_enough() {
    let home = Home::new();
    let mut command = home.stackctl(&["demo"]);
    let mut demo = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(demo.stdout.take());
    let status = tokio::time::timeout(PATIENCE, demo.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(130));
    home.assert_nothing_left();
}

#[tokio::test]
async fn completions_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = home.ran(&["completions", shell]).await;
        assert_eq!(said.code, 0, "{shell}: {said:?}");
        assert!(said.stdout.contains("doctor") && said.stdout.contains("keep"), "{shell}");
        assert!(!said.stdout.contains("rehearsal-agent"), "{shell}");
    }
    assert_eq!(home.ran(&["completions", "csh"]).await.code, 2);
}
