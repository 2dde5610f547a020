//! Where the demo plays: a directory of its own, and a stack in it. Struck, nothing is left of either.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use child_process::{Child, Guest, Signal};
use http::Method;
use serde::Deserialize;
use tempfile::TempDir;
use web::BaseUrl;

use super::interrupts::Interrupts;

/// How long the stack may take until it can be used.
const START_TIME: Duration = Duration::from_secs(60);
/// Between two looks at a stack that starts.
const LOOK: Duration = Duration::from_millis(50);
/// How long it may take to let go of idle replicas, and, told again, of busy ones.
const DRAIN_TIME: Duration = Duration::from_secs(10);
const KILL_TIME: Duration = Duration::from_secs(1);
/// How often it is told before it is killed.
const TOLD: usize = 8;
/// The end of the log, in bytes and in lines.
const TAIL_BYTES: u64 = 16 << 10;
const TAIL_LINES: usize = 20;

/// How the stack is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// With whatever it still does.
    Drain,
    /// Now.
    AtOnce,
}

/// A temporary directory, and what runs in it.
#[derive(Debug)]
pub(super) struct Stage {
    directory: TempDir,
    /// The same, without symbolic links.
    root: PathBuf,
    program: PathBuf,
    stack: Option<Child>,
}

/// The three addresses of a stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports([u16; 3]);

