//! Locks on files, which the kernel releases when their process ends.

use std::{
    fs::{File, TryLockError},
    path::Path,
    thread,
    time::Duration,
};

use crate::{
    failure::{Failure, Result},
    monitor::Monitor,
};

/// Between two tries. `flock` has no way to wait that a stop could end.
const INTERVAL: Duration = Duration::from_millis(50);

/// A lock that is held. Its file is never removed: another process may be waiting for the lock on it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock at `path`; sends `waiting` to the caller if it has to wait.
    ///
    /// # Errors
    /// If the job is to stop, or the file cannot be used.
    pub(crate) fn take(monitor: &Monitor, path: &Path, waiting: &str) -> Result<Self> {
        let mut told = false;
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
            if !std::mem::replace(&mut told, true) {
                monitor.message(waiting);
            }
            monitor.check_stop()?;
            thread::sleep(INTERVAL);
        }
    }

    /// Takes the lock at `path` if it is free.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(Failure::io("open the lock", path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Failure::io("lock", path)(error)),
        }
    }
}
