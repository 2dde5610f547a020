//! The transcript of a session, where the CLI has it, so that a replica keeps it and a later job can go on with
//! the session.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde_json::json;

/// The longest name of a project's directory that the CLI does not cut.
const MAX_PROJECT: usize = 200;

/// Whether there is something to go on with.
pub(super) fn exists(cwd: &Path, session: &str) -> bool {
    file(cwd, session).is_some_and(|file| fs::metadata(file).is_ok_and(|file| file.len() > 0))
}

/// Adds a line. Without `CLAUDE_CONFIG_DIR` there is no transcript, and nothing is done.
pub(super) fn append(cwd: &Path, session: &str, role: &str, text: &str) -> io::Result<()> {
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

/// `$CLAUDE_CONFIG_DIR/projects/<cwd, encoded>/<session>.jsonl`.
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
