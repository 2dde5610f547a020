//! The one place that starts git.
//!
//! git is a guest: it gets a cleared environment, no configuration but the one written here, no hooks, no
//! prompts, a process group of its own, and bounds on memory, files, processor time and processes. Where
//! the kernel has Landlock it reaches the directories that the command names, and of the network only the
//! connector. It is killed with everything it started when the pull is to stop and when it makes no
//! progress.
//!
//! Everything here blocks: a pull runs on a thread of the blocking pool.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use child_process::{Child, Confinement, Guest, Resource, Signal};
use contract::Code;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Handle,
};

use crate::{
    Config,
    connector::{Connector, Hosts, stall::StallWatch},
    failure::{Failure, Result, is_volume_full, says_disk_full},
    monitor::Monitor,
    progress::Lines,
    staging::Staging,
};

/// What git obeys, whatever a repository says: this file takes the place of the user's own.
const CONFIGURATION: &str = "\
[advice]\n\tdetachedHead = false\n\
[checkout]\n\tworkers = 0\n\
[core]\n\tbigFileThreshold = 32m\n\tcommitGraph = false\n\tdeltaBaseCacheLimit = 64m\n\tfsmonitor = false\n\
\thooksPath = /dev/null\n\tpackedGitLimit = 256m\n\tpackedGitWindowSize = 32m\n\tprotectHFS = true\n\
\tprotectNTFS = true\n\tsplitIndex = false\n\tsymlinks = true\n\tuntrackedCache = false\n\
[credential]\n\thelper =\n\
[fetch]\n\tunpackLimit = 1\n\
[gc]\n\tauto = 0\n\
[http]\n\tfollowRedirects = initial\n\
[maintenance]\n\tauto = false\n\
[pack]\n\twindowMemory = 64m\n\twriteReverseIndex = false\n\
[protocol]\n\tversion = 2\n\
[safe]\n\tdirectory = *\n\
[submodule]\n\trecurse = false\n";

/// The most that is read of what git prints: a list of a million references.
const MOST_OUTPUT: usize = 128 << 20;
/// How often a command is looked at: whether it is to stop, or has stalled.
const WATCH: Duration = Duration::from_millis(50);
/// Processes of this user at the same time: git starts a few, a broken helper any number.
const MOST_PROCESSES: u64 = 4096;
/// What git calls itself in the reference logs of checkouts.
const NAME: &str = "github-pull-api";

/// Starts git for one pull.
pub(crate) struct Git {
    runtime: Handle,
    pub(crate) monitor: Monitor,
    configuration: PathBuf,
    local_patience: Duration,
    memory: u64,
    file_size: u64,
    processor_time: u64,
}

/// A git command that has not been started.
pub(crate) struct Command<'a> {
    git: &'a Git,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    configuration: Vec<(String, OsString)>,
    confinement: Confinement,
    input: Vec<u8>,
    secret: Option<String>,
    host: Option<(&'a Connector, Duration)>,
    hosts: Hosts,
}

/// What a git command that ended by itself has said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    /// The last lines on standard error, without progress.
    pub(crate) stderr: String,
    /// Whether the volume has no room left.
    pub(crate) is_disk_full: bool,
}

impl Git {
    /// Writes the configuration into `staging`. Call it within a runtime.
    ///
    /// # Errors
    /// If the configuration cannot be written.
    pub(crate) fn new(
        config: &Config,
        monitor: Monitor,
        staging: &Staging,
        deadline: Duration,
    ) -> Result<Self> {
        let configuration = staging.join("gitconfig");
        fs::write(&configuration, CONFIGURATION).map_err(Failure::io("write", &configuration))?;
        Ok(Self {
            runtime: Handle::current(),
            monitor,
            configuration,
            local_patience: config.local_patience,
            memory: config.memory,
            file_size: config.checkout_limit,
            processor_time: deadline.as_secs().max(1),
        })
    }

