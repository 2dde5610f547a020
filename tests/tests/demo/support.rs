//! `stackctl` with an environment of nothing but a home and a place for temporary files.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use testkit::{ProcInfo, processes_of_directory, target_binary, wait_for};
use tokio::process::{Child, Command};

/// How long anything may take that has no bound of its own. It matters only when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A home, a place for temporary files, and the command that has them.
pub(crate) struct Home {
    directory: TempDir,
}

/// What a command that ended has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self { directory: TempDir::new().unwrap() };
        fs::create_dir(home.temporary()).unwrap();
        home
    }

    /// Where temporary files are to go.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.directory.path().join("tmp")
    }

    /// A shell script, by its path.
    pub(crate) fn program(&self, name: &str, script: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Without a `PATH`: what git there is cannot be found.
    pub(crate) fn stackctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(target_binary("stackctl"));
        command.args(arguments).env_clear().current_dir(self.directory.path());
        command.env("HOME", self.directory.path()).env("TMPDIR", self.temporary());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    pub(crate) fn start(&self, mut command: Command) -> Running {
        let file = |name| File::create(self.directory.path().join(name)).unwrap();
        command.stdout(file("stdout")).stderr(file("stderr"));
        Running { child: command.spawn().unwrap(), directory: self.directory.path().to_owned() }
    }

    pub(crate) async fn ran(&self, arguments: &[&str]) -> Said {
        self.start(self.stackctl(arguments)).ended().await
    }

    /// Processes that have anything to do with this home.
    pub(crate) fn processes(&self) -> Vec<ProcInfo> {
        processes_of_directory(&self.directory.path().canonicalize().unwrap())
    }

    /// Neither a process nor a temporary file is left.
    pub(crate) fn assert_nothing_left(&self) {
        let processes = self.processes();
        assert!(processes.is_empty(), "{processes:#?}");
        let files: Vec<_> =
            fs::read_dir(self.temporary()).unwrap().map(|it| it.unwrap().path()).collect();
        assert!(files.is_empty(), "{files:?}");
    }
}

/// A command that runs, with its output in files.
pub(crate) struct Running {
    child: Child,
    directory: PathBuf,
}

impl Running {
    fn read(&self, name: &str) -> String {
        String::from_utf8(fs::read(self.directory.join(name)).unwrap()).unwrap()
    }

    /// Waits until standard output holds this.
    pub(crate) async fn says(&self, text: &str) -> String {
        wait_for(&format!("{text:?} to be said"), PATIENCE, || async {
            let said = self.read("stdout");
            said.contains(text).then_some(said)
        })
        .await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it has not been waited for");
        kill(Pid::from_raw(pid.cast_signed()), signal).expect("the command runs");
    }

    pub(crate) async fn ended(mut self) -> Said {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let (stdout, stderr) = (self.read("stdout"), self.read("stderr"));
        let status = status.unwrap_or_else(|_| panic!("no end: {stdout} {stderr}")).unwrap();
        let code = status.code().unwrap_or_else(|| panic!("killed: {stderr}"));
        Said { code, stdout, stderr }
    }
}
