//! The client of a running supervisor.

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
    key::Key,
    protocol::{ControlRequest, Reply, StackView},
};

/// A connection to a running supervisor.
#[derive(Clone, Debug)]
pub struct Connection {
    workspace: PathBuf,
    pid: i32,
}

/// Why a supervisor cannot be reached, or did not do what was requested.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// No supervisor runs in this workspace.
    #[error("no supervisor answers in this workspace")]
    NotRunning,
    /// The key of its socket cannot be read.
    #[error(
        "the key of its socket, .stack/up.key, cannot be read; run this command as the user who runs `up`, and with the \
         same version"
    )]
    NoKey(#[source] io::Error),
    /// The connection broke.
    #[error("the connection to it broke")]
    Broken(#[from] io::Error),
    /// It exited before it answered.
    #[error("it exited before it answered")]
    Ended,
    /// This version does not know its answer.
    #[error("it has another version than this program: {0}")]
    Unknown(String),
    /// It refused the request.
    #[error("it refused: {0}")]
    Refused(String),
}

/// A sequence of replies.
#[derive(Debug)]
pub struct Replies(Lines<BufReader<OwnedReadHalf>>);

impl Connection {
    /// Connects to the supervisor of that workspace.
    ///
    /// # Errors
    /// If no supervisor answers there.
    pub async fn open(workspace: &Path) -> Result<Self, ConnectionError> {
        let real = workspace.canonicalize().map_err(|_| ConnectionError::NotRunning)?;
        let mut connection = Self { workspace: real, pid: 0 };
        connection.pid = match connection.status().await {
            Ok(status) => status.pid,
            Err(ConnectionError::Broken(_)) => return Err(ConnectionError::NotRunning),
            Err(error) => return Err(error),
        };
        Ok(connection)
    }

    /// The resolved path of the workspace.
    #[must_use]
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// The supervisor's pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The state of the stack.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self) -> Result<StackView, ConnectionError> {
        match self.ask(&ControlRequest::Status).await?.next().await? {
            Some(Reply::Status(status)) => Ok(status),
            other => Err(ConnectionError::unexpected(other)),
        }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// If the supervisor is gone.
    pub async fn ask(&self, ask: &ControlRequest) -> Result<Replies, ConnectionError> {
        let stream =
            by_directory(&self.workspace, |path| std::os::unix::net::UnixStream::connect(path))?;
        stream.set_nonblocking(true)?;
        let (reader, mut writer) = UnixStream::from_std(stream)?.into_split();
        let mut lines =
            Key::read(&self.workspace).map_err(ConnectionError::NoKey)?.line().into_bytes();
        serde_json::to_writer(&mut lines, ask).map_err(io::Error::from)?;
        lines.push(b'\n');
        writer.write_all(&lines).await?;
        // Not shut down for writing, because the other side takes a closed socket as a disconnect.
        writer.forget();
        Ok(Replies(BufReader::new(reader).lines()))
    }
}

impl Replies {
    /// The next reply; `None` if there are no more.
    ///
    /// # Errors
    /// If the supervisor refuses, or its reply cannot be parsed.
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
    /// The error for a reply of the wrong kind.
    #[must_use]
    pub fn unexpected(reply: Option<Reply>) -> Self {
        match reply {
            None => Self::Ended,
            Some(_) => Self::Unknown("it sent a reply of the wrong kind".to_owned()),
        }
    }
}
