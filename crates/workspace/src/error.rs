//! What can go wrong on the volume.

use std::{io, path::PathBuf};

use contract::{Code, RequestError};

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation on the volume that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be used.
    #[error("{operation} {path}", path = path.display())]
    Io {
        /// What was tried, as in "failed to …".
        operation: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file of ours does not hold what it should.
    #[error("read {path}: not what this version writes", path = path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// An event id that this journal never gave out.
    #[error("no event of this job has the id {0}")]
    UnknownEvent(u64),
}

impl Error {
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    /// Whether the volume (or a quota on it) is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// What a caller is told whose request cannot be written down; the rest goes to the log.
    #[must_use]
    pub fn refusal(&self) -> RequestError {
        tracing::error!(error = self as &dyn std::error::Error, "cannot use the workspace");
        if self.is_disk_full() {
            RequestError::new(
                Code::DiskFull,
                "the workspace is full: make room, then send the request again",
            )
        } else {
            RequestError::new(Code::Internal, "the workspace cannot be used: see the log")
        }
    }

    /// Whether the file asked for is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
