//! How `ps`, `scale` and `logs` reach a running `up`: a Unix socket beneath its workspace. One line of JSON asks,
//! lines of JSON answer.
//!
//! Whoever may write to the workspace may do here what it likes, which is less than it could do to the files.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use contract::{ReplicaId, Service, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{broadcast::error::RecvError, mpsc},
    task::JoinSet,
};
use web::BaseUrl;

use super::{history::Entry, output::Output, roster::Roster};

/// The socket's name, beside the rest of what a stack keeps on its volume.
const SOCKET: &str = "up.sock";
/// The longest question.
const ASK: u64 = 64 << 10;
/// How long a question may take to be asked.
const ASK_TIME: Duration = Duration::from_secs(5);
/// How many may ask at once.
const ASKERS: usize = 64;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub(crate) enum Ask {
    /// What every slot is doing.
    Status,
    /// So many replicas of these services.
    Scale { to: BTreeMap<Service, u16> },
    /// The last lines, and with `follow` all that come.
    Logs { part: Option<String>, tail: u32, follow: bool },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "is", rename_all = "camelCase")]
pub(crate) enum Reply {
    Status(Status),
    /// It will be done.
    Done,
    Line {
        part: String,
        number: u16,
        at: Timestamp,
        text: String,
    },
    /// So many lines were lost to a reader that is too slow.
    Missed(u64),
    /// It will not be done, because of this.
    Refused(String),
}

/// What an `up` is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) pid: i32,
    /// Where the gateway is reached from this machine.
    pub(crate) host: String,
    /// Of workflow, pull and claude.
    pub(crate) ports: [u16; 3],
    pub(crate) slots: Vec<SlotView>,
}

impl Status {
    /// The gateway's addresses, one for each service.
    pub(crate) fn addresses(&self) -> Vec<(Service, BaseUrl)> {
        let url = |port| format!("http://{}:{port}", self.host).parse().ok();
        Service::ALL
            .into_iter()
            .zip(self.ports)
            .filter_map(|(it, port)| Some((it, url(port)?)))
            .collect()
    }
}

/// A place in the stack, and the process that is in it now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SlotView {
    pub(crate) part: String,
    pub(crate) number: u16,
    pub(crate) state: SlotState,
    pub(crate) pid: Option<i32>,
    pub(crate) replica: Option<ReplicaId>,
    pub(crate) started: Option<Timestamp>,
    /// In the last hour.
    pub(crate) restarts: u64,
    /// It was scaled away, and goes when it is idle.
    pub(crate) leaving: bool,
    pub(crate) failure: Option<FailureView>,
}

/// Whether there is a process in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum SlotState {
    /// None, at this moment.
    Down,
    /// There is, and it waits for a job.
    Idle,
    /// There is one.
    Up,
}

/// The last time that a slot's process ended as it should not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailureView {
    pub(crate) at: Timestamp,
    pub(crate) what: String,
}

/// What the control of a stack works on.
pub(super) struct Control {
    pub(super) roster: Arc<Roster>,
    pub(super) output: Output,
    pub(super) host: String,
    pub(super) ports: [u16; 3],
    /// Where changes of the number of replicas are carried out.
    pub(super) changes: mpsc::Sender<BTreeMap<Service, u16>>,
}

