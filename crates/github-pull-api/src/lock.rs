//! Locks on files, which the kernel releases when their process ends.

use std::{io, path::Path, thread, time::Duration};

use workspace::FileLock;

use crate::{
    failure::{Failure, Result},
    monitor::Monitor,
};

/// Between two tries. `flock` has no way to wait that a stop could end.
const INTERVAL: Duration = Duration::from_millis(50);

/// A lock that is held. Its file is never removed: another process may be waiting for the lock on it.
#[derive(Debug)]
pub(crate) struct Lock {
    lock: FileLock,
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

    /// Notes that what it protects was used now. Otherwise it may be deleted as unused.
    pub(crate) fn mark_used(&self) {
        if let Err(error) = self.lock.mark_used() {
            tracing::warn!(%error, "cannot note the use of a lock");
        }
    }

    /// Takes the lock at `path` if it is free.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>> {
        match FileLock::try_acquire(path) {
            Ok(lock) => Ok(lock.map(|lock| Self { lock })),
            Err(workspace::Error::Io { operation, path, source }) => {
                Err(Failure::io(operation, &path)(source))
            }
            Err(error) => Err(Failure::io("lock", path)(io::Error::other(error))),
        }
    }
}
