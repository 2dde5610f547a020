//! Locks that fall free with the process that holds them, however it dies.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use crate::{Error, Result, write::without_waiting};

/// An exclusive `flock(2)`, held until this value is dropped or its process is gone.
///
/// The descriptor is close-on-exec, so no child of the holder keeps the lock alive.
#[derive(Debug)]
pub struct Lease {
    file: File,
}

impl Lease {
    /// Takes the lock on `path`, which is created if it is not there; `None` if another holds it.
    ///
    /// # Errors
    /// If the file cannot be opened or the file system knows no locks.
    pub fn try_acquire(path: &Path) -> Result<Option<Self>> {
        let file = without_waiting(OpenOptions::new().read(true).write(true))
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::io("open", path))?;
        Self::try_lock(file, path)
    }

    /// Whether the file it locks is the one at `path`, not one that was removed from there.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
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

    /// Whether some process holds the lock on `path`. A file that is not there is not held.
    ///
    /// # Errors
    /// If the file cannot be opened or the file system knows no locks.
    pub fn is_held(path: &Path) -> Result<bool> {
        let file = match without_waiting(OpenOptions::new().read(true)).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
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
        let path = dir.path().join("lease");
        assert!(!Lease::is_held(&path).unwrap());
        let lease = Lease::try_acquire(&path).unwrap().unwrap();
        assert!(Lease::is_held(&path).unwrap());
        assert!(Lease::try_acquire(&path).unwrap().is_none());
        drop(lease);
        assert!(!Lease::is_held(&path).unwrap());
        assert!(Lease::try_acquire(&path).unwrap().is_some());
    }
}
