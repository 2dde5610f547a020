//! Locks on files, which fall free with their process.

use std::{
    fs::{File, TryLockError},
    path::Path,
    thread,
    time::Duration,
};

use super::Job;
use crate::failure::{Failure, Result};

/// Between two tries. `flock` has no way to wait that a stop could end.
const INTERVAL: Duration = Duration::from_millis(50);

/// A lock that is held. Its file stays for ever: who removed it could not know that nobody waits for it.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock at `path`; tells `waiting` if it has to wait.
    ///
    /// # Errors
    /// If the job is to stop, or the file cannot be used.
    pub(super) fn take(job: &Job, path: &Path, waiting: &str) -> Result<Self> {
        let mut told = false;
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
            if !std::mem::replace(&mut told, true) {
                job.message(waiting);
            }
            job.check_stop()?;
            thread::sleep(INTERVAL);
        }
    }

    /// Takes the lock at `path` if it is free.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub(super) fn try_take(path: &Path) -> Result<Option<Self>> {
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
