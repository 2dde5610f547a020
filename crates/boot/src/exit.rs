//! The exit codes of the services, after `sysexits.h`.

use std::process::ExitCode;

/// How a service's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It served its job, whatever became of the job, or was told to stop.
    Ok,
    /// It failed at something of its own (`EX_SOFTWARE`).
    Failed,
    /// Its settings are wrong (`EX_USAGE`).
    Usage,
    /// It cannot have its port or its volume (`EX_UNAVAILABLE`).
    Unavailable,
    /// It was told to stop at once (128 + SIGTERM).
    Killed,
}

impl Exit {
    /// This, a second later where this process is a container's first: the engine starts the next one at once
    /// and for ever, and what is wrong with settings is still wrong then.
    #[must_use]
    pub fn unhurried(self) -> Self {
        if std::process::id() == 1 {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        self
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 70,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::Killed => 143,
        })
    }
}
