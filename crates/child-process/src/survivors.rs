//! What remains after a sweep.

use std::{fmt, io};

use nix::unistd::Pid;

/// The processes that a sweep could not kill.
#[derive(Debug, Default)]
#[must_use = "some processes may have survived"]
pub struct Survivors {
    /// Those still alive: they are in an uninterruptible system call or belong to another user.
    pub pids: Vec<Pid>,
    /// Why it is unknown whether there are any, if the processes could not be listed until the deadline.
    pub unknown: Option<io::Error>,
}

impl Survivors {
    /// Whether it is certain that none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pids.is_empty() && self.unknown.is_none()
    }

    pub(crate) fn none() -> Self {
        Self::default()
    }
}

impl fmt::Display for Survivors {
    /// Completes "failed to kill …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unknown {
            None => write!(f, "the processes {:?}", self.pids),
            Some(error) => write!(f, "all processes, because they cannot be listed: {error}"),
        }
    }
}
