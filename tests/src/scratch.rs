//! Files outside the workspace that agents may write.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use nix::unistd::geteuid;
use tempfile::TempDir;

/// The one directory outside their workspace that the agents of test stacks can write to (`AGENT_WRITE_PATHS`). It
/// stays, because the stacks of other test processes use it too.
///
/// # Panics
/// If it cannot be created.
#[must_use]
pub fn scratch_root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = env::temp_dir().join(format!("workflow-stack-tests-{}", geteuid()));
        match fs::create_dir(&root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                panic!("failed to create {}: {error}", root.display())
            }
            _ => root.canonicalize().expect("it exists"),
        }
    })
}

/// A new directory outside the workspace that agents can write to: for the marks that they leave, and for the gates
/// that they wait for.
///
/// # Panics
/// If it cannot be created.
#[must_use]
pub fn scratch() -> TempDir {
    TempDir::new_in(scratch_root()).expect("failed to create a temporary directory")
}
