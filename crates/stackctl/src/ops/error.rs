//! Why a command on a whole stack failed, and what it exits with.

use std::path::{Path, PathBuf};

use supervisor::ConnectionError;

use crate::{command::exit, program};

/// Why a command on a whole stack failed. Each message says what to do next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpsError {
    #[error("no stack runs in {place}: start one with `{me} up --workspace {place}`, or name another workspace with --workspace", place = .workspace.display(), me = program::name())]
    NoLocal { workspace: PathBuf },
    #[error("found no stack. Local: {}. Swarm: {swarm}", Self::NoLocal { workspace: workspace.clone() })]
    Nothing { workspace: PathBuf, swarm: swarm::Error },
    #[error("there is no workspace in {place}: name it with --workspace", place = .workspace.display())]
    NoWorkspace { workspace: PathBuf },
    #[error(transparent)]
    Swarm(#[from] swarm::Error),
    #[error("failed to ask the local stack")]
    Local(#[from] ConnectionError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotYet(String),
}

impl OpsError {
    pub(super) fn of_connection(error: ConnectionError, workspace: &Path) -> Self {
        match error {
            ConnectionError::NotRunning => Self::NoLocal { workspace: workspace.to_owned() },
            error => Self::Local(error),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Swarm(swarm::Error::NoService { .. }) => exit::USAGE,
            Self::Swarm(swarm::Error::Refused { .. }) | Self::NotYet(_) => exit::FAILED,
            _ => exit::UNREACHABLE,
        }
    }
}
