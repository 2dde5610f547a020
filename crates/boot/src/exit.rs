//! The exit codes of the services, after `sysexits.h`.

use std::process::ExitCode;

/// The exit code of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ran its job, whatever the job's outcome, or was told to stop.
    Ok,
    /// The service itself failed (`EX_SOFTWARE`).
    Failed,
    /// Its settings are invalid (`EX_USAGE`).
    Usage,
    /// Its port or its volume is not available (`EX_UNAVAILABLE`).
    Unavailable,
    /// It was told to stop immediately (128 + SIGTERM).
    Killed,
}

impl Exit {
    /// Returns the same code, but waits a second first if this process is the first of a container. The engine
    /// restarts it immediately and without a limit, and the settings would still be invalid.
    #[must_use]
    pub fn delayed_in_container(self) -> Self {
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
