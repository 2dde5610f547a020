//! Programs that tests make. They are written by another process: while this one has such a file open, another thread may
//! start a process, which has it open for a moment too, and a program that is open for writing cannot be executed (`ETXTBSY`).

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

/// Writes a script that everybody may execute.
///
/// # Panics
/// If it cannot be written.
pub fn write_program(path: &Path, script: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat >\"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut writer = shell.spawn().expect("failed to start sh");
    let mut input = writer.stdin.take().expect("its input is a pipe");
    input.write_all(script.as_bytes()).expect("failed to write a script");
    drop(input);
    assert!(writer.wait().is_ok_and(|it| it.success()), "failed to write {}", path.display());
}

/// Copies a program with its mode.
///
/// # Panics
/// If it cannot be copied.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--").args([from, to]).status();
    assert!(copied.is_ok_and(|it| it.success()), "failed to copy {}", from.display());
}
