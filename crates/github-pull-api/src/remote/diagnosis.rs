//! What went wrong between the git host and the mirror, in a sentence for the caller.

use std::time::Duration;

use contract::{Code, RepoUrl};

use super::{Access, access::is_same_origin};
use crate::{
    connector::Refusal,
    failure::{Failure, quote},
    git::Output,
};

/// What is known about a command that failed at the host's side.
pub(super) struct Diagnosis<'a> {
    pub(super) access: &'a Access<'a>,
    pub(super) repo: &'a RepoUrl,
    /// Why the connector gave no connection.
    pub(super) refusal: Option<Refusal>,
    /// There are credentials, and they were not sent over plain http.
    pub(super) withheld: bool,
}

/// Whether the host refused the login, so that another one may help.
pub(super) fn is_login_refused(output: &Output) -> bool {
    output.stderr.contains("Authentication failed for")
}

/// The failure of a host that stopped sending.
pub(crate) fn stalled(repo: &RepoUrl, stall: Duration) -> Failure {
    Failure::told(
        Code::RemoteStalled,
        format!(
            "{repo} sent nothing for {} s: send the job again later, or raise GIT_STALL_SECONDS",
            stall.as_secs()
        ),
    )
}

/// git's words for objects that do not hold together, whoever sent them.
const INVALID: [&str; 13] = [
    "did not send all necessary objects",
    "missing blob",
    "missing tree",
    "missing commit",
    "bad tree object",
    "unresolved deltas",
    "object corrupt or missing",
    "pack has bad object",
    "pack is corrupted",
    "inflate returned",
    "fsck error",
    "too-short tree",
    "invalid path",
];

/// git's words for a connection that ended too early.
const BROKE_OFF: [&str; 8] = [
    "early EOF",
    "unexpected disconnect",
    "hung up unexpectedly",
    "RPC failed",
    "Recv failure",
    "transfer closed",
    "Empty reply",
    "premature end of pack",
];

/// git's, curl's and ssh's words for a host that is not reached.
const NO_ANSWER: [&str; 11] = [
    "Could not resolve",
    "Failed to connect",
    "Couldn't connect",
    "Connection refused",
    "Connection timed out",
    "unable to connect",
    "cannot connect",
    "Can't complete SOCKS5",
    "cannot complete SOCKS5",
    "Connection closed by UNKNOWN",
    "Connection reset",
];

/// curl's words for a certificate that is not trusted.
const CERTIFICATE: [&str; 3] = ["SSL certificate", "certificate verif", "certificate subject name"];

