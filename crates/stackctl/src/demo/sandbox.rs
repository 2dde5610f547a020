//! Where the demo runs: a temporary directory and a stack in it. [`Sandbox::remove`] removes both.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use child_process::{Child, Guest, Signal};
use contract::PerService;
use stack_client::{Api, StackUrl};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use web::ReservedPort;

use crate::client::Interrupts;

/// How long the stack may take to start.
const START_TIME: Duration = Duration::from_secs(60);
/// How often a starting stack is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);
/// How long the stack may take to stop while its replicas are idle.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// How long it may take after each further signal.
const KILL_TIME: Duration = Duration::from_secs(1);
/// How many signals it gets before it is killed.
const SIGNALS: usize = 8;
/// How much of the log's end is shown.
const TAIL_BYTES: u64 = 16 << 10;
const TAIL_LINES: usize = 20;

/// How quickly the stack stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// After its jobs.
    Drain,
    /// At once.
    Now,
}

/// A temporary directory, and the stack that runs in it.
#[derive(Debug)]
pub(super) struct Sandbox {
    directory: TempDir,
    /// The same, without symbolic links.
    root: PathBuf,
    program: PathBuf,
    /// The stack that is being started. It outlives an interrupt, so that there is a child to stop.
    starting: Option<JoinHandle<io::Result<Child>>>,
    stack: Option<Child>,
    /// Where the stack listens, reserved as long as it may restart.
    ports: Option<PerService<ReservedPort>>,
}

impl Sandbox {
    /// An empty sandbox. `program` is this program.
    pub(super) fn new(program: PathBuf) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("stackctl-demo-").tempdir().context(
            "cannot create a temporary directory; set TMPDIR to a directory you can write to",
        )?;
        let root =
            directory.path().canonicalize().context("cannot resolve the temporary directory")?;
        let sandbox = Self { directory, root, program, starting: None, stack: None, ports: None };
        fs::create_dir(sandbox.temporary()).context("cannot write to the temporary directory")?;
        Ok(sandbox)
    }

    /// Lets other users through, as agents are if root starts the stack.
    pub(super) fn let_through(&self) -> io::Result<()> {
        let mode = || fs::Permissions::from_mode(0o711);
        fs::set_permissions(&self.root, mode())?;
        fs::set_permissions(self.temporary(), mode())
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

    /// The stack's temporary files.
    pub(super) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The rehearsal agent: this program under another name.
    pub(super) fn agent(&self) -> io::Result<PathBuf> {
        let link = self.root.join(claude_stand_in::rehearsal::NAME);
        std::os::unix::fs::symlink(&self.program, &link)?;
        Ok(link)
    }

    /// Starts `stackctl up` with one replica of each service, and waits until all are idle. Returns where the
    /// services are.
    ///
    /// # Errors
    /// If the stack ends, or does not start in time.
    pub(super) async fn start_stack(
        &mut self,
        environment: Vec<(OsString, OsString)>,
    ) -> anyhow::Result<PerService<StackUrl>> {
        let ports = ReservedPort::for_services().context("there are no free ports on loopback")?;
        let log = File::create(self.log()).context("cannot write the stack's log")?;
        let mut args = vec![OsString::from("up"), "--workspace".into(), self.workspace().into()];
        for (service, port) in ports.iter() {
            let name = service.spec().short_name;
            args.extend([format!("--{name}").into(), "1".into()]);
            args.extend([format!("--port-{name}").into(), port.port().to_string().into()]);
        }
        let urls = PerService::from_fn(|service| StackUrl::from(ports[service].address()));
        self.ports = Some(ports);
        let mut guest = Guest::new(&self.program)
            .args(args)
            .cwd(&self.root)
            .stdout(log.try_clone().context("cannot write the stack's log")?)
            .stderr(log)
            .die_with_parent(Signal::SIGTERM);
        for (name, value) in environment {
            guest = guest.env(name, value);
        }
        let starting = self.starting.insert(tokio::spawn(guest.spawn()));
        let started = starting.await.context("cannot start the stack")?;
        self.starting = None;
        let stack = self.stack.insert(started.context("cannot start the stack")?);
        let idle = async {
            for (_, url) in urls.iter() {
                let api = Api::new(url.clone())?;
                while !api.status().await.is_ok_and(|status| status.replicas.idle > 0) {
                    tokio::time::sleep(POLL).await;
                }
            }
            Ok::<_, stack_client::Error>(())
        };
        tokio::select! {
            ended = stack.wait() => {
                let status = ended.map_or_else(|error| error.to_string(), |it| it.to_string());
                anyhow::bail!("the stack ended while it started ({status})")
            }
            idle = tokio::time::timeout(START_TIME, idle) => match idle {
                Ok(ready) => Ok(ready.map(|()| urls)?),
                Err(_) => anyhow::bail!("the stack was not ready after {} s", START_TIME.as_secs()),
            },
        }
    }

    /// Waits until the stack ends by itself.
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
        // There is no log if the stack never started.
        let text = tail().unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().to_vec()
    }

    /// Stops everything and removes the directory. An interrupt makes it stop faster.
    ///
    /// # Errors
    /// If something is left behind, with its name.
    pub(super) async fn remove(
        mut self,
        pace: Pace,
        interrupts: &mut Interrupts,
    ) -> anyhow::Result<()> {
        if let Some(starting) = self.starting.take()
            && let Ok(Ok(stack)) = starting.await
        {
            self.stack = Some(stack);
        }
        if let Some(stack) = self.stack.take() {
            stop(stack, pace, interrupts).await;
        }
        let left = child_process::kill_descendants(&[], Instant::now() + DRAIN_TIME).await;
        let path = self.directory.path().to_owned();
        let removed = self.directory.close();
        anyhow::ensure!(left.is_empty(), "failed to kill {left}");
        removed.with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// After one signal the stack finishes its jobs; after two it kills them.
async fn stop(mut stack: Child, pace: Pace, interrupts: &mut Interrupts) {
    let mut patience = match pace {
        Pace::Drain => DRAIN_TIME,
        // Two signals at once may arrive as one.
        Pace::Now => POLL,
    };
    for _ in 0..SIGNALS {
        // It fails only if the stack is gone already.
        let _ = stack.signal(Signal::SIGTERM);
        tokio::select! {
            _ = stack.wait() => return,
            () = tokio::time::sleep(patience) => {}
            _ = interrupts.next() => {}
        }
        patience = KILL_TIME;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A sandbox whose program is this shell script.
    fn sandbox(script: &str) -> (TempDir, Sandbox) {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        (directory, Sandbox::new(program).unwrap())
    }

    #[tokio::test]
    async fn a_stack_that_does_not_start_says_why() {
        let (_program, mut sandbox) = sandbox("echo no room >&2; exit 69");
        let error = sandbox.start_stack(Vec::new()).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 69"), "{error}");
        assert_eq!(sandbox.log_tail(), ["no room"]);
        // The sandbox is not removed: that would kill the children of other tests.
    }

    #[test]
    fn the_log_is_shown_from_its_end() {
        let (_program, sandbox) = sandbox("");
        assert!(sandbox.log_tail().is_empty());
        let text: String = (0..5000).map(|n| format!("line {n}\n")).collect();
        fs::write(sandbox.log(), text).unwrap();
        let tail = sandbox.log_tail();
        assert_eq!((tail.len(), tail.last().unwrap().as_str()), (TAIL_LINES, "line 4999"));
    }
}
