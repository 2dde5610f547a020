//! Locks that are released when their process ends for any reason.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use crate::{Error, Result, write::without_waiting};

/// An exclusive `flock(2)` on a file, held until this value is dropped or its process ends.
///
/// The descriptor is close-on-exec, so no child of the holder keeps the lock. The file is not removed, because
/// another process may have just opened it.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// Locks the file at `path`, which is created if it does not exist. Never blocks: returns `None` if another
    /// process holds the lock.
    ///
    /// # Errors
    /// If the file cannot be opened, or the file system does not support locks.
    pub fn try_acquire(path: &Path) -> Result<Option<Self>> {
        let file = without_waiting(OpenOptions::new().read(true).write(true))
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::io("open", path))?;
        Self::try_lock(file, path)
    }

    /// Creates a locked file at `path`, replacing an existing file. The file is created and locked at `scratch`
    /// first, so no process ever sees it unlocked.
    ///
    /// # Errors
    /// If the file cannot be written or renamed.
    pub fn create(scratch: &Path, path: &Path, content: &[u8]) -> Result<Self> {
        let create = || {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(scratch)
                .map_err(Error::io("create", scratch))?;
            io::Write::write_all(&mut file, content).map_err(Error::io("write", scratch))?;
            let lock = Self::try_lock(file, scratch)?.ok_or_else(|| {
                Error::io("lock", scratch)(io::Error::other(
                    "another process holds a newly created file",
                ))
            })?;
            fs::rename(scratch, path).map_err(Error::io("write", path))?;
            Ok(lock)
        };
        let created = create();
        if created.is_err() {
            let _ = fs::remove_file(scratch);
        }
        created
    }

    /// Sets the file's time to the current time, which says when what it protects was last used.
    ///
    /// # Errors
    /// If the file system does not allow it.
    pub fn mark_used(&self) -> io::Result<()> {
        self.file.set_modified(std::time::SystemTime::now())
    }

    /// Whether the locked file is still at `path`, and was not removed from there.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        match (self.file.metadata(), fs::metadata(path)) {
            (Ok(ours), Ok(there)) => same(ours, there),
            _ => false,
        }
    }

    pub(crate) fn try_lock(file: File, path: &Path) -> Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        }
    }

    /// Whether a process holds the lock on the file at `path`. A missing file is not locked.
    ///
    /// # Errors
    /// If the file cannot be opened, or the file system does not support locks.
    pub fn is_held(path: &Path) -> Result<bool> {
        let file = match without_waiting(OpenOptions::new().read(true)).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("open", path)(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!FileLock::is_held(&path).unwrap());
        let lock = FileLock::try_acquire(&path).unwrap().unwrap();
        assert!(FileLock::is_held(&path).unwrap());
        assert!(FileLock::try_acquire(&path).unwrap().is_none());
        drop(lock);
        assert!(!FileLock::is_held(&path).unwrap());
        assert!(FileLock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn a_created_file_is_locked_as_soon_as_it_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (scratch, path) = (dir.path().join("scratch"), dir.path().join("lock"));
        let lock = FileLock::create(&scratch, &path, b"content").unwrap();
        assert!(FileLock::is_held(&path).unwrap() && lock.is_at(&path));
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert!(!scratch.exists());
        fs::write(&scratch, "taken").unwrap();
        assert!(FileLock::create(&scratch, &path, b"").is_err());
    }
}
