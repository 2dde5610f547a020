//! The directory that the agent has for itself, and that is gone after the job.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tracing::warn;

/// A fresh directory that nobody else may enter. Removed when dropped, at the latest.
#[derive(Debug)]
pub(crate) struct Private {
    root: Option<TempDir>,
    path: PathBuf,
}

impl Private {
    /// Makes one in `parent`. Blocking.
    pub(crate) fn create(parent: &Path) -> io::Result<Self> {
        let root = tempfile::Builder::new()
            .prefix("agent-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)?;
        // The CLI names files after real paths.
        let private = Self { path: root.path().canonicalize()?, root: Some(root) };
        for directory in [private.home(), private.config(), private.temporary()] {
            fs::create_dir(directory)?;
        }
        Ok(private)
    }

    /// `HOME`.
    pub(crate) fn home(&self) -> PathBuf {
        self.path.join("home")
    }

    /// `CLAUDE_CONFIG_DIR`.
    pub(crate) fn config(&self) -> PathBuf {
        self.path.join("config")
    }

    /// `TMPDIR`.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.path.join("tmp")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let Some(root) = self.root.take() else { return };
        let path = root.keep();
        let removed = fs::remove_dir_all(&path).or_else(|_| {
            // Some tools, Go's module cache for one, leave directories that their owner may not write to.
            open_up(&path);
            fs::remove_dir_all(&path)
        });
        if let Err(error) = removed {
            warn!(directory = %path.display(), %error, "failed to remove the agent's directory");
        }
    }
}

/// Lets the owner into every directory below, as far as that goes. Links are not followed.
fn open_up(path: &Path) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_goes_whatever_is_in_it() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let private = Private::create(&std::env::temp_dir()).unwrap();
        let path = private.path.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let locked = private.home().join("go/pkg");
        fs::create_dir_all(&locked).unwrap();
        fs::write(locked.join("file"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), private.home().join("link")).unwrap();
        for directory in [&locked, locked.parent().unwrap()] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o500)).unwrap();
        }
        drop(private);
        assert!(!path.exists());
        assert!(outside.path().join("kept").exists());
    }
}
