//! Errors of resolving a caller's path.

use std::{io, path::PathBuf};

use contract::{RequestError, WorkspacePath};
use nix::errno::Errno;

use crate::Error;

/// Why a caller's path does not lead to a directory of the workspace.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The path is invalid. The sentence is for the caller.
    #[error("{0}")]
    Refused(String),
    /// The volume cannot be read.
    #[error(transparent)]
    Volume(#[from] Error),
}

impl ResolveError {
    pub(crate) fn of(full: PathBuf, path: &WorkspacePath, error: io::Error) -> Self {
        let why = match error.kind() {
            io::ErrorKind::NotFound => format!("'{path}' does not exist in the workspace"),
            // A link that leads out of the workspace also causes this error.
            io::ErrorKind::PermissionDenied => format!("'{path}' leads out of the workspace"),
            io::ErrorKind::NotADirectory => format!("'{path}' is not a directory"),
            _ => match error.raw_os_error().map(Errno::from_raw) {
                None | Some(Errno::ELOOP | Errno::ENAMETOOLONG) => {
                    format!("'{path}' cannot be opened: {error}")
                }
                Some(_) => return Self::Volume(Error::io("open", full)(error)),
            },
        };
        Self::Refused(why)
    }

    /// The response to a caller that gave the path in `field`.
    #[must_use]
    pub fn refusal(&self, field: &'static str) -> RequestError {
        match self {
            Self::Refused(why) => RequestError::field(field, why),
            Self::Volume(error) => error.refusal(),
        }
    }
}
