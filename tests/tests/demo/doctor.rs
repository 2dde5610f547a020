//! `stackctl doctor` on this machine.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::net::UnixListener,
    time::SystemTime,
};

use serde_json::Value;
use testkit::{CommandOutput, RunningCommand, free_port, scripted_agent};

use crate::support::Home;

/// Runs the doctor with everything that agents need and any free ports, except for what `more` and the environment
/// say.
async fn doctor(home: &Home, more: &[&str], environment: &[(&str, &str)]) -> CommandOutput {
    let mut arguments = vec!["doctor"];
    for flag in ["--port-workflow", "--port-pull", "--port-claude"] {
        if !more.contains(&flag) {
            arguments.extend([flag, "0"]);
        }
    }
    arguments.extend(more);
    let mut command = home.stackctl(&arguments);
    command.env("CLAUDE_BIN", scripted_agent()).env("IS_SANDBOX", "1").env("AGENT_USER", "none");
    command.env("ANTHROPIC_API_KEY", "sk-ant-s3cret").envs(environment.iter().copied());
    let said = RunningCommand::start(command).finish().await;
    assert!(!said.stdout.contains("s3cret") && !said.stderr.contains("s3cret"), "{said:?}");
    said
}

#[tokio::test]
async fn a_machine_that_has_everything() {
    let home = Home::new();
    let said = doctor(&home, &[], &[]).await;
    assert_eq!((said.code, &*said.stderr), (0, ""), "{said:?}");
    assert!(said.stdout.contains("2.1.197 (Claude Code)"), "{}", said.stdout);
    assert!(said.stdout.contains("an API key in ANTHROPIC_API_KEY"), "{}", said.stdout);
    assert!(said.stdout.ends_with(" up` will work.\n"), "{}", said.stdout);
    assert!(!home.temporary().parent().unwrap().join("workspace").exists());
    home.assert_nothing_left();
}

