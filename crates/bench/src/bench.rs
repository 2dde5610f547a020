//! A run of the benchmark: its directory, its programs and its size.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use child_process::Guest;
use claude_stand_in::workload;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::{Error, Result, Row, Section, sections};

/// How long processes that were killed may take to be gone.
const KILL_TIME: Duration = Duration::from_secs(10);

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scale {
    /// Enough for figures that can be compared.
    Full,
    /// Enough to notice what is broken, also without optimisations and beside other work: goals for ratios are
    /// generous, and there are none in seconds.
    Small,
}

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// How much is measured.
    pub scale: Scale,
    /// How many ended jobs a listing has.
    pub jobs: u32,
    /// How many jobs run at once.
    pub sessions: u16,
}

/// A benchmark with a temporary directory of its own.
#[derive(Debug)]
pub struct Bench {
    directory: TempDir,
    /// The same, without symbolic links.
    root: PathBuf,
    program: PathBuf,
    size: Size,
    /// How many names were given out.
    names: AtomicU32,
}

impl Bench {
    /// `program` is `stackctl`. This process must be a [subreaper](child_process::become_subreaper).
    ///
    /// # Errors
    /// If there is no place for temporary files.
    pub fn new(program: PathBuf, size: Size) -> Result<Self> {
        let create = || -> io::Result<(TempDir, PathBuf)> {
            let directory = tempfile::Builder::new().prefix("stackctl-bench-").tempdir()?;
            let root = directory.path().canonicalize()?;
            fs::create_dir(root.join("tmp"))?;
            std::os::unix::fs::symlink(&program, root.join(workload::NAME))?;
            Ok((directory, root))
        };
        let (directory, root) = create().map_err(Error::io("create a temporary directory"))?;
        Ok(Self { directory, root, program, size, names: AtomicU32::new(0) })
    }

    /// Measures one section, on a runtime with several threads. May be dropped at any time.
    ///
    /// # Errors
    /// If something cannot be measured.
    pub async fn run(&self, section: Section) -> Result<Vec<Row>> {
        let rows = match section {
            Section::Start => sections::start::measure(self).await,
            Section::Turnaround => sections::turnaround::measure(self).await,
            Section::Workflow => sections::workflow::measure(self).await,
            Section::Relay => sections::relay::measure(self).await,
            Section::Latency => sections::latency::measure(self).await,
            Section::Pull => sections::pull::measure(self).await,
            Section::Listing => sections::listing::measure(self).await,
            Section::Sessions => sections::sessions::measure(self).await,
            Section::Processor => sections::processor::measure(self).await,
            Section::Memory => sections::memory::measure(self).await,
        };
        Ok(rows?.into_iter().map(|row| row.at(self.scale())).collect())
    }

    /// Kills what still runs, and removes the directory.
    ///
    /// # Errors
    /// If something is left behind.
    pub async fn remove(self) -> Result<()> {
        let left = child_process::kill_descendants(&[], Instant::now() + KILL_TIME).await;
        self.directory.close().map_err(Error::io("remove the temporary directory"))?;
        if left.is_empty() {
            return Ok(());
        }
        let why = format!("failed to kill {left}");
        Err(Error::Program { program: "stackctl up".to_owned(), why })
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    pub(crate) fn scale(&self) -> Scale {
        self.size.scale
    }

    /// `stackctl`.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// The workload agent: the same program by another name.
    pub(crate) fn agent(&self) -> PathBuf {
        self.root.join(workload::NAME)
    }

    /// A path in the temporary directory that nothing else has.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        self.root.join(format!("{number}-{name}"))
    }

    /// A program in the temporary directory, with an environment that is the same for the stack and for what it is
    /// compared with.
    pub(crate) fn guest(&self, program: &Path) -> Guest {
        let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
        Guest::new(program)
            .cwd(&self.root)
            .env("PATH", path)
            .env("TMPDIR", self.root.join("tmp"))
            .env("IS_SANDBOX", "1")
            .env("AGENT_USER", "none")
            .die_with_parent(child_process::Signal::SIGTERM)
    }
}

impl Scale {
    /// One of two values.
    pub(crate) fn pick<T>(self, full: T, small: T) -> T {
        match self {
            Self::Full => full,
            Self::Small => small,
        }
    }
}