    /// Makes sure that files of `size` bytes together may be written.
    ///
    /// # Errors
    /// If they are too large.
    pub(crate) fn check_size(&self, size: u64) -> Result<()> {
        if size <= self.file_size {
            return Ok(());
        }
        let (size, most) = (size >> 20, self.file_size >> 20);
        let sentence = format!(
            "the files are {size} MiB, and a checkout may write {most} MiB: raise GIT_CHECKOUT_LIMIT_MIB"
        );
        Err(Failure::told(Code::GitFailed, sentence))
    }

    /// A command with these arguments, which may read and write no file of the volume yet.
    pub(crate) fn command(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Command<'_> {
        let arguments = arguments.into_iter().map(|it| it.as_ref().to_owned()).collect();
        Command {
            git: self,
            arguments,
            environment: Vec::new(),
            configuration: Vec::new(),
            confinement: Confinement::system().read(&self.configuration),
            input: Vec::new(),
            secret: None,
            host: None,
            hosts: Hosts::Asked,
        }
    }
}

impl<'a> Command<'a> {
    /// Works on this control directory, and may write to it.
    pub(crate) fn git_dir(self, path: &Path) -> Self {
        self.env("GIT_DIR", path).writes(path)
    }

    /// Works on this tree of files, and may write to it.
    pub(crate) fn work_tree(self, path: &Path) -> Self {
        self.env("GIT_WORK_TREE", path).writes(path)
    }

    /// May read this too.
    pub(crate) fn reads(mut self, path: impl AsRef<Path>) -> Self {
        self.confinement = self.confinement.read(path);
        self
    }

    /// May write this too.
    pub(crate) fn writes(mut self, path: impl AsRef<Path>) -> Self {
        self.confinement = self.confinement.write(path);
        self
    }

    /// Sets a variable, which holds no secret.
    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets a value of the configuration, which holds no secret.
    pub(crate) fn config(mut self, key: impl Into<String>, value: impl AsRef<OsStr>) -> Self {
        self.configuration.push((key.into(), value.as_ref().to_owned()));
        self
    }

    /// What git reads from its standard input.
    pub(crate) fn input(mut self, input: Vec<u8>) -> Self {
        self.input = input;
        self
    }

    /// Hands `secret` to git as the file descriptor in `PULL_SECRET`, from which it can be read once.
    pub(crate) fn secret(mut self, secret: String) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Reaches the network by `connector`, and is ended when the host sends nothing for `stall`.
    pub(crate) fn network(mut self, connector: &'a Connector, stall: Duration) -> Self {
        self.host = Some((connector, stall));
        self
    }

    /// May reach other hosts than those of the pull's repositories, where it may reach the network at all.
    pub(crate) fn any_host(mut self) -> Self {
        self.hosts = Hosts::Any;
        self
    }

    /// Runs the command.
    ///
    /// # Errors
    /// If git cannot be started, is ended for want of progress, or exceeds its bounds; not if it fails.
    pub(crate) fn run(self) -> Result<Output> {
        self.git.monitor.check_stop()?;
        self.git.runtime.clone().block_on(self.drive())
    }

    /// Runs a command that is to succeed, and returns what it printed.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Failure::Git`] if git fails.
    pub(crate) fn output(self) -> Result<Vec<u8>> {
        let output = self.run()?;
        if output.status.success() { Ok(output.stdout) } else { Err(output.failure()) }
    }

