//! The exit codes of the services, after `sysexits.h`.

use std::process::ExitCode;

/// How a service's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It served its job, whatever became of the job, or was told to stop.
    Ok,
    /// The service itself failed (`EX_SOFTWARE`).
    Failed,
    /// Its settings are wrong (`EX_USAGE`).
    Usage,
    /// Its port or its volume is not available (`EX_UNAVAILABLE`).
    Unavailable,
    /// It was told to stop immediately (128 + SIGTERM).
    Killed,
}

impl Exit {
    /// The same code, but a second later if this process is the first of a container: the engine restarts it
    /// immediately and without end, and the settings are still wrong then.
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
