//! The agent's private directory, which is removed after the job.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use workspace::PrivateDirectory;

/// The prefix of these directories' names.
const PREFIX: &str = "agent-";
const HOME: &str = "home";
const CONFIG: &str = "config";
const TEMPORARY: &str = "tmp";

/// A new directory with mode 0700. Removed on drop.
#[derive(Debug)]
pub(crate) struct Private(PrivateDirectory);

impl Private {
    /// Creates one in `parent`, and removes those that killed replicas left there. Blocking.
    pub(crate) fn create(parent: &Path) -> io::Result<Self> {
        let private = Self(PrivateDirectory::create(parent, PREFIX)?);
        for directory in [private.home(), private.config(), private.temporary()] {
            fs::create_dir(directory)?;
        }
        Ok(private)
    }

    /// `HOME`.
    pub(crate) fn home(&self) -> PathBuf {
        self.0.path().join(HOME)
    }

    /// `CLAUDE_CONFIG_DIR`.
    pub(crate) fn config(&self) -> PathBuf {
        self.0.path().join(CONFIG)
    }

    /// `TMPDIR`.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.0.path().join(TEMPORARY)
    }
}
