//! Runs programs and waits for them.

use std::{
    ffi::OsStr,
    io::Write as _,
    process::{Command, Output, Stdio},
};

/// Prints a line that is visible while the test runs.
pub(crate) fn say(text: &str) {
    // Not `eprintln!`, whose output the test harness holds back.
    let _unseen = writeln!(std::io::stderr(), "swarm: {text}");
}

/// Runs a program until it exits.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("failed to run {program}: {error}"))
}

/// Whether a program exits with 0.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    output(program, arguments).status.success()
}

/// What a program prints, without the last line break.
///
/// # Panics
/// If the program fails.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    text(&format!("{program} {}", arguments.join(" ")), &output(program, arguments))
}

pub(crate) fn text(what: &str, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{said}{errors}", output.status);
    said.trim_end().to_owned()
}

/// Runs a line of shell with positional arguments.
pub(crate) fn shell(line: &str, arguments: &[&OsStr]) -> String {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", line, "bash"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("bash is installed");
    text(line, &output)
}