/// The socket, which is gone with its owner.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Opens the socket of the stack on this workspace.
///
/// # Errors
/// If another `up` has it, or it cannot be made.
pub(super) async fn open(workspace: &Path) -> io::Result<Socket> {
    let path = socket(workspace);
    if connect(workspace).await.is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another `stackctl up` has this workspace",
        ));
    }
    // Of one that was killed.
    let _ = fs::remove_file(&path);
    let listener = by_directory(workspace, |path| UnixListener::bind(path))?;
    let socket = Socket { listener, path };
    fs::set_permissions(&socket.path, fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// Connects to the `up` on this workspace.
///
/// # Errors
/// If there is none.
pub(crate) async fn connect(workspace: &Path) -> io::Result<UnixStream> {
    let stream = by_directory(workspace, |path| std::os::unix::net::UnixStream::connect(path))?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

fn socket(workspace: &Path) -> PathBuf {
    workspace.join(".stack").join(SOCKET)
}

/// The address of a socket holds 107 bytes, and a workspace's path may be longer. So it is named through an
/// open directory.
fn by_directory<T>(workspace: &Path, action: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let directory = fs::File::open(workspace.join(".stack"))?;
    action(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(SOCKET))
}

/// Answers whoever asks, until it is dropped.
pub(super) async fn serve(socket: Socket, control: Control) {
    let control = Arc::new(control);
    let mut askers = JoinSet::new();
    loop {
        while askers.try_join_next().is_some() {}
        let Ok((stream, _)) = socket.listener.accept().await else {
            // Out of descriptors, most likely: those who are there let go of some.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if askers.len() < ASKERS {
            let control = Arc::clone(&control);
            // Its error is that of one who has hung up.
            askers.spawn(async move { answer(stream, &control).await });
        }
    }
}

async fn answer(stream: UnixStream, control: &Control) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(ASK));
    let mut line = String::new();
    let Ok(read) = tokio::time::timeout(ASK_TIME, reader.read_line(&mut line)).await else {
        return Ok(());
    };
    read?;
    let ask = match serde_json::from_str(&line) {
        Ok(ask) => ask,
        Err(error) => return say(&mut writer, &Reply::Refused(error.to_string())).await,
    };
    match ask {
        Ask::Status => {
            let status = Status {
                pid: std::process::id().cast_signed(),
                host: control.host.clone(),
                ports: control.ports,
                slots: control.roster.view(),
            };
            say(&mut writer, &Reply::Status(status)).await
        }
        Ask::Scale { to } => {
            let most = to.values().copied().max().unwrap_or_default();
            let reply = if most > 1000 {
                Reply::Refused("no service can have more than 1000 replicas".to_owned())
            } else if control.changes.send(to).await.is_err() {
                Reply::Refused("the stack is being stopped".to_owned())
            } else {
                Reply::Done
            };
            say(&mut writer, &reply).await
        }
        Ask::Logs { part, tail, follow } => {
            let hung_up = async {
                let mut rest = [0];
                let _ = reader.read(&mut rest).await;
            };
            tokio::select! {
                told = tell(&mut writer, control, part, tail, follow) => told,
                // Nothing may be logged for hours.
                () = hung_up => Ok(()),
            }
        }
    }
}

async fn tell(
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
    control: &Control,
    part: Option<String>,
    tail: u32,
    follow: bool,
) -> io::Result<()> {
    let (past, mut future) = control.output.history();
    let wanted = |entry: &Entry| part.as_ref().is_none_or(|part| *part == entry.part);
    let mut past: Vec<_> = past.into_iter().filter(wanted).collect();
    // So many of each part.
    let mut left: BTreeMap<String, u32> = BTreeMap::new();
    past.reverse();
    past.retain(|entry| {
        let left = left.entry(entry.part.clone()).or_insert(tail);
        let keep = *left > 0;
        *left = left.saturating_sub(1);
        keep
    });
    for entry in past.into_iter().rev() {
        say(writer, &entry.into()).await?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        match future.recv().await {
            Ok(entry) if wanted(&entry) => say(writer, &entry.into()).await?,
            Ok(_) => {}
            Err(RecvError::Lagged(lines)) => say(writer, &Reply::Missed(lines)).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

async fn say(writer: &mut (impl tokio::io::AsyncWrite + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_workspace_of_any_length_has_one_socket() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = directory.path().join("x".repeat(200));
        fs::create_dir_all(workspace.join(".stack")).unwrap();
        assert!(connect(&workspace).await.is_err());
        // What a killed one has left is no obstacle.
        fs::write(socket(&workspace), "").unwrap();
        let first = open(&workspace).await.unwrap();
        assert!(connect(&workspace).await.is_ok());
        let mode = fs::metadata(socket(&workspace)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = open(&workspace).await.unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        assert!(connect(&workspace).await.is_ok());
        drop(first);
        assert!(!socket(&workspace).exists());
    }

    #[test]
    fn the_words_of_the_protocol() {
        let scale = Ask::Scale { to: BTreeMap::from([(Service::Pull, 3)]) };
        let text = r#"{"ask":"scale","to":{"github-pull-api":3}}"#;
        assert_eq!(serde_json::to_string(&scale).unwrap(), text);
        assert_eq!(serde_json::from_str::<Ask>(text).unwrap(), scale);
        assert!(serde_json::from_str::<Ask>(r#"{"ask":"scale","to":{"gateway":3}}"#).is_err());
        let line = Reply::Line {
            part: "gateway".into(),
            number: 1,
            at: Timestamp::from_millisecond(0),
            text: "t".into(),
        };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Reply>(&text).unwrap(), line);
    }
}