#[tokio::test]
async fn a_machine_that_misses_something() {
    let home = Home::new();
    let said = home.ran(&["doctor"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("MISSING  Claude Code CLI"), "{}", said.stdout);
    assert!(said.stdout.contains("→ export ANTHROPIC_API_KEY="), "{}", said.stdout);
    assert!(said.stdout.contains("or export CLAUDE_CODE_OAUTH_TOKEN="), "{}", said.stdout);
}

#[tokio::test]
async fn each_problem_is_named_for_programs_too() {
    let home = Home::new();
    let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let broken = home.program("broken", "exit 3");
    let closed = format!("http://127.0.0.1:{}", free_port());
    let expired = r#"{"claudeAiOauth": {"accessToken": "s3cret", "expiresAt": 1}}"#;
    for (name, more, environment) in [
        ("ports", &["--port-pull", &*port][..], &[][..]),
        ("ports", &["--port-pull", "1", "--bind", "192.0.2.1"], &[]),
        ("workspace", &["--workspace", "/proc/nowhere"], &[]),
        ("credential", &[], &[("CLAUDE_CODE_CREDENTIALS_JSON", "s3cret")]),
        ("credential", &[], &[("CLAUDE_CODE_CREDENTIALS_JSON", expired)]),
        ("credential", &[], &[("CLAUDE_CODE_CREDENTIALS_SECRET", "/nowhere")]),
        ("credential", &[], &[("ANTHROPIC_API_KEY", "")]),
        ("settings", &[], &[("QUEUE_LIMIT", "many")]),
        ("Claude Code CLI", &[], &[("CLAUDE_BIN", "/nowhere/claude")]),
        ("Claude Code CLI", &[], &[("CLAUDE_BIN", "")]),
        ("Claude Code CLI", &[], &[("CLAUDE_BIN", &broken)]),
        ("Messages API", &["--net"], &[("ANTHROPIC_BASE_URL", &closed), NO_GIT_HOST]),
    ] {
        let said = doctor(&home, &[&["--json"], more].concat(), environment).await;
        assert_eq!(said.code, 1, "{name}: {said:?}");
        assert_eq!(parsed(&said)["ok"], false);
        assert_eq!(findings(&said, "missing"), [name], "{environment:?}: {}", said.stdout);
    }
}

/// A stack works without these, but not as well.
#[tokio::test]
async fn advice_fails_nothing() {
    let home = Home::new();
    let old = home.program("old", "echo 1.0.128 '(Claude Code)'");
    let soon =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() + 90_000;
    let soon = format!(r#"{{"claudeAiOauth": {{"accessToken": "s3cret", "expiresAt": {soon}}}}}"#);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap());
    let host = format!("127.0.0.1:{}", free_port());
    let net = [("ANTHROPIC_BASE_URL", &*api), ("GIT_CREDENTIAL_HOSTS", &*host)];
    for (name, more, environment) in [
        ("Claude Code CLI", &[][..], &[("CLAUDE_BIN", &*old)][..]),
        ("credential", &[], &[("CLAUDE_CODE_CREDENTIALS_JSON", &*soon)]),
        ("Docker", &[], &[("DOCKER_HOST", "unix:///nowhere/docker.sock")]),
        ("git host", &["--net"], &net),
    ] {
        let said = doctor(&home, &[&["--json"], more].concat(), environment).await;
        let advice = findings(&said, "advice");
        assert!(advice.contains(&name.to_owned()), "{name}: {}", said.stdout);
        assert_eq!(said.code, 0, "{name}: {said:?}");
    }
}

/// Root without IS_SANDBOX, and any other user.
#[tokio::test]
async fn root_has_to_say_that_it_may() {
    let home = Home::new();
    let said = doctor(&home, &["--json"], &[("IS_SANDBOX", "0")]).await;
    let expected: &[&str] = if nix::unistd::geteuid().is_root() { &["user"] } else { &[] };
    assert_eq!(findings(&said, "missing"), expected, "{}", said.stdout);
}

#[tokio::test]
async fn a_directory_for_temporary_files_that_is_gone() {
    let home = Home::new();
    let said = doctor(&home, &["--json"], &[("TMPDIR", "/nowhere")]).await;
    assert_eq!(findings(&said, "missing"), ["temporary files"], "{said:?}");
    // It is asked in a home of its own, which is a temporary directory too: that says nothing about the CLI.
    assert!(findings(&said, "unknown").contains(&"Claude Code CLI".to_owned()), "{said:?}");
}

/// Bounds are looked at as they are for the doctor's own process.
#[tokio::test]
async fn bounds_of_the_process() {
    let home = Home::new();
    for (bound, counts, expected) in [
        // `up` raises the soft bound by itself.
        ("ulimit -Sn 64", "3", &[][..]),
        ("ulimit -n 200", "3", &["open files"]),
        ("ulimit -n 4000", "1000", &["open files"]),
    ] {
        let stackctl = testkit::target_binary("stackctl");
        let line = format!("{bound} && exec {} \"$@\"", stackctl.display());
        let arguments = ["-c", &line, "sh", "doctor", "--json", "--workflow", counts];
        let mut shell = tokio::process::Command::new("/bin/sh");
        shell.args(arguments).args(FREE_PORTS).env_clear();
        shell.current_dir(home.temporary()).env("TMPDIR", home.temporary());
        shell.env("CLAUDE_BIN", scripted_agent()).env("IS_SANDBOX", "1").env("AGENT_USER", "none");
        shell.env("ANTHROPIC_API_KEY", "sk-ant-s3cret");
        let said = RunningCommand::start(shell).finish().await;
        assert_eq!(findings(&said, "missing"), expected, "{bound}: {said:?}");
        assert_eq!(said.code, i32::from(!expected.is_empty()), "{bound}: {said:?}");
    }
}

/// More agents than the machine has memory for, and more processes than it has inotify instances for.
#[tokio::test]
async fn more_replicas_than_the_machine_can_take() {
    let home = Home::new();
    let said = doctor(&home, &["--json", "--claude", "1000", "--workflow", "1000"], &[]).await;
    let all = parsed(&said)["findings"].as_array().unwrap().clone();
    let of = |name: &str| all.iter().find(|finding| finding["name"] == name).unwrap().clone();
    let memory = of("memory");
    assert!(memory["found"].as_str().unwrap().ends_with("needed by 1000 agents at once"));
    let first_number = |finding: &Value| {
        let words = finding["found"].as_str().unwrap().split(' ').next().unwrap().to_owned();
        words.parse::<u64>().unwrap()
    };
    assert_eq!(memory["state"] == "ok", first_number(&memory) >= 300_000 + 32_000, "{memory}");
    let inotify = of("inotify");
    assert!(inotify["found"].as_str().unwrap().contains(", 2005 needed"), "{inotify}");
    assert_eq!(inotify["state"] == "ok", first_number(&inotify) >= 2005, "{inotify}");
}

/// It asks the engine at the socket.
#[tokio::test]
async fn an_engine_that_answers() {
    let home = Home::new();
    let socket = home.temporary().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let engine = std::thread::spawn(move || {
        let (mut caller, _) = listener.accept().unwrap();
        let _read = caller.read(&mut [0; 1000]).unwrap();
        caller.write_all(b"HTTP/1.0 200 OK\r\n\r\n{\"Version\":\"28.0.1\"}\n").unwrap();
    });
    let host = format!("unix://{}", socket.display());
    let said = doctor(&home, &[], &[("DOCKER_HOST", &host)]).await;
    assert!(said.stdout.contains("28.0.1 answers"), "{}", said.stdout);
    engine.join().unwrap();
    let said = doctor(&home, &[], &[("DOCKER_HOST", "ssh://192.0.2.1")]).await;
    assert!(said.stdout.contains("?        Docker"), "{}", said.stdout);
}

/// If the doctor misses something that `up` needs itself, `up` does not start either.
#[tokio::test]
async fn up_agrees() {
    let home = Home::new();
    let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    for lack in [["--port-claude", &port], ["--workspace", "/proc/nowhere"]] {
        let ports = FREE_PORTS.chunks(2).filter(|pair| pair[0] != lack[0]).flatten();
        let arguments = [&["up"][..], &lack, &ports.copied().collect::<Vec<_>>()].concat();
        let said = home.ran(&arguments).await;
        assert_eq!(said.code, 69, "{lack:?}: {said:?}");
        assert!(said.stderr.contains(lack[0]), "{said:?}");
    }
}

const FREE_PORTS: [&str; 6] = ["--port-workflow", "0", "--port-pull", "0", "--port-claude", "0"];

/// So that no host outside is asked.
const NO_GIT_HOST: (&str, &str) = ("GIT_CREDENTIAL_HOSTS", "127.0.0.1:1");

fn parsed(said: &CommandOutput) -> Value {
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// The names of the findings in a state. What is missing comes with what fixes it.
fn findings(said: &CommandOutput, state: &str) -> Vec<String> {
    let report = parsed(said);
    let all = report["findings"].as_array().unwrap();
    let found: Vec<_> = all.iter().filter(|finding| finding["state"] == state).collect();
    assert!(state == "unknown" || found.iter().all(|it| it["fix"].is_string()), "{found:#?}");
    found.into_iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect()
}
