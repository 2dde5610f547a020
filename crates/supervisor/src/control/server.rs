//! The server of the control socket.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use contract::{PerService, Service};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{broadcast::error::RecvError, mpsc},
    task::JoinSet,
};
use workspace::FileLock;

use super::{
    by_directory,
    key::Key,
    protocol::{ControlRequest, Reply, StackView},
    socket,
};
use crate::{MOST_REPLICAS, history::Entry, output::Output, roster::Roster};

/// The longest request, in bytes.
const ASK: u64 = 64 << 10;
/// How long a request may take to arrive.
const ASK_TIME: Duration = Duration::from_secs(5);
/// The maximum number of concurrent clients.
const ASKERS: usize = 64;
/// Locked by the supervisor that owns the socket. It contains the supervisor's pid.
const LOCK: &str = "up.lock";

/// What requests operate on.
pub(crate) struct Control {
    pub(crate) roster: Arc<Roster>,
    pub(crate) output: Output,
    pub(crate) host: String,
    pub(crate) ports: PerService<u16>,
    /// Receives changes of the number of replicas.
    pub(crate) changes: mpsc::Sender<BTreeMap<Service, u16>>,
}

/// The socket. It is removed on drop.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    workspace: PathBuf,
    key: Arc<Key>,
    /// Held as long as the socket's file is ours, so that no process removes another's.
    _lock: FileLock,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // If this fails, the next owner removes it.
        let _ = fs::remove_file(&self.path);
        Key::remove(&self.workspace);
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("another `stackctl up`{} runs in this workspace", process(.0))]
    Held(Option<i32>),
    #[error(transparent)]
    Lock(#[from] workspace::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn process(pid: &Option<i32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

impl Socket {
    /// Creates the socket of this workspace's supervisor. A lock, which is released when its holder exits, decides
    /// which of several processes gets it. Blocks briefly.
    ///
    /// # Errors
    /// If another supervisor owns it, or it cannot be created.
    pub(crate) fn open(workspace: &Path) -> Result<Self, SocketError> {
        let lock_path = workspace.join(".stack").join(LOCK);
        let Some(lock) = FileLock::try_acquire(&lock_path)? else {
            let holder = fs::read_to_string(&lock_path).ok();
            return Err(SocketError::Held(holder.and_then(|pid| pid.trim().parse().ok())));
        };
        fs::write(&lock_path, std::process::id().to_string())?;
        let path = socket(workspace);
        match fs::remove_file(&path) {
            // It was left by a killed supervisor.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        // Before the socket, so that nobody finds one without a key.
        let key = Arc::new(Key::create(workspace)?);
        let listener = by_directory(workspace, |path| UnixListener::bind(path))?;
        let socket = Self { listener, path, workspace: workspace.to_owned(), key, _lock: lock };
        fs::set_permissions(&socket.path, fs::Permissions::from_mode(0o600))?;
        Ok(socket)
    }
}

/// Serves requests until it is dropped.
pub(crate) async fn serve(socket: Socket, control: Control) {
    let control = Arc::new(control);
    let mut askers = JoinSet::new();
    loop {
        while askers.try_join_next().is_some() {}
        let Ok((stream, _)) = socket.listener.accept().await else {
            // Most likely out of descriptors, which are released by other clients.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if askers.len() < ASKERS {
            let (control, key) = (Arc::clone(&control), Arc::clone(&socket.key));
            // An error means that the client disconnected.
            askers.spawn(async move { answer(stream, &key, &control).await });
        }
    }
}

async fn answer(stream: UnixStream, key: &Key, control: &Control) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader.take(ASK));
    let (mut said, mut line) = (String::new(), String::new());
    let lines = async {
        reader.read_line(&mut said).await?;
        if key.is(&said) { reader.read_line(&mut line).await.map(|_| true) } else { Ok(false) }
    };
    let Ok(is_known) = tokio::time::timeout(ASK_TIME, lines).await else {
        return Ok(());
    };
    if !is_known? {
        let why = "the request must begin with the key in .stack/up.key: use the same version of stackctl as `up`, \
                   as the user who runs it";
        return say(&mut writer, &Reply::Refused(why.to_owned())).await;
    }
    let ask = match serde_json::from_str(&line) {
        Ok(ask) => ask,
        Err(error) => return say(&mut writer, &Reply::Refused(error.to_string())).await,
    };
    match ask {
        ControlRequest::Status => {
            let roster = Arc::clone(&control.roster);
            // Blocking, because it reads the registry on the volume.
            let slots = tokio::task::spawn_blocking(move || roster.view()).await?;
            let status = StackView {
                pid: std::process::id().cast_signed(),
                host: control.host.clone(),
                ports: control.ports.into_iter().collect(),
                slots,
            };
            say(&mut writer, &Reply::Status(status)).await
        }
        ControlRequest::Scale { to } => {
            let most = to.values().copied().max().unwrap_or_default();
            let reply = if most > MOST_REPLICAS {
                Reply::Refused(format!("no service can have more than {MOST_REPLICAS} replicas"))
            } else if control.changes.send(to).await.is_err() {
                Reply::Refused("the stack is stopping".to_owned())
            } else {
                Reply::Done
            };
            say(&mut writer, &reply).await
        }
        ControlRequest::Logs { part, tail, follow } => {
            let hung_up = async {
                let mut rest = [0];
                let _ = reader.read(&mut rest).await;
            };
            tokio::select! {
                told = tell(&mut writer, control, part, tail, follow) => told,
                // Notice the disconnect, because nothing may be logged for hours.
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
    let mut past: Vec<_> = past.into_iter().filter(|entry| wanted(entry)).collect();
    // The last lines of each part.
    let mut left: BTreeMap<String, u32> = BTreeMap::new();
    past.reverse();
    past.retain(|entry| {
        let left = left.entry(entry.part.clone()).or_insert(tail);
        let keep = *left > 0;
        *left = left.saturating_sub(1);
        keep
    });
    for entry in past.into_iter().rev() {
        say(writer, &Reply::from(&*entry)).await?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        match future.recv().await {
            Ok(entry) if wanted(&entry) => say(writer, &Reply::from(&*entry)).await?,
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
    use crate::control::Connection;

    fn workspace() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let workspace = directory.path().join("x".repeat(200));
        fs::create_dir_all(workspace.join(".stack")).unwrap();
        (directory, workspace)
    }

    #[tokio::test]
    async fn a_workspace_with_a_path_of_any_length_has_one_socket() {
        let (_directory, workspace) = workspace();
        assert!(Connection::open(&workspace).await.is_err());
        // The leftover of a killed supervisor is no obstacle.
        fs::write(socket(&workspace), "").unwrap();
        let first = Socket::open(&workspace).unwrap();
        let connect =
            || by_directory(&workspace, |path| std::os::unix::net::UnixStream::connect(path));
        connect().unwrap();
        let mode = fs::metadata(socket(&workspace)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Socket::open(&workspace).unwrap_err().to_string();
        assert!(second.contains(&format!("(process {})", std::process::id())), "{second}");
        connect().unwrap();
        drop(first);
        assert!(!socket(&workspace).exists());
        drop(Socket::open(&workspace).unwrap());
    }

    #[tokio::test]
    async fn a_client_must_know_the_key() {
        use std::io::{BufRead as _, Write as _};

        let (_directory, workspace) = workspace();
        let socket = Socket::open(&workspace).unwrap();
        let path = workspace.join(".stack/up.key");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let key = fs::read_to_string(&path).unwrap();
        assert_eq!(key.len(), 64);
        let (changes, mut changed) = mpsc::channel(1);
        let volume = workspace::Workspace::open(&workspace).unwrap();
        let control = Control {
            roster: Arc::new(Roster::new(&volume)),
            output: Output::start(None),
            host: "127.0.0.1".to_owned(),
            ports: PerService::from_fn(|_| 0),
            changes,
        };
        let server = tokio::spawn(serve(socket, control));
        let wanted = BTreeMap::from([(Service::Pull, 0)]);
        let scale = serde_json::to_string(&ControlRequest::Scale { to: wanted.clone() }).unwrap();
        let other = "0".repeat(64);
        let short = &key[..63];
        for said in
            [&*format!("{scale}\n"), &format!("{other}\n{scale}\n"), &format!("{short}\n{scale}\n")]
        {
            let (workspace, said) = (workspace.clone(), said.to_owned());
            let reply = tokio::task::spawn_blocking(move || {
                let connect = |path: &Path| std::os::unix::net::UnixStream::connect(path);
                let mut stream = by_directory(&workspace, connect).unwrap();
                stream.write_all(said.as_bytes()).unwrap();
                let mut line = String::new();
                io::BufReader::new(stream).read_line(&mut line).unwrap();
                line
            });
            let reply = reply.await.unwrap();
            assert!(reply.contains("refused") && reply.contains("up.key"), "{reply}");
            assert!(changed.try_recv().is_err());
        }
        let connection = Connection::open(&workspace).await.unwrap();
        let ask = ControlRequest::Scale { to: wanted.clone() };
        let reply = connection.ask(&ask).await.unwrap().next().await.unwrap();
        assert_eq!((reply, changed.recv().await), (Some(Reply::Done), Some(wanted)));
        server.abort();
        let _ = server.await;
        assert!(!path.exists(), "the key is removed with the socket");
    }

    /// If many start at the same time, one gets the socket, and it is the one that answers there.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn one_of_many_concurrent_starts_gets_the_socket() {
        let (_directory, workspace) = workspace();
        for _ in 0..50 {
            // Every round starts with a leftover socket.
            fs::write(socket(&workspace), "").unwrap();
            let barrier = Arc::new(std::sync::Barrier::new(4));
            let mut openers = JoinSet::new();
            for _ in 0..4 {
                let (workspace, barrier) = (workspace.clone(), Arc::clone(&barrier));
                openers.spawn_blocking(move || {
                    barrier.wait();
                    let runtime = tokio::runtime::Handle::current();
                    let _entered = runtime.enter();
                    Socket::open(&workspace)
                });
            }
            let opened = openers.join_all().await;
            let sockets: Vec<_> = opened.iter().filter_map(|it| it.as_ref().ok()).collect();
            let [socket] = &*sockets else { panic!("{opened:?}") };
            let connected =
                by_directory(&workspace, |path| std::os::unix::net::UnixStream::connect(path));
            connected.unwrap();
            let (_stream, _) = socket.listener.accept().await.unwrap();
        }
    }
}