    async fn drive(self) -> Result<Output> {
        let (git, host) = (self.git, self.host);
        let guest = self.guest().map_err(cannot_start)?;
        let mut child = guest.spawn().await.map_err(cannot_start)?;
        let pipes = (child.take_stdin(), child.take_stdout(), child.take_stderr());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(cannot_start(io::Error::other("a pipe is missing")));
        };
        let mut lines = Lines::new(&git.monitor.reporter);
        let mut patience = Patience::new(host, git.local_patience);
        let input = self.input;
        let (signs, mut signs_seen) = tokio::sync::mpsc::unbounded_channel();
        let talk = async {
            let write = async {
                // A git that does not read to the end says why on its standard error.
                let _ = stdin.write_all(&input).await;
                drop(stdin);
            };
            let read = read_all(stdout, MOST_OUTPUT);
            let watch = async {
                let mut stderr = stderr;
                let mut buffer = vec![0; 8192];
                loop {
                    let read = stderr.read(&mut buffer).await?;
                    let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                        return io::Result::Ok(lines.finish());
                    };
                    let _ = signs.send(lines.push(bytes));
                }
            };
            tokio::join!(write, read, watch)
        };
        let mut talk = std::pin::pin!(talk);
        let mut tick = tokio::time::interval(WATCH);
        let ((), stdout, stderr) = loop {
            tokio::select! {
                biased;
                said = &mut talk => break said,
                Some(work) = signs_seen.recv() => patience.progressed(work),
                _ = tick.tick() => {
                    let why = if git.monitor.should_stop() {
                        Failure::Stopped
                    } else if let Some(why) = patience.is_over() {
                        why
                    } else {
                        continue;
                    };
                    end(&mut child).await;
                    return Err(why);
                }
            }
        };
        let Some(stdout) = stdout.map_err(cannot_read)? else {
            end(&mut child).await;
            let most = MOST_OUTPUT >> 20;
            let sentence = format!("git was stopped: its answer is longer than {most} MiB");
            return Err(Failure::told(Code::RepositoryInvalid, sentence));
        };
        let status = child.wait().await.map_err(cannot_read)?;
        git.monitor.reporter.end_stage();
        let stderr = stderr.map_err(cannot_read)?;
        let is_disk_full =
            !status.success() && (says_disk_full(&stderr) || is_volume_full(&git.configuration));
        let output = Output { status, stdout, stderr, is_disk_full };
        tracing::debug!(?status, stderr = output.stderr, "git ended");
        match output.exceeded(git) {
            Some(failure) => Err(failure),
            None => Ok(output),
        }
    }

    /// The process, with everything a guest gets and is denied.
    fn guest(&self) -> io::Result<Guest> {
        let git = self.git;
        let path =
            std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        let mut confinement = self.confinement.clone();
        for directory in std::env::split_paths(&path) {
            confinement = confinement.read(directory);
        }
        let mut guest = Guest::new("git")
            .args(&self.arguments)
            .env("PATH", &path)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_GLOBAL", &git.configuration)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            // Nothing of this machine's work touches the network.
            .env("GIT_ALLOW_PROTOCOL", "")
            .env("GIT_PROGRESS_DELAY", "0")
            .env("GIT_COMMITTER_NAME", NAME)
            .env("GIT_COMMITTER_EMAIL", "github-pull-api@localhost")
            .env("GIT_CONFIG_COUNT", self.configuration.len().to_string());
        for (number, (key, value)) in self.configuration.iter().enumerate() {
            guest = guest
                .env(format!("GIT_CONFIG_KEY_{number}"), key)
                .env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        for (name, value) in &self.environment {
            guest = guest.env(name, value);
        }
        let mut ports = Vec::new();
        if let Some((connector, _)) = self.host {
            ports.push(connector.port());
            for (name, value) in connector.environment(self.hosts) {
                guest = guest.env(name, value);
            }
            confinement = confinement.read(connector.relay());
        }
        if let Some(secret) = &self.secret {
            guest = guest.secret("PULL_SECRET", secret.as_bytes())?;
        }
        guest
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .die_with_parent(Signal::SIGKILL)
            .limit(Resource::RLIMIT_AS, git.memory)
            .limit(Resource::RLIMIT_FSIZE, git.file_size)
            .limit(Resource::RLIMIT_CPU, git.processor_time)
            .limit(Resource::RLIMIT_NPROC, MOST_PROCESSES)
            .limit(Resource::RLIMIT_CORE, 0)
            .confine(&confinement.connect_only(ports))
    }
}

