//! The way to the git host: through the connector, with the credentials of this pull.

use std::{ffi::OsStr, path::Path};

use contract::{RepoUrl, Scheme};

use super::{
    access::{Access, Login, Logins},
    diagnosis::{Diagnosis, is_login_refused},
};
use crate::{
    connector::Connector,
    failure::{Failure, Result},
    git::{Command, Git, Output},
};

/// Prints the login that the pull handed over, once, and keeps none. By its path, because some shells do not
/// know file descriptors of more than one digit.
const HELPER: &str = r#"!f() { test "$1" = get && cat "/proc/self/fd/$PULL_SECRET"; }; f"#;

/// How a pull reaches the host of its repository.
pub(crate) struct Transport<'a> {
    pub(crate) access: &'a Access<'a>,
    pub(crate) repo: &'a RepoUrl,
}

impl<'a> Transport<'a> {
    /// Lets git connect to the host of `repo`.
    pub(crate) fn new(access: &'a Access<'a>, repo: &'a RepoUrl) -> Self {
        access.connector.permit(repo);
        Self { access, repo }
    }

    /// Runs a command that talks to the host: `git FIRST… ADDRESS LAST…`, with one login after the other
    /// until the host accepts one.
    ///
    /// # Errors
    /// What the host did wrong; [`Failure::Git`] if it was this machine.
    pub(crate) fn run(
        &self,
        git: &Git,
        first: &[&str],
        last: &[&OsStr],
        place: impl Fn(Command<'_>) -> Command<'_>,
    ) -> Result<Output> {
        self.run_at(git, first, last, Some(self.repo.address()), place)
    }

    /// As [`run`](Self::run), with another `address`, or none.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn run_at(
        &self,
        git: &Git,
        first: &[&str],
        last: &[&OsStr],
        address: Option<&str>,
        place: impl Fn(Command<'_>) -> Command<'_>,
    ) -> Result<Output> {
        let output = self.attempt_at(git, first, last, address, place)?;
        if output.status.success() { Ok(output) } else { Err(self.explain(&output)) }
    }

    /// As [`run`](Self::run), but a command that fails at the host is no error.
    ///
    /// # Errors
    /// If git cannot be run to its end.
    pub(crate) fn attempt(
        &self,
        git: &Git,
        first: &[&str],
        last: &[&OsStr],
        place: impl Fn(Command<'_>) -> Command<'_>,
    ) -> Result<Output> {
        self.attempt_at(git, first, last, Some(self.repo.address()), place)
    }

    fn attempt_at(
        &self,
        git: &Git,
        first: &[&str],
        last: &[&OsStr],
        address: Option<&str>,
        place: impl Fn(Command<'_>) -> Command<'_>,
    ) -> Result<Output> {
        let Self { access, repo } = self;
        let mut left = Logins::new(&access.config, repo).list.into_iter();
        let mut login = access.next_login(repo, &mut left)?;
        loop {
            let arguments = first.iter().map(OsStr::new).chain(address.map(OsStr::new));
            let arguments = arguments.chain(last.iter().copied());
            let command = place(self.prepare(git.command(arguments), login.as_ref()));
            let output = match command.run() {
                Err(Failure::Stalled(stall)) => return Err(super::stalled(self.repo, stall)),
                other => other?,
            };
            if output.status.success() {
                return Ok(output);
            }
            tracing::info!(repo = %self.repo, said = output.stderr, "git failed at its host");
            if !is_login_refused(&output) {
                return Ok(output);
            }
            login = access.next_login(repo, &mut left)?;
            if login.is_none() {
                return Ok(output);
            }
        }
    }

    /// The failure that the output of a command that failed tells of; [`Failure::Git`] if it may be this machine's.
    pub(crate) fn explain(&self, output: &Output) -> Failure {
        let diagnosis = Diagnosis {
            access: self.access,
            repo: self.repo,
            refusal: self.access.connector.refusal(),
            withheld: Logins::new(&self.access.config, self.repo).withheld,
        };
        diagnosis.explain(output)
    }

    fn prepare<'g>(&'g self, command: Command<'g>, login: Option<&Login>) -> Command<'g> {
        let scheme = match self.repo.scheme() {
            // A redirect may lead to https.
            Scheme::Http => "http:https",
            Scheme::Https => "https",
            Scheme::Ssh => "ssh",
            Scheme::Git => "git",
            Scheme::File => "file",
        };
        let mut command = command.env("GIT_ALLOW_PROTOCOL", scheme);
        if self.repo.scheme() == Scheme::File {
            return command.reads(self.repo.address());
        }
        command = command.network(self.access.connector, self.access.config.stall);
        if self.repo.scheme() == Scheme::Ssh {
            return self.prepare_ssh(command);
        }
        if let (Some(login), Some(origin)) = (login, origin(self.repo.address())) {
            // For this scheme, host and port alone: no redirect carries it on.
            command = command
                .config(format!("credential.{origin}.helper"), HELPER)
                .secret(format!("username={}\npassword={}\n", login.user, login.password));
        }
        for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
            if let Some(path) = std::env::var_os(name) {
                let own = if name == "SSL_CERT_FILE" { "GIT_SSL_CAINFO" } else { "GIT_SSL_CAPATH" };
                command = command.reads(Path::new(&path)).env(own, path);
            }
        }
        command
    }

    fn prepare_ssh<'g>(&'g self, mut command: Command<'g>) -> Command<'g> {
        let mut ssh = "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes \
             -o GlobalKnownHostsFile=/dev/null -o UpdateHostKeys=no -o IdentityAgent=none \
             -o IdentitiesOnly=yes -o PreferredAuthentications=publickey"
            .to_owned();
        let mut add = |option: &str| {
            ssh.push_str(" -o ");
            ssh.push_str(&quote(option));
        };
        let known = self.access.config.ssh_known_hosts_file.as_deref();
        let known = known.unwrap_or(Path::new("/dev/null"));
        add(&format!("UserKnownHostsFile=\"{}\"", known.display()));
        let key = self.access.config.ssh_key_file.as_deref().unwrap_or(Path::new("/dev/null"));
        add(&format!("IdentityFile=\"{}\"", key.display()));
        add(&Connector::ssh_option());
        for path in [known, key] {
            command = command.reads(path);
        }
        command.env("GIT_SSH_COMMAND", ssh).env("GIT_SSH_VARIANT", "ssh").env("SHELL", "/bin/sh")
    }
}

/// Scheme, host and port, as the keys of git's configuration have them.
fn origin(address: &str) -> Option<String> {
    let url = url::Url::parse(address).ok()?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{}://{}{port}", url.scheme(), url.host_str()?))
}

/// One word of a shell's command.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
