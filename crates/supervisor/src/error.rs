//! Why a stack does not start, or stops.

use std::{io, path::PathBuf};

use boot::InvalidSettings;
use child_process::Pid;

use crate::SlotId;

/// Why a stack does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Invalid settings.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// Ports that are taken, one description each.
    #[error("cannot listen on {}", .0.join("; "))]
    Ports(Vec<String>),
    /// The workspace cannot be used.
    #[error("cannot use the workspace; choose another directory with --workspace")]
    Workspace(#[source] workspace::Error),
    /// The system refuses something that the supervisor needs.
    #[error("cannot {doing}")]
    System {
        /// What was refused.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A part cannot be started at all.
    #[error("cannot start {slot} ({})", program.display())]
    Start {
        /// Which one.
        slot: SlotId,
        /// The program that was to run.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A task that keeps a part running ended, which is a fault of this crate.
    #[error("a task that keeps a part of the stack running has ended, which is a bug")]
    Task,
    /// Processes are left that cannot be killed: they hang in a system call, or belong to another user.
    #[error(
        "these processes cannot be killed: {0:?}; they hang in a system call or belong to another user"
    )]
    Left(Vec<Pid>),
}

impl Error {
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}
