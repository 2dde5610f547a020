//! Directories that are not on the volume, for one process.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{FileLock, remove_tree};

/// A file in each directory, locked while the directory is in use.
const LOCK: &str = "lock";

/// A new directory with mode 0700. Removed on drop, with whatever is in it.
#[derive(Debug)]
pub struct PrivateDirectory {
    path: PathBuf,
    _lock: FileLock,
}

impl PrivateDirectory {
    /// Creates one in `parent`, whose name begins with `prefix`, and removes those that killed processes left there. Blocking.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(parent: &Path, prefix: &str) -> io::Result<Self> {
        sweep(parent, prefix);
        let path = parent.join(format!("{prefix}{}", Uuid::now_v7()));
        DirBuilder::new().mode(0o700).create(&path)?;
        // Without links, because programs derive file names from it.
        let path = path.canonicalize()?;
        // `sweep` ignores a directory without a lock file, so the lock is created already held.
        let lock = FileLock::create(&path.join("unlocked"), &path.join(LOCK), b"");
        Ok(Self { _lock: lock.map_err(io::Error::other)?, path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes directories that killed processes left. Anything else with such a name is kept.
fn sweep(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_named = entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix));
        // Skips links and other users' directories.
        let is_ours = || {
            let owner = nix::unistd::geteuid().as_raw();
            entry.metadata().is_ok_and(|it| it.is_dir() && it.uid() == owner)
        };
        if !is_named || !is_ours() {
            continue;
        }
        let lock = entry.path().join(LOCK);
        // Whoever worked there may have put anything here.
        if fs::symlink_metadata(&lock).is_ok_and(|it| it.is_file())
            && FileLock::is_held(&lock).is_ok_and(|is_held| !is_held)
        {
            remove(&entry.path());
        }
    }
}

/// Removes a directory whatever is in it. Its lock goes last: what cannot be removed now is found by the next [`sweep`].
fn remove(path: &Path) {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let parts = entries.filter(|entry| entry.file_name() != LOCK).map(|entry| entry.path());
    let removed = parts.chain([path.to_owned()]).try_for_each(|path| remove_tree(&path));
    if let Err(error) = removed {
        tracing::warn!(directory = %path.display(), %error, "failed to remove a private directory");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn it_is_private_and_removed_with_any_contents() {
        let (parent, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("kept"), "").unwrap();
        let private = PrivateDirectory::create(parent.path(), "agent-").unwrap();
        let path = private.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let locked = path.join("home/go/pkg");
        fs::create_dir_all(&locked).unwrap();
        fs::write(locked.join("file"), "").unwrap();
        symlink(outside.path(), path.join("home/link")).unwrap();
        for directory in [&locked, locked.parent().unwrap()] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o500)).unwrap();
        }
        dig(&path.join("home"));
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
    fn only_directories_of_killed_processes_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        let create = || PrivateDirectory::create(parent.path(), "agent-").unwrap();
        let alive = create();
        for name in ["agent-dead", "agent-unlocked", "another-dead"] {
            fs::create_dir_all(at(name).join("home/deep")).unwrap();
        }
        for name in ["agent-dead", "another-dead"] {
            fs::write(at(name).join(LOCK), "").unwrap();
        }
        dig(&at("agent-dead/home/deep"));
        symlink(at("another-dead"), at("agent-link")).unwrap();
        fs::write(at("agent-file"), "").unwrap();
        let next = create();
        assert!(!at("agent-dead").exists());
        for kept in ["agent-unlocked", "another-dead/lock", "agent-link", "agent-file"] {
            assert!(at(kept).exists(), "{kept}");
        }
        assert!(alive.path().exists() && next.path().exists());
    }
}