impl Diagnosis<'_> {
    /// The failure that `output` tells of; [`Failure::Git`] if it may be this machine's.
    pub(super) fn explain(&self, output: &Output) -> Failure {
        let text = output.stderr.as_str();
        let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
        if output.is_disk_full {
            return Failure::disk_full();
        }
        if let Some(failure) = self.explain_access(text) {
            return failure;
        }
        if let Some(Refusal::OtherHost(_)) = &self.refusal {
            return self.unreachable("redirects to another host: use the URL that it leads to");
        }
        if says(&["update url base from redirection"]) {
            return self.unreachable("redirects to something else: use the URL that it leads to");
        }
        if let Some(status) = http_status(text) {
            return self.refused(status);
        }
        if says(&["' not found", "epository not found"]) {
            return self.refused(404);
        }
        let said = self.quoted(text);
        if says(&CERTIFICATE) {
            return self
                .unreachable(&format!("has no TLS certificate that can be trusted: {said}"));
        }
        if self.refusal.is_some() || says(&NO_ANSWER) {
            return self.unreachable("cannot be reached: check the URL and the network");
        }
        if says(&INVALID) {
            return Failure::Git(said);
        }
        if says(&BROKE_OFF) {
            return self.unreachable(&format!(
                "broke off: {said}; check the URL, then send the job again"
            ));
        }
        if says(&[
            "unable to access",
            "Could not read from remote",
            "not valid: is this a git",
            "does not exist",
        ]) {
            return self.unreachable(&format!("cannot be read: {said}; check the URL"));
        }
        if says(&["not appear to be a git repository", "protocol error", "bad line length"]) {
            return self.unreachable(&format!("is no git repository: {said}; check the URL"));
        }
        Failure::Git(said)
    }

    /// What git says of credentials and keys.
    fn explain_access(&self, text: &str) -> Option<Failure> {
        let repo = self.repo;
        let denied = |sentence: String| Some(Failure::told(Code::AuthenticationFailed, sentence));
        if text.contains("Authentication failed for") {
            return denied(format!(
                "{repo} refuses the credentials: check that they are valid and may read it"
            ));
        }
        if let Some((_, after)) = text.split_once("could not read Username for '") {
            let asked_at = after.split('\'').next().unwrap_or_default();
            return denied(if !is_same_origin(asked_at, repo.address()) {
                format!(
                    "{repo} redirects to another host, and that one wants credentials: use the URL that it \
                     leads to"
                )
            } else if self.withheld {
                format!("{repo} wants credentials, which do not go over plain http: use https")
            } else {
                let how = self.access.how_to_give_credentials(repo);
                format!("{repo} wants credentials, or does not exist: {how}")
            });
        }
        if text.contains("could not read Password for '") {
            return denied(format!("{repo} wants a password: give it in the URL"));
        }
        if text.contains("REMOTE HOST IDENTIFICATION HAS CHANGED")
            || text.contains("REVOKED HOST KEY")
        {
            return denied(self.host_key("is not the one in SSH_KNOWN_HOSTS_FILE"));
        }
        if text.contains("Host key verification failed") {
            return denied(self.host_key("is not in SSH_KNOWN_HOSTS_FILE"));
        }
        if text.contains("Permission denied (") {
            return denied(match self.access.config.ssh_key_file {
                None => format!("{repo} wants an ssh key: set SSH_KEY_FILE, or use https"),
                Some(_) => format!(
                    "{repo} refuses the ssh key: add its public half as a deploy key of the repository"
                ),
            });
        }
        None
    }

    fn host_key(&self, what: &str) -> String {
        let host = self.repo.host();
        let keyscan = match host.rsplit_once(':') {
            Some((name, port)) => format!("ssh-keyscan -p {port} {name}"),
            None => format!("ssh-keyscan {host}"),
        };
        format!(
            "the host key of {host} {what}: add the output of '{keyscan}' to that file, after checking it \
             against what the host publishes"
        )
    }

    fn refused(&self, status: u16) -> Failure {
        let repo = self.repo;
        match status {
            401 | 403 => Failure::told(
                Code::AuthenticationFailed,
                format!(
                    "{repo} refuses access (HTTP {status}): check that the credentials may read it"
                ),
            ),
            404 | 410 => {
                let how = self.access.how_to_give_credentials(repo);
                self.unreachable(&format!("was not found: check the URL; if it is private, {how}"))
            }
            300..=399 => {
                self.unreachable("redirects to something else: use the URL that it leads to")
            }
            _ => self.unreachable(&format!("answers with HTTP {status}: send the job again later")),
        }
    }

    fn unreachable(&self, what: &str) -> Failure {
        Failure::told(Code::RepositoryUnreachable, format!("{} {what}", self.repo))
    }

    fn quoted(&self, text: &str) -> String {
        quote(text, &self.access.secrets(self.repo))
    }
}

/// The failure of a repository that git cannot use although it is fresh from its host, with git's words.
pub(crate) fn unusable(repo: &RepoUrl, said: &str) -> Failure {
    if INVALID.iter().any(|words| said.contains(words)) {
        let sentence = format!("{repo} holds what git cannot use: {said}; check it with git fsck");
        Failure::told(Code::RepositoryInvalid, sentence)
    } else {
        Failure::told(Code::GitFailed, format!("git cannot use {repo}: {said}"))
    }
}

/// The status in git's words for an answer of a host that is no success.
pub(crate) fn http_status(text: &str) -> Option<u16> {
    let (_, after) = text
        .split_once("The requested URL returned error: ")
        .or_else(|| text.split_once("RPC failed; HTTP "))?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_found() {
        for (text, status) in [
            ("fatal: unable to access 'x': The requested URL returned error: 503", Some(503)),
            ("error: RPC failed; HTTP 500 curl 22 The requested", Some(500)),
            ("error: RPC failed; curl 18 transfer closed", None),
        ] {
            assert_eq!(http_status(text), status, "{text}");
        }
    }
}
