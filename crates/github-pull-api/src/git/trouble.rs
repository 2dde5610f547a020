//! What went wrong between the git host and the mirror, for the caller.

use std::{cell::Cell, rc::Rc, time::Duration};

use contract::{Code, RepoUrl, Scheme};
use git2::{ErrorClass, ErrorCode};

use super::{Job, fetch::Into};
use crate::{
    access::{Denial, Logins},
    failure::{Failure, quote, says_disk_full},
};

/// What is known about a fetch that failed.
pub(super) struct Trouble<'a> {
    pub(super) job: &'a Job,
    pub(super) denial: Rc<Cell<Option<Denial>>>,
    pub(super) into: Into,
    /// For how long the host had said nothing when the fetch failed.
    pub(super) silence: Duration,
}

/// What the words of a host that stopped sending say.
pub(crate) fn stalled(repo: &RepoUrl, stall: Duration) -> String {
    format!(
        "{repo} sent nothing for {} s: send the job again later, or raise GIT_STALL_SECONDS",
        stall.as_secs()
    )
}

impl Trouble<'_> {
    /// The failure that `error` is.
    pub(super) fn explain(&self, error: &git2::Error) -> Failure {
        let message = error.message();
        tracing::info!(
            job = %self.job.id, repo = %self.job.repo,
            class = ?error.class(), code = ?error.code(), message, denial = ?self.denial.get(),
            "a fetch failed"
        );
        if self.job.should_stop() {
            return Failure::Stopped;
        }
        if says_disk_full(message) {
            return Failure::disk_full();
        }
        if let Some(denial) = self.denial.get() {
            return Failure::told(Code::AuthenticationFailed, self.denied(denial));
        }
        let repo = &self.job.repo;
        if let Some(status) = http_status(message) {
            return self.refused(status);
        }
        if error.code() == ErrorCode::Auth {
            return Failure::told(Code::AuthenticationFailed, self.denied(Denial::Refused));
        }
        if message.starts_with("failed to connect") {
            return self.unreachable("does not answer: check the URL and the network");
        }
        if self.is_timeout(error) {
            return Failure::told(Code::RemoteStalled, stalled(repo, self.job.config.stall));
        }
        if message.starts_with("cannot redirect") || message.contains("redirect") {
            return self.unreachable("sends on to another host: use the URL it leads to");
        }
        let said = quote(message, &Logins::secrets(&self.job.config, repo));
        match error.class() {
            _ if error.code() == ErrorCode::Certificate || message.contains("certificate") => {
                self.unreachable(&format!("has no TLS certificate that can be trusted: {said}"))
            }
            ErrorClass::Net | ErrorClass::Http | ErrorClass::Ssh | ErrorClass::Ssl => {
                self.unreachable(&format!("cannot be reached: {said}; check the URL"))
            }
            // What OpenSSL tells of its socket comes as an error of the system.
            _ if message.starts_with("SSL error") => {
                self.unreachable(&format!("broke off: {said}; send the job again"))
            }
            // Local files stand in for the host.
            _ if repo.scheme() == Scheme::File => {
                self.unreachable(&format!("cannot be read: {said}; check the path"))
            }
            _ if self.into == Into::New => {
                self.unreachable(&format!("sent what git cannot use: {said}; send the job again"))
            }
            _ => Failure::local(error),
        }
    }

    /// Whether libgit2 gave up waiting. Behind TLS the reason is lost on the way, not the time it took.
    fn is_timeout(&self, error: &git2::Error) -> bool {
        let message = error.message();
        error.code() == ErrorCode::Timeout
            || message.contains("timed out")
            || (self.silence >= self.job.config.stall && message.starts_with("SSL error"))
    }

    fn unreachable(&self, what: &str) -> Failure {
        Failure::told(Code::RepositoryUnreachable, format!("{} {what}", self.job.repo))
    }

    fn refused(&self, status: u16) -> Failure {
        let repo = &self.job.repo;
        match status {
            401 | 403 => Failure::told(
                Code::AuthenticationFailed,
                format!(
                    "{repo} refuses access (HTTP {status}): check that the credentials may read it"
                ),
            ),
            404 | 410 => self.unreachable(
                "was not found: check the URL; if it is private, give credentials in the URL, or set \
                 GITHUB_TOKEN and GIT_CREDENTIAL_HOSTS",
            ),
            _ => self.unreachable(&format!("answers with HTTP {status}: send the job again later")),
        }
    }

    fn denied(&self, denial: Denial) -> String {
        let repo = &self.job.repo;
        let (name, port) = repo.host().rsplit_once(':').unwrap_or((repo.host(), ""));
        match denial {
            Denial::None => format!(
                "{repo} wants credentials, or does not exist: give them in the URL, or set GITHUB_TOKEN \
                 and GIT_CREDENTIAL_HOSTS"
            ),
            Denial::Refused => {
                format!("{repo} refuses the credentials: check that they are valid and may read it")
            }
            Denial::PlainHttp => {
                format!("{repo} wants credentials, which do not go over plain http: use https")
            }
            Denial::Redirected => format!(
                "{repo} sends on to another host, and that one wants credentials: use the URL it leads to"
            ),
            Denial::Kind => format!(
                "{repo} wants a kind of credentials that is not supported: use a user and a token"
            ),
            Denial::NoSshKey => format!("{repo} wants an ssh key: set SSH_KEY_FILE, or use https"),
            Denial::UnknownHostKey | Denial::WrongHostKey => {
                let what = if denial == Denial::WrongHostKey {
                    "is another than the one in SSH_KNOWN_HOSTS_FILE"
                } else {
                    "is not in SSH_KNOWN_HOSTS_FILE"
                };
                let keyscan = match port {
                    "" => format!("ssh-keyscan {name}"),
                    port => format!("ssh-keyscan -p {port} {name}"),
                };
                format!(
                    "the host key of {} {what}: add the output of '{keyscan}' to that file, after \
                     checking it against what the host publishes",
                    repo.host()
                )
            }
        }
    }
}

/// The status in libgit2's words for an answer that is no success.
fn http_status(message: &str) -> Option<u16> {
    message.strip_prefix("unexpected http status code: ")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_found() {
        assert_eq!(http_status("unexpected http status code: 404"), Some(404));
        assert_eq!(http_status("no answer"), None);
    }
}
