//! Runs commands and captures what they print.

use std::{
    fs::{self, File},
    process::Stdio,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::wait::{PATIENCE, wait_for};

/// The exit code and the output of a command that has exited.
#[derive(Debug)]
pub struct CommandOutput {
    /// The exit code.
    pub code: i32,
    /// What it printed to standard output.
    pub stdout: String,
    /// What it printed to standard error.
    pub stderr: String,
}

impl CommandOutput {
    /// The standard output as one JSON value.
    ///
    /// # Panics
    /// If it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The standard output as one JSON value per line.
    ///
    /// # Panics
    /// If a line is not JSON.
    #[must_use]
    pub fn ndjson(&self) -> Vec<Value> {
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// A running command. Its output goes to files, so that it never blocks on a full pipe.
#[derive(Debug)]
pub struct RunningCommand {
    child: Child,
    directory: TempDir,
}

impl RunningCommand {
    /// Starts `command` without standard input. It is killed when this is dropped.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let directory = TempDir::new().unwrap();
        let file = |name| File::create(directory.path().join(name)).unwrap();
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        command.kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, directory }
    }

    /// What it has printed to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// What it has printed to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8(fs::read(self.directory.path().join(name)).unwrap()).unwrap()
    }

    /// Waits until it has printed `text` on either stream.
    ///
    /// # Panics
    /// If it has not done so within [`PATIENCE`].
    pub async fn prints(&self, text: &str) {
        wait_for(&format!("the output to contain {text:?}"), PATIENCE, || async {
            (self.stdout().contains(text) || self.stderr().contains(text)).then_some(())
        })
        .await;
    }

    /// Sends `signal` to the process.
    ///
    /// # Panics
    /// If the process has been waited for.
    pub fn signal(&self, signal: Signal) {
        kill(self.nix_pid(), signal).expect("the command is running");
    }

    /// Sends `signal` to its process group, as a terminal does on Ctrl-C. The command must have been started with a group
    /// of its own.
    ///
    /// # Panics
    /// If the process has been waited for.
    pub fn signal_group(&self, signal: Signal) {
        killpg(self.nix_pid(), signal).expect("the command is running");
    }

    /// The PID of the process.
    ///
    /// # Panics
    /// If the process has been waited for.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the command has not been waited for")
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(self.pid().cast_signed())
    }

    /// Waits until it exits.
    ///
    /// # Panics
    /// If it does not exit within [`PATIENCE`], or if a signal has killed it.
    pub async fn finish(mut self) -> CommandOutput {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let (stdout, stderr) = (self.stdout(), self.stderr());
        let status = status.unwrap_or_else(|_| panic!("did not exit: {stdout}{stderr}")).unwrap();
        let code = status.code().unwrap_or_else(|| panic!("{status}: {stdout}{stderr}"));
        CommandOutput { code, stdout, stderr }
    }
}
