//! Asking a running supervisor.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{UnixStream, unix::OwnedReadHalf},
};

use super::{
    by_directory,
    protocol::{Ask, Reply, StackView},
};

/// A supervisor that answers.
#[derive(Clone, Debug)]
pub struct Connection {
    workspace: PathBuf,
    pid: i32,
}

/// Why a supervisor cannot be asked, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// No supervisor runs on this workspace.
    #[error("no stack runs in this workspace")]
    Nobody,
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    /// It ended before it answered.
    #[error("it stopped before it answered")]
    Ended,
    /// Its answer is not one that this version knows.
    #[error("it runs another version of this program: {0}")]
    Unknown(String),
    /// It will not do it.
    #[error("it refused: {0}")]
    Refused(String),
}

/// Replies, one after the other.
#[derive(Debug)]
pub struct Replies(Lines<BufReader<OwnedReadHalf>>);

impl Connection {
    /// The supervisor of that workspace.
    ///
    /// # Errors
    /// If no supervisor answers there.
    pub async fn open(workspace: &Path) -> Result<Self, ConnectionError> {
        let real = workspace.canonicalize().map_err(|_| ConnectionError::Nobody)?;
        let mut connection = Self { workspace: real, pid: 0 };
        connection.pid = match connection.status().await {
            Ok(status) => status.pid,
            Err(ConnectionError::Broken(_)) => return Err(ConnectionError::Nobody),
            Err(error) => return Err(error),
        };
        Ok(connection)
    }

    /// The real path of the workspace.
    #[must_use]
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// The supervisor's process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What it is doing.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self) -> Result<StackView, ConnectionError> {
        match self.ask(&Ask::Status).await?.next().await? {
            Some(Reply::Status(status)) => Ok(status),
            other => Err(ConnectionError::unexpected(other)),
        }
    }

    /// Sends a question.
    ///
    /// # Errors
    /// If the supervisor is gone.
    pub async fn ask(&self, ask: &Ask) -> Result<Replies, ConnectionError> {
        let stream =
            by_directory(&self.workspace, |path| std::os::unix::net::UnixStream::connect(path))?;
        stream.set_nonblocking(true)?;
        let (reader, mut writer) = UnixStream::from_std(stream)?.into_split();
        let mut line = serde_json::to_vec(ask).map_err(io::Error::from)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
        // Not shut down for writing: a socket that closes is how the other side learns that nobody listens.
        writer.forget();
        Ok(Replies(BufReader::new(reader).lines()))
    }
}

impl Replies {
    /// The next; `None` if there are no more.
    ///
    /// # Errors
    /// If the supervisor refuses, or its answer cannot be read.
    pub async fn next(&mut self) -> Result<Option<Reply>, ConnectionError> {
        let Some(line) = self.0.next_line().await? else { return Ok(None) };
        match serde_json::from_str(&line) {
            Ok(Reply::Refused(why)) => Err(ConnectionError::Refused(why)),
            Ok(reply) => Ok(Some(reply)),
            Err(error) => Err(ConnectionError::Unknown(error.to_string())),
        }
    }
}

impl ConnectionError {
    /// A reply that does not answer the question.
    #[must_use]
    pub fn unexpected(reply: Option<Reply>) -> Self {
        match reply {
            None => Self::Ended,
            Some(_) => Self::Unknown("it answered another question".to_owned()),
        }
    }
}
