//! The transcript of a session, where the CLI keeps it, so that a later job can resume the session.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde_json::json;

/// The CLI truncates and hashes longer project directory names in an undocumented way.
const MAX_PROJECT: usize = 200;

/// What is at the transcript's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Missing,
    Empty,
    Written,
}

pub(crate) fn state(cwd: &Path, session: &str) -> State {
    match file(cwd, session).map(fs::metadata) {
        Some(Ok(file)) if file.len() > 0 => State::Written,
        Some(Ok(_)) => State::Empty,
        Some(Err(_)) | None => State::Missing,
    }
}

/// Appends a message. Without `CLAUDE_CONFIG_DIR`, there is no transcript and nothing is written.
pub(crate) fn append(cwd: &Path, session: &str, role: &str, text: &str) -> io::Result<()> {
    let Some(file) = file(cwd, session) else { return Ok(()) };
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    let line = json!({
        "type": role,
        "message": {"role": role, "content": text},
        "sessionId": session,
        "cwd": cwd.to_string_lossy(),
    });
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// `$CLAUDE_CONFIG_DIR/projects/<working directory, encoded>/<session>.jsonl`.
fn file(cwd: &Path, session: &str) -> Option<PathBuf> {
    let config = PathBuf::from(std::env::var_os("CLAUDE_CONFIG_DIR")?);
    let is_name =
        !session.is_empty() && session.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let cwd = cwd.canonicalize().ok()?;
    let encode = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let project: String = cwd.to_string_lossy().chars().map(encode).collect();
    (is_name && project.len() <= MAX_PROJECT)
        .then(|| config.join("projects").join(project).join(format!("{session}.jsonl")))
}
