//! The agent's private directory, which is removed after the job.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tracing::warn;
use workspace::{FileLock, remove_tree};

/// The prefix of these directories' names.
const PREFIX: &str = "agent-";
/// A file in each directory, locked while the directory is in use.
const LOCK: &str = "lock";
const HOME: &str = "home";
const CONFIG: &str = "config";
const TEMPORARY: &str = "tmp";

/// A new directory with mode 0700. Removed on drop.
#[derive(Debug)]
pub(crate) struct Private {
    root: Option<TempDir>,
    path: PathBuf,
    _lock: FileLock,
}

impl Private {
    /// Creates one in `parent`, and removes those that killed replicas left there. Blocking.
    pub(crate) fn create(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        let root = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)?;
        // The CLI derives file names from resolved paths.
        let path = root.path().canonicalize()?;
        // `sweep` ignores a directory without a lock file, so the lock is created already held.
        let lock = FileLock::create(&path.join("unlocked"), &path.join(LOCK), b"")
            .map_err(io::Error::other)?;
        let private = Self { path, root: Some(root), _lock: lock };
        for directory in [private.home(), private.config(), private.temporary()] {
            fs::create_dir(directory)?;
        }
        Ok(private)
    }

    /// `HOME`.
    pub(crate) fn home(&self) -> PathBuf {
        self.path.join(HOME)
    }

    /// `CLAUDE_CONFIG_DIR`.
    pub(crate) fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// `TMPDIR`.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.path.join(TEMPORARY)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let Some(root) = self.root.take() else { return };
        remove(&root.keep());
    }
}

/// Removes directories that killed replicas left. Anything else with such a name is kept.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let is_named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // Skips links and other users' directories.
        let is_ours = || {
            let owner = nix::unistd::geteuid().as_raw();
            entry.metadata().is_ok_and(|it| it.is_dir() && it.uid() == owner)
        };
        if !is_named || !is_ours() {
            continue;
        }
        let lock = entry.path().join(LOCK);
        // The agent may have put anything here.
        if fs::symlink_metadata(&lock).is_ok_and(|it| it.is_file())
            && FileLock::is_held(&lock).is_ok_and(|is_held| !is_held)
        {
            remove(&entry.path());
        }
    }
}

/// Removes a directory whatever the agent has put there. Its lock goes last: what cannot be removed now is found by the
/// next [`sweep`].
fn remove(path: &Path) {
    let parts = [HOME, CONFIG, TEMPORARY].into_iter().map(|name| path.join(name));
    let removed = parts.chain([path.to_owned()]).try_for_each(|path| remove_tree(&path));
    if let Err(error) = removed {
        warn!(directory = %path.display(), %error, "failed to remove the agent's directory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_removed_with_any_contents() {
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
        dig(&private.home());
        drop(private);
        assert!(!path.exists());
        assert!(outside.path().join("kept").exists());
    }

    /// Deeper than a recursion may go.
    fn dig(top: &Path) {
        let mut at = cap_std::fs::Dir::open_ambient_dir(top, cap_std::ambient_authority()).unwrap();
        for _ in 0..10_000 {
            at.create_dir("d").unwrap();
            at = at.open_dir("d").unwrap();
        }
    }

    #[test]
    fn only_directories_of_killed_replicas_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        let alive = Private::create(parent.path()).unwrap();
        for name in ["agent-dead", "agent-unlocked", "another-dead"] {
            fs::create_dir_all(at(name).join("home/deep")).unwrap();
        }
        for name in ["agent-dead", "another-dead"] {
            fs::write(at(name).join(LOCK), "").unwrap();
        }
        dig(&at("agent-dead/home/deep"));
        std::os::unix::fs::symlink(at("another-dead"), at("agent-link")).unwrap();
        fs::write(at("agent-file"), "").unwrap();
        let next = Private::create(parent.path()).unwrap();
        assert!(!at("agent-dead").exists());
        for kept in ["agent-unlocked", "another-dead/lock", "agent-link", "agent-file"] {
            assert!(at(kept).exists(), "{kept}");
        }
        assert!(alive.home().exists() && next.home().exists());
    }
}
