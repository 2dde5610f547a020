//! A stack that belongs to one section.

use std::{
    ffi::OsString,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use child_process::{Child, Pid, Signal, descendants};
use contract::{PerService, Service};
use procfs::process::Process;
use stack_client::{Api, StackUrl};
use web::ReservedPort;

use crate::{Bench, Error, Result, usage::Usage};

/// How long a stack may take until all its replicas are idle.
const READY_TIME: Duration = Duration::from_secs(120);
/// How long it may take to stop. It has no jobs by then.
const STOP_TIME: Duration = Duration::from_secs(30);
/// How often it is asked whether its replicas are idle.
const POLL: Duration = Duration::from_millis(1);
/// How many lines of its log an error shows.
const TAIL_LINES: usize = 10;

/// How many replicas for workflows, pulls and agents. Any other service has one.
pub(crate) type Replicas = [u16; 3];

/// A running `stackctl up`. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Stack {
    up: Child,
    gateway: Pid,
    ports: PerService<ReservedPort>,
    replicas: PerService<u16>,
    workspace: PathBuf,
    log: PathBuf,
}

impl Stack {
    /// Starts a stack, and waits until all its replicas are idle.
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) async fn start(bench: &Bench, replicas: Replicas) -> Result<Self> {
        let mut counts = replicas.into_iter();
        let replicas = PerService::from_fn(|_| counts.next().unwrap_or(1));
        let ports =
            ReservedPort::for_services().map_err(Error::io("find free ports on loopback"))?;
        let (workspace, log) = (bench.path("workspace"), bench.path("up.log"));
        let mut args = vec![OsString::from("up"), "--workspace".into(), (&workspace).into()];
        for (service, port) in ports.iter() {
            let name = service.spec().short_name;
            args.push(format!("--{name}={}", replicas[service]).into());
            args.push(format!("--port-{name}={}", port.port()).into());
        }
        let output = File::create(&log).map_err(Error::io("write the log of a stack"))?;
        let errors = output.try_clone().map_err(Error::io("write the log of a stack"))?;
        let up = bench
            .guest(bench.program())
            .args(args)
            .env("CLAUDE_BIN", bench.agent())
            .env("ALLOW_FILE_REPOSITORIES", "1")
            .stdout(output)
            .stderr(errors)
            .spawn()
            .await
            .map_err(Error::io("start a stack"))?;
        let gateway = up.id();
        let mut stack = Self { up, gateway, ports, replicas, workspace, log };
        stack.wait_until_idle().await?;
        let gateways = stack.processes("gateway").await?;
        let Some(gateway) = gateways.into_iter().next() else {
            return Err(stack.failed("it has no gateway"));
        };
        stack.gateway = gateway;
        Ok(stack)
    }

    /// Waits until every replica is idle.
    ///
    /// # Errors
    /// If the stack ends, or takes too long.
    pub(crate) async fn wait_until_idle(&mut self) -> Result<()> {
        let Self { up, ports, replicas, .. } = self;
        let idle = async {
            for (service, port) in ports.iter() {
                let api = Api::new(StackUrl::from(port.address()))?;
                let wanted = usize::from(replicas[service]);
                while !api.status().await.is_ok_and(|status| status.replicas.idle >= wanted) {
                    tokio::time::sleep(POLL).await;
                }
            }
            Ok::<_, stack_client::Error>(())
        };
        let why = tokio::select! {
            ended = up.wait() => {
                let status = ended.map_or_else(|error| error.to_string(), |it| it.to_string());
                format!("a stack ended by itself ({status})")
            }
            idle = tokio::time::timeout(READY_TIME, idle) => match idle {
                Ok(idle) => return Ok(idle?),
                Err(_) => format!("a stack was not ready after {} s", READY_TIME.as_secs()),
            },
        };
        Err(self.failed(&why))
    }

    /// Where a service is.
    pub(crate) fn address(&self, service: Service) -> SocketAddr {
        self.ports[service].address()
    }

    /// A client of a service.
    ///
    /// # Errors
    /// None in practice: the address uses no https.
    pub(crate) fn api(&self, service: Service) -> Result<Api> {
        Ok(Api::new(StackUrl::from(self.ports[service].address()))?)
    }

    /// The shared volume.
    pub(crate) fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// The process of `up`.
    pub(crate) fn up(&self) -> Pid {
        self.up.id()
    }

    /// The process of the gateway.
    pub(crate) fn gateway(&self) -> Pid {
        self.gateway
    }

    /// What `up`, the gateway, and everything that has exited have used so far. While all replicas are idle, that is
    /// everything but their start.
    pub(crate) fn usage(&self) -> Result<Usage> {
        Ok(Usage::with_ended_children(self.up())?.plus(Usage::of(self.gateway)?))
    }

    /// The processes of a part, such as `gateway`.
    pub(crate) async fn processes(&self, part: &str) -> Result<Vec<Pid>> {
        let (up, part) = (self.up.id(), part.to_owned());
        let find = move || -> std::io::Result<Vec<Pid>> {
            let is_part = |pid: &Pid| {
                let process = Process::new(pid.as_raw());
                let arguments = process.and_then(|process| process.cmdline()).unwrap_or_default();
                arguments.get(1..) == Some(&["serve".to_owned(), part.clone()])
            };
            Ok(descendants(up)?.into_iter().filter(is_part).collect())
        };
        let found = tokio::task::spawn_blocking(find).await?;
        found.map_err(Error::io("list the processes of the stack"))
    }

    /// Stops it, and waits until it is gone.
    ///
    /// # Errors
    /// If it does not stop in time. It is then killed.
    pub(crate) async fn stop(mut self) -> Result<()> {
        // It fails only if the stack is gone already.
        let _ = self.up.signal(Signal::SIGTERM);
        match tokio::time::timeout(STOP_TIME, self.up.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => Ok(()),
            Ok(status) => Err(self.failed(&format!("a stack did not stop properly ({status:?})"))),
            Err(_) => {
                Err(self.failed(&format!("a stack did not stop in {} s", STOP_TIME.as_secs())))
            }
        }
    }

    fn failed(&self, why: &str) -> Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
        Error::Stack(why.to_owned(), tail.join("\n"))
    }
}

/// Measures the time until an address accepts connections, from a moment before its listener was started.
pub(crate) async fn accepts(address: SocketAddr, since: Instant) -> Option<Duration> {
    let deadline = since + READY_TIME;
    while Instant::now() < deadline {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return Some(since.elapsed());
        }
        tokio::time::sleep(POLL).await;
    }
    None
}
