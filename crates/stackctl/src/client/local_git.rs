//! The user's own git, in the repository that the user stands in.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use transcript::one_line;

use super::error::ClientError;

/// The longest reason of git's that is repeated, in characters.
const LONGEST: usize = 1000;
/// What the user's own configuration may not do here. Hooks, the monitor of the files and submodules may be programs in the
/// clone's files, and then git would run what an agent has just put there.
const OVERRIDES: [&str; 6] = [
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "submodule.recurse=false",
];

/// A repository of this machine.
#[derive(Clone, Debug)]
pub(super) struct LocalGit {
    top: PathBuf,
    /// Whether pointers of files in LFS stay what they are.
    keeps_pointers: bool,
}

impl LocalGit {
    /// The repository around the current directory.
    ///
    /// # Errors
    /// If there is no git, or no repository with files here.
    pub(super) fn here() -> Result<Self, ClientError> {
        let output = run(Path::new("."), &["rev-parse", "--show-toplevel"], &[])?;
        if !output.status.success() {
            return Err(ClientError::Usage(
                "this directory is in no git repository: go to your clone of the repository first"
                    .into(),
            ));
        }
        let top = output.stdout.strip_suffix(b"\n").unwrap_or(&output.stdout);
        Ok(Self { top: PathBuf::from(OsStr::from_bytes(top)), keeps_pointers: false })
    }

    /// Leaves pointers of files in LFS as they are: git-lfs would ask the repository's server for contents that it does not
    /// have, and fail.
    pub(super) fn keeping_pointers(self) -> Self {
        Self { keeps_pointers: true, ..self }
    }

    /// The top directory of its files.
    pub(super) fn top(&self) -> &Path {
        &self.top
    }

    /// Runs a command, and returns what it prints.
    ///
    /// # Errors
    /// If it cannot be started, or fails: then with git's own words after `what`.
    pub(super) fn git(&self, what: &str, arguments: &[&str]) -> Result<String, ClientError> {
        self.git_with(what, arguments, &[])
    }

    /// The same with more variables.
    ///
    /// # Errors
    /// As [`git`](Self::git).
    pub(super) fn git_with(
        &self,
        what: &str,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Result<String, ClientError> {
        let output = self.run(arguments, environment)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        let said = one_line(&String::from_utf8_lossy(&output.stderr), LONGEST);
        Err(ClientError::Git(format!("{what}: {said}")))
    }

    /// Whether a command succeeds.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn succeeds(
        &self,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Result<bool, ClientError> {
        Ok(self.run(arguments, environment)?.status.success())
    }

    fn run(
        &self,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Result<Output, ClientError> {
        let skip = [("GIT_LFS_SKIP_SMUDGE", OsStr::new("1"))];
        let more = if self.keeps_pointers { &skip[..] } else { &[] };
        run(&self.top, arguments, &[environment, more].concat())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "it is the user's own git, with the user's configuration and on the user's terminal"
)]
fn run(
    directory: &Path,
    arguments: &[&str],
    environment: &[(&str, &OsStr)],
) -> Result<Output, ClientError> {
    let mut command = Command::new("git");
    command.current_dir(directory).args(OVERRIDES).args(arguments);
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    for (name, value) in environment {
        command.env(name, value);
    }
    command.output().map_err(|error| {
        ClientError::Git(match error.kind() {
            io::ErrorKind::NotFound => "there is no git on the PATH: install it".into(),
            _ => format!("failed to start git: {error}"),
        })
    })
}