impl Output {
    /// The failure that a git which did not succeed is.
    pub(crate) fn failure(&self) -> Failure {
        if self.is_disk_full {
            return Failure::disk_full();
        }
        let said = self.stderr.trim();
        Failure::Git(if said.is_empty() { self.status.to_string() } else { said.to_owned() })
    }

    /// What git says when it exceeds one of its bounds.
    fn exceeded(&self, git: &Git) -> Option<Failure> {
        use std::os::unix::process::ExitStatusExt as _;
        let signal =
            self.status.signal().or(self.status.code().and_then(|code| code.checked_sub(128)));
        let is = |it: Signal| signal == Some(it as i32);
        let mib = |bytes: u64| bytes >> 20;
        let sentence = if is(Signal::SIGXFSZ) || self.stderr.contains("File too large") {
            let most = mib(git.file_size);
            format!("git was stopped: a file grew over {most} MiB; raise GIT_CHECKOUT_LIMIT_MIB")
        } else if is(Signal::SIGXCPU) {
            let most = git.processor_time;
            format!("git was stopped: it computed for {most} s; raise JOB_TIMEOUT_SECONDS")
        } else if !self.status.success()
            && ["Out of memory", "out of memory", "Cannot allocate memory", "mmap failed"]
                .iter()
                .any(|words| self.stderr.contains(words))
        {
            let most = mib(git.memory);
            format!("git was stopped: it needs more memory than {most} MiB; raise GIT_MEMORY_MIB")
        } else {
            return None;
        };
        Some(Failure::told(Code::GitFailed, sentence))
    }
}

/// For how long git may go on without getting anywhere.
struct Patience<'a> {
    host: Option<(&'a Connector, Duration, StallWatch)>,
    local: Duration,
    since: Instant,
}

impl<'a> Patience<'a> {
    fn new(host: Option<(&'a Connector, Duration)>, local: Duration) -> Self {
        let since = Instant::now();
        let host = host.map(|(connector, stall)| {
            (connector, stall, StallWatch::new(stall, connector.transferred(), since))
        });
        Self { host, local, since }
    }

    fn progressed(&mut self, work: Work) {
        self.since = Instant::now();
        if work == Work::Local {
            // The host has sent everything; the rest is this machine's.
            self.host = None;
        }
    }

    fn is_over(&mut self) -> Option<Failure> {
        let now = Instant::now();
        if let Some((connector, stall, watch)) = &mut self.host {
            return watch
                .is_stalled(connector.transferred(), now)
                .then_some(Failure::Stalled(*stall));
        }
        let local = self.local;
        (now.duration_since(self.since) >= local).then(|| {
            let seconds = local.as_secs();
            Failure::told(
                Code::GitFailed,
                format!(
                    "git was stopped: it got nowhere for {seconds} s; look for pipes and devices in the \
                     directory and for a slow volume, or raise GIT_LOCAL_SECONDS"
                ),
            )
        })
    }
}

/// Whose work a line of git's is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// The git host's.
    Host,
    /// This machine's.
    Local,
}

/// Kills git and everything it started.
async fn end(child: &mut Child) {
    // An error means that it has ended.
    let _ = child.signal_group(Signal::SIGKILL);
    let _ = child.wait().await;
}

/// Everything `from` holds; `None` if that is more than `most` bytes.
async fn read_all(from: impl AsyncRead + Unpin, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    from.take(most as u64 + 1).read_to_end(&mut bytes).await?;
    Ok((bytes.len() <= most).then_some(bytes))
}

fn cannot_start(error: io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "there is no git on the PATH: install it".to_owned(),
        _ => format!("{error}"),
    };
    Failure::told(Code::GitFailed, format!("git cannot be started: {why}"))
}

fn cannot_read(error: io::Error) -> Failure {
    Failure::told(Code::GitFailed, format!("git's answer cannot be read: {error}"))
}
