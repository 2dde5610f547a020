//! Errors of a stack.

use std::{io, path::PathBuf};

use boot::InvalidSettings;
use child_process::Survivors;

use crate::SlotId;

/// Why a stack does not start, or stops unexpectedly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Invalid settings.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// Ports that are in use, one description each.
    #[error("cannot listen on {}", .0.join("; "))]
    Ports(Vec<String>),
    /// The workspace cannot be used.
    #[error("cannot use the workspace; choose another directory with --workspace")]
    Workspace(#[source] workspace::Error),
    /// The parts of the stack could not sign their records.
    #[error("cannot use the secret of the stack")]
    Secret(#[source] workspace::Error),
    /// A system call that the supervisor needs failed.
    #[error("cannot {doing}")]
    System {
        /// The operation.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A part cannot be started.
    #[error("cannot start {slot} ({})", program.display())]
    Start {
        /// The slot.
        slot: SlotId,
        /// The program to run.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A task that keeps a part running ended, which is a bug in this crate.
    #[error("a task that keeps a part of the stack running has ended")]
    Task,
    /// Processes that cannot be killed.
    #[error("failed to kill {0}")]
    Left(Survivors),
}

impl Error {
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}
