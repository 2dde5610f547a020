//! Where the binaries are that tests run, and what to do about a missing one.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// What makes a binary that is there and up to date.
const BUILD: &str = "run `cargo build --workspace` (with the test's profile) first";

/// Whether a binary that is out of date has been noted; once is enough.
static NOTED: AtomicBool = AtomicBool::new(false);

/// The path of a binary of this workspace, as built beside the running test. `cargo test --workspace`
/// builds it too, `cargo test -p testkit` does not: one that is older than its sources is noted on
/// standard error.
///
/// # Panics
/// If it has not been built.
#[must_use]
pub fn target_binary(name: &str) -> PathBuf {
    let test = env::current_exe().expect("failed to find the running test's path");
    let directory = test.parent().expect("an executable has a directory");
    // `cargo test` puts tests in `target/<profile>/deps`, binaries one above.
    let directory =
        if directory.ends_with("deps") { directory.parent().unwrap() } else { directory };
    let binary = directory.join(name);
    assert!(binary.is_file(), "{} does not exist: {BUILD}", binary.display());
    if let Some(source) = newer_source(&binary)
        && !NOTED.swap(true, Ordering::Relaxed)
    {
        let (binary, source) = (binary.display(), source.display());
        // Not `eprintln!`, which the test harness keeps back when the test passes.
        let _unseen = writeln!(std::io::stderr(), "NOTE: {binary} is older than {source}: {BUILD}");
    }
    binary
}

/// A source that was changed after the binary was linked, by the list that cargo leaves beside it.
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

/// The real Claude CLI, if `CLAUDE_BIN_REAL` names it.
#[must_use]
pub fn real_claude() -> Option<PathBuf> {
    env::var_os("CLAUDE_BIN_REAL").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Notes on one line of standard error that `test` does not run, and why.
///
/// # Panics
/// If `FORBID_SKIPS` is set, so that a machine which should have everything cannot hide a hole.
pub fn skip(test: &str, why: &str) {
    assert!(env::var_os("FORBID_SKIPS").is_none(), "skipping is forbidden here: {test}: {why}");
    // Not `eprintln!`, which the test harness keeps back when the test passes.
    writeln!(std::io::stderr(), "SKIPPED: {test}: {why}").expect("failed to write to stderr");
}
