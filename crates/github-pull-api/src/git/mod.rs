//! The one place that starts git.
//!
//! git is a guest: it gets a cleared environment, no configuration but the one written here, no hooks, no
//! prompts, a process group of its own, and bounds on memory, files, processor time and processes. Where
//! the kernel has Landlock it reaches the directories that the command names, and of the network only the
//! connector. It is killed with everything it started when the pull is to stop and when it makes no
//! progress.
//!
//! Everything here blocks: a pull runs on a thread of the blocking pool.

mod output;
mod run;

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use child_process::{Confinement, Guest, Resource, Signal};
use contract::Code;
use tokio::runtime::Handle;

pub(crate) use self::{output::Output, run::Work};
use crate::{
    Config,
    connector::{Connector, Hosts},
    failure::{Failure, Result},
    monitor::Monitor,
    staging::Staging,
};

/// What git obeys, whatever a repository says: this file takes the place of the user's own.
const CONFIGURATION: &str = "\
[advice]\n\tdetachedHead = false\n\
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
    /// Where its standard output goes, and how many bytes of it at most.
    sink: Option<(fs::File, u64)>,
    host: Option<(&'a Connector, Duration)>,
    hosts: Hosts,
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
        self.check_size_as(Code::GitFailed, size)
    }

    /// The same, with the code of the failure.
    ///
    /// # Errors
    /// If they are too large.
    pub(crate) fn check_size_as(&self, code: Code, size: u64) -> Result<()> {
        if size <= self.file_size {
            return Ok(());
        }
        let (size, most) = (size >> 20, self.file_size >> 20);
        let sentence = format!(
            "the files are {size} MiB, and a checkout may write {most} MiB: raise GIT_CHECKOUT_LIMIT_MIB"
        );
        Err(Failure::told(code, sentence))
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
            sink: None,
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

    /// One more argument.
    pub(crate) fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
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
