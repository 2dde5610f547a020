//! Why a command on a whole stack failed, and what it exits with.

use std::path::{Path, PathBuf};

use supervisor::ConnectionError;

use crate::{
    client::{ClientError, exit},
    program,
};

/// Why a command on a whole stack failed. Each message says what to do next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpsError {
    #[error(
        "no Docker Engine answers at {host} ({why}): start it (`sudo systemctl start docker`), or name another with DOCKER_HOST"
    )]
    NoEngine { host: String, why: String },
    #[error(
        "this user may not use {host}: run this as root, or join the group (`sudo usermod -aG docker $USER`, then log in again)"
    )]
    NotAllowed { host: String },
    #[error(
        "DOCKER_HOST={0} cannot be used here: only unix:// and tcp:// without TLS can; over SSH, forward the socket (`ssh -L /tmp/docker.sock:/var/run/docker.sock host`)"
    )]
    Scheme(String),
    #[error(
        "the engine at {host} is not in a Swarm: `./deploy-swarm.sh` creates one and deploys the stack"
    )]
    NoSwarm { host: String },
    #[error(
        "the engine at {host} is a worker of its Swarm: run this on a manager{managers}, or name one with DOCKER_HOST"
    )]
    NotManager { host: String, managers: String },
    #[error(
        "there is no stack '{stack}' on this Swarm{others}: `./deploy-swarm.sh --stack {stack}` deploys it, --stack names another"
    )]
    NoStack { stack: String, others: String },
    #[error("no stack runs in {place}: start one with `{me} up --workspace {place}`, or name another workspace with --workspace", place = .workspace.display(), me = program::name())]
    NoLocal { workspace: PathBuf },
    #[error("found no stack: none runs in {} (--workspace), and {swarm}", .workspace.display())]
    Nothing { workspace: PathBuf, swarm: Box<OpsError> },
    #[error("failed to {doing}: the engine answered: {why}")]
    Engine { doing: &'static str, why: String },
    #[error("failed to ask the local stack")]
    Local(#[from] ConnectionError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotYet(String),
    #[error("failed to print")]
    Output(#[source] std::io::Error),
}

impl OpsError {
    pub(super) fn of_connection(error: ConnectionError, workspace: &Path) -> Self {
        match error {
            ConnectionError::Nobody => Self::NoLocal { workspace: workspace.to_owned() },
            error => Self::Local(error),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::Engine { .. } | Self::Output(_) | Self::NotYet(_) => exit::FAILED,
            _ => exit::UNREACHABLE,
        }
    }
}

/// What a command exits with that failed like this.
pub(super) fn code_of(error: &anyhow::Error) -> u8 {
    let ours = error.downcast_ref().map(OpsError::exit_code);
    let clients = || error.downcast_ref().map(ClientError::exit_code);
    ours.or_else(clients).unwrap_or(exit::FAILED)
}
