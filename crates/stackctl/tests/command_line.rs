//! What `stackctl` says to a wrong command line and to wrong settings, before it starts anything.
//!
//! Being here, this test also makes `cargo test --workspace` build the program itself, which the
//! end-to-end tests start.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly, and start the program as a user does"
)]

use std::{
    net::TcpListener,
    process::{Command, Output},
};

/// Runs the program in an empty directory, with these variables alone.
fn stackctl(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_stackctl"))
        .args(arguments)
        .current_dir(directory.path())
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[test]
fn help_and_version() {
    let (code, text) = stackctl(&["--version"], &[]);
    assert_eq!((code, text), (Some(0), format!("stackctl {}\n", env!("CARGO_PKG_VERSION"))));
    let (code, text) = stackctl(&["up", "--help"], &[]);
    assert_eq!(code, Some(0), "{text}");
    for flag in ["--workspace", "--workflow", "--pull", "--claude", "--port-workflow", "--bind"] {
        assert!(text.contains(flag), "{flag}: {text}");
    }
}

#[test]
fn wrong_arguments() {
    for arguments in [
        &[][..],
        &["sideways"],
        &["up", "--workflow", "-1"],
        &["up", "--claude", "1001"],
        &["up", "--port-pull", "70000"],
        &["up", "--bind", "everywhere"],
        &["serve"],
        &["serve", "everything"],
    ] {
        let (code, text) = stackctl(arguments, &[]);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains("--help"), "{arguments:?}: {text}");
    }
}

/// The address and the flag are named, for each port that is taken.
#[test]
fn taken_ports() {
    let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let flags = ["--port-workflow", "--port-pull", "--port-claude"];
    for taken in flags {
        let ports = flags.map(|flag| [flag, if flag == taken { &*port } else { "0" }]);
        let (code, text) = stackctl(&[&["up"], ports.as_flattened()].concat(), &[]);
        assert_eq!(code, Some(69), "{text}");
        let expected = format!("127.0.0.1:{port}: Address already in use");
        assert!(text.contains(&expected) && text.contains(taken), "{text}");
        assert_eq!(text.matches("--port-").count(), 1, "{text}");
    }
}

#[test]
fn a_workspace_that_cannot_be_made() {
    let ports = ["--port-workflow", "0", "--port-pull", "0", "--port-claude", "0"];
    let place = ["up", "--workspace", "/dev/null/workspace"];
    let (code, text) = stackctl(&[&place[..], &ports].concat(), &[]);
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("/dev/null/workspace") && text.contains("--workspace"), "{text}");
}

/// All that is wrong is named at once, and no secret is printed.
#[test]
fn wrong_settings() {
    let settings = [
        ("PORT", "http"),
        ("JOB_TIMEOUT_SECONDS", "-1"),
        ("BIND_ADDRESS", "home"),
        ("LOG_FORMAT", "xml"),
        ("CLAUDE_CODE_CREDENTIALS_JSON", "{\"apiKey\": \"sk-ant-secret"),
    ];
    let (code, text) = stackctl(&["serve", "claude-code-api"], &settings);
    assert_eq!(code, Some(64), "{text}");
    for (name, _) in settings {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert!(!text.contains("sk-ant-secret"), "{text}");
}

/// `up` reads the settings of all parts before it starts any, or makes anything.
#[test]
fn wrong_settings_of_any_part_stop_the_whole_stack_at_once() {
    let workspace = tempfile::tempdir().unwrap();
    let place = workspace.path().join("workspace");
    let settings = [
        // Of every part, of the gateway, of pulls, of agents.
        ("MAX_TURNS", "lots"),
        ("JOB_TIMEOUT_SECONDS", "1h"),
        ("QUEUE_LIMIT", "many"),
        ("GIT_STALL_SECONDS", "soon"),
        ("CLAUDE_CODE_CREDENTIALS_JSON", "{\"apiKey\": \"sk-ant-secret"),
    ];
    let arguments = ["up", "--workspace", place.to_str().unwrap()];
    let ports = ["--port-workflow", "0", "--port-pull", "0", "--port-claude", "0"];
    let (code, text) = stackctl(&[&arguments[..], &ports].concat(), &settings);
    assert_eq!(code, Some(64), "{text}");
    for (name, _) in settings {
        assert_eq!(text.matches(&format!("\n  {name}: ")).count(), 1, "{name}: {text}");
    }
    for problem in [
        "MAX_TURNS: must be a whole number of turns above 0, such as 20",
        "JOB_TIMEOUT_SECONDS: must be whole seconds from 1 to 31536000, such as 3600",
    ] {
        assert!(text.contains(problem), "{text}");
    }
    assert!(!text.contains("sk-ant-secret"), "{text}");
    assert!(!place.exists(), "{text}");
}
