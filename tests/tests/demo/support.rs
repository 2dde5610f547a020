//! `stackctl` with an environment of nothing but a home and a place for temporary files.

use std::{fs, path::PathBuf};

use tempfile::TempDir;
use testkit::{CommandOutput, ProcInfo, RunningCommand, processes_of_directory, target_binary};
use tokio::process::Command;

/// A home, a place for temporary files, and the command that has them.
pub(crate) struct Home {
    directory: TempDir,
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
        testkit::write_program(&path, &format!("#!/bin/sh\n{script}\n"));
        path.to_str().unwrap().to_owned()
    }

    /// `stackctl` without a `PATH`, so it finds no git.
    pub(crate) fn stackctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(target_binary("stackctl"));
        command.args(arguments).env_clear().current_dir(self.directory.path());
        command.env("HOME", self.directory.path()).env("TMPDIR", self.temporary());
        command
    }

    pub(crate) async fn ran(&self, arguments: &[&str]) -> CommandOutput {
        RunningCommand::start(self.stackctl(arguments)).finish().await
    }

    /// Processes that have anything to do with this home.
    pub(crate) fn processes(&self) -> Vec<ProcInfo> {
        processes_of_directory(&self.directory.path().canonicalize().unwrap())
    }

    /// Asserts that neither a process nor a temporary file is left.
    pub(crate) fn assert_nothing_left(&self) {
        let processes = self.processes();
        assert!(processes.is_empty(), "{processes:#?}");
        let files: Vec<_> =
            fs::read_dir(self.temporary()).unwrap().map(|it| it.unwrap().path()).collect();
        assert!(files.is_empty(), "{files:?}");
    }
}