impl Stage {
    /// An empty one. `program` is this program.
    pub(super) fn new(program: PathBuf) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("stackctl-demo-")
            .tempdir()
            .context("cannot make a temporary directory (TMPDIR names where)")?;
        let root = directory.path().canonicalize().context("cannot find my temporary directory")?;
        let stage = Self { directory, root, program, stack: None };
        fs::create_dir(stage.temporary()).context("cannot write to my temporary directory")?;
        Ok(stage)
    }

    /// Where the sample repository is.
    pub(super) fn sample(&self) -> PathBuf {
        self.root.join("sample.git")
    }

    /// The shared volume.
    pub(super) fn workspace(&self) -> PathBuf {
        self.root.join("workspace")
    }

    /// The stack's logs.
    pub(super) fn log(&self) -> PathBuf {
        self.root.join("up.log")
    }

    /// What the stack is to use for temporary files.
    pub(super) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The rehearsal agent: this program, by another name.
    pub(super) fn agent(&self) -> io::Result<PathBuf> {
        let link = self.root.join(crate::rehearsal::NAME);
        std::os::unix::fs::symlink(&self.program, &link)?;
        Ok(link)
    }

    /// Starts `stackctl up` with one replica of each kind, and waits until all are idle.
    ///
    /// # Errors
    /// If it ends, or does not come up in time.
    pub(super) async fn start_stack(
        &mut self,
        environment: Vec<(OsString, OsString)>,
    ) -> anyhow::Result<Ports> {
        let ports = Ports::free().context("there are no free ports on loopback")?;
        let log = File::create(self.log()).context("cannot write the stack's log")?;
        let mut args = vec![OsString::from("up"), "--workspace".into(), self.workspace().into()];
        for (service, port) in ["workflow", "pull", "claude"].into_iter().zip(ports.0) {
            args.extend([format!("--{service}").into(), "1".into()]);
            args.extend([format!("--port-{service}").into(), port.to_string().into()]);
        }
        let mut guest = Guest::new(&self.program)
            .args(args)
            .cwd(&self.root)
            .stdout(log.try_clone().context("cannot write the stack's log")?)
            .stderr(log)
            .die_with_parent(Signal::SIGTERM);
        for (name, value) in environment {
            guest = guest.env(name, value);
        }
        let stack = self.stack.insert(guest.spawn().await.context("cannot start the stack")?);
        let idle = async {
            for url in ports.urls() {
                while !has_idle(&url).await {
                    tokio::time::sleep(LOOK).await;
                }
            }
        };
        tokio::select! {
            ended = stack.wait() => {
                let status = ended.map_or_else(|error| error.to_string(), |it| it.to_string());
                anyhow::bail!("the stack ended as it started ({status})")
            }
            idle = tokio::time::timeout(START_TIME, idle) => match idle {
                Ok(()) => Ok(ports),
                Err(_) => anyhow::bail!("the stack was not ready within {} s", START_TIME.as_secs()),
            },
        }
    }

    /// Waits for a stack that was not told to end.
    pub(super) async fn stack_ended(&mut self) {
        match &mut self.stack {
            Some(stack) => drop(stack.wait().await),
            None => std::future::pending().await,
        }
    }

    /// The last lines of the stack's log.
    pub(super) fn log_tail(&self) -> Vec<String> {
        let tail = || -> io::Result<String> {
            let mut file = File::open(self.log())?;
            let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
            file.seek(SeekFrom::Start(start))?;
            let mut text = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        // Without a log there was no stack.
        let text = tail().unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().to_vec()
    }

    /// Ends everything and takes the directory away. An interrupt makes it haste.
    ///
    /// # Errors
    /// If something is left; it says what.
    pub(super) async fn strike(
        mut self,
        haste: Haste,
        interrupts: &mut Interrupts,
    ) -> anyhow::Result<()> {
        if let Some(stack) = self.stack.take() {
            end(stack, haste, interrupts).await;
        }
        let left = child_process::kill_descendants(&[], Instant::now() + DRAIN_TIME).await;
        let path = self.directory.path().to_owned();
        let removed = self.directory.close();
        anyhow::ensure!(left.is_empty(), "these processes cannot be killed: {left:?}");
        removed.with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// Told once, the stack lets its jobs finish; told twice, it kills them.
async fn end(mut stack: Child, haste: Haste, interrupts: &mut Interrupts) {
    let mut patience = match haste {
        Haste::Drain => DRAIN_TIME,
        // Two signals at once may arrive as one.
        Haste::AtOnce => LOOK,
    };
    for _ in 0..TOLD {
        // Fails only if it is gone already.
        let _ = stack.signal(Signal::SIGTERM);
        tokio::select! {
            _ = stack.wait() => return,
            () = tokio::time::sleep(patience) => {}
            () = interrupts.next() => {}
        }
        patience = KILL_TIME;
    }
}

impl Ports {
    /// Ports nobody has at the moment. All are held until all are known, so that no two are alike.
    fn free() -> io::Result<Self> {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let held = [listen()?, listen()?, listen()?];
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        let [workflow, pull, claude] = &held;
        Ok(Self([port(workflow)?, port(pull)?, port(claude)?]))
    }

    /// The addresses of the workflow, the pull and the claude service.
    pub(super) fn urls(self) -> [BaseUrl; 3] {
        self.0.map(|port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port).into())
    }
}

/// Whether the service there has an idle replica.
async fn has_idle(url: &BaseUrl) -> bool {
    #[derive(Deserialize)]
    struct Status {
        replicas: Replicas,
    }
    #[derive(Deserialize)]
    struct Replicas {
        idle: usize,
    }
    let connect = Duration::from_secs(1);
    let Ok(answer) = web::ask(url, Method::GET, "/status", &[], Bytes::new(), connect).await else {
        return false;
    };
    let Ok(body) = answer.bytes(64 << 10).await else { return false };
    serde_json::from_slice(&body).is_ok_and(|status: Status| status.replicas.idle > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A stage whose program is this shell script.
    fn stage(script: &str) -> (TempDir, Stage) {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        (directory, Stage::new(program).unwrap())
    }

    #[tokio::test]
    async fn a_stack_that_does_not_start_says_why() {
        let (_program, mut stage) = stage("echo no room >&2; exit 69");
        let error = stage.start_stack(Vec::new()).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 69"), "{error}");
        assert_eq!(stage.log_tail(), ["no room"]);
        // It is not struck: that would end the children of other tests.
    }

    #[test]
    fn the_log_is_shown_from_its_end() {
        let (_program, stage) = stage("");
        assert!(stage.log_tail().is_empty());
        let text: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        fs::write(stage.log(), text).unwrap();
        let tail = stage.log_tail();
        assert_eq!((tail.len(), tail.last().unwrap().as_str()), (TAIL_LINES, "line 4999"));
    }
}
