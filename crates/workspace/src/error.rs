//! Errors of the volume.

use std::{
    io,
    path::{Path, PathBuf},
};

use contract::{Code, RequestError, SessionId};

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a job or a request fails whose record was forged.
pub(crate) const FORGED: &str = "a record of it in the workspace was not written by this stack, or was changed: send it again, and \
                                 ask an operator who else can write there; the service's log names the file";

/// An operation on the volume that failed.
///
/// A missing file is not an error: functions that look for one return a `Result<Option<…>>`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be used.
    #[error("{operation} {path}", path = path.display())]
    Io {
        /// The operation, as in "failed to …".
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// One of our files has invalid content.
    #[error("read {path}: unexpected content", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// One of our files does not prove that this stack wrote it.
    #[error("believe {path}: {why}", path = path.display())]
    Forged {
        /// The file.
        path: PathBuf,
        /// What is wrong with its proof.
        why: &'static str,
    },
    /// The stack of this volume signs its records, and this process cannot do so.
    #[error("sign as the stack of {path} does: {why}", path = path.display())]
    CannotSign {
        /// The workspace.
        path: PathBuf,
        /// What is missing, and what to do.
        why: &'static str,
    },
    /// The record of a session has invalid content.
    #[error("read session {id}")]
    SessionDamaged {
        /// The session.
        id: SessionId,
        /// What is wrong with its record.
        source: Box<Self>,
    },
    /// The user of this process is not that of the stack, which could not read what this process creates.
    #[error(
        "write to {path}: the stack belongs to user {owner} and could not read the file of user {user}: run this \
         command as user {owner}, for example with `sudo -u '#{owner}'`",
        path = path.display()
    )]
    WrongUser {
        /// The stack's directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user of this process.
        user: u32,
    },
    /// An event ID that does not exist in this journal.
    #[error("this job has no event with the id {0}")]
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

    pub(crate) fn malformed<E>(path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = path.into();
        move |source| Self::Malformed { path, source: source.into() }
    }

    pub(crate) fn forged(path: &Path, why: &'static str) -> Self {
        Self::Forged { path: path.to_owned(), why }
    }

    pub(crate) fn unproven(path: &Path) -> Self {
        Self::forged(path, "it has no proof: an earlier version, or something else, wrote it")
    }

    /// Whether one of our files is damaged, or was not written by this stack. Retrying does not help.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Malformed { .. } | Self::SessionDamaged { .. }) || self.is_forged()
    }

    /// Whether one of our files does not prove that this stack wrote it.
    #[must_use]
    pub fn is_forged(&self) -> bool {
        matches!(self, Self::Forged { .. })
    }

    /// Whether a file that should be there is not.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the volume, or a quota on it, is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// Logs the error, and returns the response to a caller whose request fails because of it.
    #[must_use]
    pub fn refusal(&self) -> RequestError {
        tracing::error!(error = self as &dyn std::error::Error, "failed to use the workspace");
        match self {
            Self::SessionDamaged { id, source } if source.is_forged() => RequestError::new(
                Code::SessionDamaged,
                format!(
                    "nothing proves that this stack wrote the record of session {id}, perhaps because an earlier version did: \
                     ask an operator to look at it with `stackctl adopt`"
                ),
            ),
            Self::SessionDamaged { id, .. } => RequestError::new(
                Code::SessionDamaged,
                format!(
                    "the record of session {id} cannot be read: delete the session and start a new one"
                ),
            ),
            Self::Forged { .. } => RequestError::new(Code::RecordForged, FORGED),
            Self::Malformed { .. } => RequestError::new(
                Code::Internal,
                "a file of this request is damaged in the workspace: the service's log names it",
            ),
            _ if self.is_disk_full() => RequestError::new(
                Code::DiskFull,
                "the workspace is full: free some space, then send the request again",
            ),
            _ => RequestError::new(
                Code::Internal,
                "the workspace cannot be used at the moment: the service's log says why; send the request again",
            ),
        }
    }
}
