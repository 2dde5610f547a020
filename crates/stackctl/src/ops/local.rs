//! The stack that `stackctl up` runs on this machine, through the socket beneath its workspace.

use std::path::{Path, PathBuf};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{UnixStream, unix::OwnedReadHalf},
};

use super::error::OpsError;
use crate::up::control::{self, Ask, Reply, Status};

/// A local stack that answers.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) workspace: PathBuf,
    /// The process of `up`.
    pub(crate) pid: i32,
}

/// Replies, one after the other.
pub(crate) struct Replies(Lines<BufReader<OwnedReadHalf>>);

impl Local {
    /// The stack on that workspace.
    ///
    /// # Errors
    /// If no `up` answers there.
    pub(crate) async fn connect(workspace: &Path) -> Result<Self, OpsError> {
        let nobody = || OpsError::NoLocal { workspace: workspace.to_owned() };
        let real = workspace.canonicalize().map_err(|_| nobody())?;
        let mut local = Self { workspace: real, pid: 0 };
        local.pid = local.status().await.map_err(|_| nobody())?.pid;
        Ok(local)
    }

    /// What it is doing.
    pub(crate) async fn status(&self) -> Result<Status, OpsError> {
        match self.ask(&Ask::Status).await?.next().await? {
            Some(Reply::Status(status)) => Ok(status),
            other => Err(unexpected(other)),
        }
    }

    /// Sends what is asked.
    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Replies, OpsError> {
        let failed = |error: std::io::Error| OpsError::Local(error.to_string());
        let stream = control::connect(&self.workspace).await.map_err(failed)?;
        let (reader, mut writer) = UnixStream::into_split(stream);
        let mut line =
            serde_json::to_vec(ask).map_err(|error| OpsError::Local(error.to_string()))?;
        line.push(b'\n');
        writer.write_all(&line).await.map_err(failed)?;
        // Not shut down for writing: a socket that is closed is how the other side learns that nobody listens.
        writer.forget();
        Ok(Replies(BufReader::new(reader).lines()))
    }
}

impl Replies {
    /// The next; none if there are no more.
    pub(crate) async fn next(&mut self) -> Result<Option<Reply>, OpsError> {
        let failed = |why: String| OpsError::Local(why);
        let Some(line) = self.0.next_line().await.map_err(|error| failed(error.to_string()))?
        else {
            return Ok(None);
        };
        match serde_json::from_str(&line) {
            Ok(Reply::Refused(why)) => Err(failed(why)),
            Ok(reply) => Ok(Some(reply)),
            Err(error) => Err(failed(format!("it does not speak as this version does: {error}"))),
        }
    }
}

pub(super) fn unexpected(reply: Option<Reply>) -> OpsError {
    OpsError::Local(match reply {
        None => "it ended before it answered".to_owned(),
        Some(_) => "it answered something else".to_owned(),
    })
}
