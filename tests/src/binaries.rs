//! Finds the binaries that tests run, and reports missing ones.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// The command that builds all binaries.
const BUILD: &str = "run `cargo build --workspace` (with the test's profile) first";

/// Whether this process has already printed that a binary is out of date. Once is enough.
static NOTED: AtomicBool = AtomicBool::new(false);

/// The path of a binary of this workspace, built beside the running test. `cargo test --workspace`
/// also builds it, but `cargo test -p testkit` does not. If the binary is older than its sources,
/// this prints a note to standard error.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn target_binary(name: &str) -> PathBuf {
    let test = env::current_exe().expect("failed to find the running test's path");
    let directory = test.parent().expect("an executable has a directory");
    // `cargo test` puts tests into `target/<profile>/deps`, and binaries one level above.
    let directory =
        if directory.ends_with("deps") { directory.parent().unwrap() } else { directory };
    let binary = directory.join(name);
    assert!(binary.is_file(), "{} does not exist; {BUILD}", binary.display());
    if let Some(source) = newer_source(&binary)
        && !NOTED.swap(true, Ordering::Relaxed)
    {
        let (binary, source) = (binary.display(), source.display());
        // Not `eprintln!`, whose output the test harness hides when the test passes.
        let _unseen = writeln!(std::io::stderr(), "NOTE: {binary} is older than {source}; {BUILD}");
    }
    binary
}

/// A source file that changed after the binary was linked, according to the list that cargo writes
/// beside it.
fn newer_source(binary: &Path) -> Option<PathBuf> {
    let linked = fs::metadata(binary).ok()?.modified().ok()?;
    let list = fs::read_to_string(binary.with_extension("d")).ok()?;
    let sources = list.split_once(": ")?.1.split_whitespace().map(PathBuf::from);
    let is_newer = |source: &PathBuf| {
        fs::metadata(source).and_then(|it| it.modified()).is_ok_and(|changed| changed > linked)
    };
    { sources }.find(is_newer)
}

/// The path of `scripted-agent`, which stands in for the Claude CLI.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn scripted_agent() -> PathBuf {
    target_binary("scripted-agent")
}

/// The real Claude CLI, if `CLAUDE_BIN_REAL` is set.
#[must_use]
pub fn real_claude() -> Option<PathBuf> {
    env::var_os("CLAUDE_BIN_REAL").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Prints one line to standard error that says which test is skipped and why.
///
/// # Panics
/// If `FORBID_SKIPS` is set, so that a machine that should have everything cannot hide a gap.
pub fn skip(test: &str, why: &str) {
    assert!(env::var_os("FORBID_SKIPS").is_none(), "skipping is forbidden here: {test}: {why}");
    // Not `eprintln!`, whose output the test harness hides when the test passes.
    writeln!(std::io::stderr(), "SKIPPED: {test}: {why}").expect("failed to write to stderr");
}
