//! The push, and what the git host says about it.

use std::ffi::OsStr;

use contract::{Code, DeliveryBranch, Scheme};

use super::source::Source;
use crate::{
    changes::Control,
    failure::{Failure, Result, quote},
    git::{Git, Output},
    remote::{ObjectId, Transport, http_status},
};

/// What became of a push.
#[derive(Debug)]
pub(super) enum Pushed {
    /// The branch is at the commit. This is what the host has said.
    Done(String),
    /// The branch is not where it was. The failure is for a caller that does not look again.
    Moved(Failure),
}

/// A branch and what becomes of it.
pub(super) struct Push<'a> {
    pub(super) branch: &'a DeliveryBranch,
    /// Where it must be. `None`: it must not be there.
    pub(super) from: Option<&'a ObjectId>,
    pub(super) to: &'a ObjectId,
    /// Push options, for a host that takes its orders that way.
    pub(super) options: &'a [String],
}

impl Push<'_> {
    /// Pushes the branch, without force.
    ///
    /// # Errors
    /// If the host refuses it, with its reasons.
    pub(super) fn run(
        &self,
        git: &Git,
        control: &Control<'_>,
        transport: &Transport<'_>,
    ) -> Result<Pushed> {
        let name = format!("refs/heads/{}", self.branch);
        // Only if the branch is where it was when it was looked at. With a lease git would also move it back; it does not,
        // because the commit descends from that one.
        let from = self.from.map(ObjectId::as_str).unwrap_or_default();
        let lease = format!("--force-with-lease={name}:{from}");
        let mut first = vec!["push", "--porcelain", "--no-verify", "--no-follow-tags"];
        first.extend(["--no-signed", "--recurse-submodules=no", lease.as_str()]);
        for option in self.options {
            first.extend(["-o", option]);
        }
        let refspec = format!("{}:{name}", self.to);
        let is_file = transport.repo.scheme() == Scheme::File;
        let private = control.make_private()?;
        let output = transport.attempt(git, &first, &[OsStr::new(&refspec)], |command| {
            let command = control.place_in(&private, command);
            if is_file { command.writes(transport.repo.address()) } else { command }
        })?;
        if output.status.success() {
            return Ok(Pushed::Done(output.stderr));
        }
        match rejection(&output) {
            Some(reason) if is_moved(&reason) => {
                Ok(Pushed::Moved(refused(transport, &reason, &output)))
            }
            Some(reason) => Err(refused(transport, &reason, &output)),
            None => Err(explain(transport, &output)),
        }
    }
}

/// The reason in the line of `--porcelain` for a reference that was not pushed: `!`, a tab, the reference, a tab, and
/// `[remote rejected] (pre-receive hook declined)`.
fn rejection(output: &Output) -> Option<String> {
    let printed = String::from_utf8_lossy(&output.stdout);
    let line = printed.lines().find(|line| line.starts_with("!\t"))?;
    line.rsplit('\t').next().map(str::to_owned)
}

/// Whether the branch was somewhere else than expected, or another push of it came in between while the host took this one:
/// the replica that started that one may be dead.
fn is_moved(reason: &str) -> bool {
    let words = [
        "stale info",
        "non-fast-forward",
        "fetch first",
        "already exists",
        "failed to update ref",
        "cannot lock ref",
        "incorrect old value",
    ];
    words.iter().any(|word| reason.contains(word))
}

/// What the host's side printed: its hooks say there what they want.
fn said_by_host(output: &Output) -> String {
    let lines = output.stderr.lines().filter_map(|line| line.strip_prefix("remote:"));
    lines.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

fn refused(transport: &Transport<'_>, reason: &str, output: &Output) -> Failure {
    let secrets = transport.access.secrets(transport.repo);
    let reason = quote(
        reason.trim_start_matches("[remote rejected]").trim_start_matches("[rejected]"),
        &secrets,
    );
    let said = quote(&said_by_host(output), &secrets);
    let said = if said.is_empty() { said } else { format!(": {said}") };
    let sentence = format!(
        "{} refuses the push {reason}{said}; change what it objects to, or deliver to another branch",
        transport.repo
    );
    Failure::told(Code::PushRejected, sentence)
}

/// The failure of a push that did not get as far as the references. The repository could be read a moment ago.
fn explain(transport: &Transport<'_>, output: &Output) -> Failure {
    let repo = transport.repo;
    let secrets = transport.access.secrets(repo);
    let said = quote(&said_by_host(output), &secrets);
    let said = if said.is_empty() { said } else { format!(" ({said})") };
    let words = [
        "denied to",
        "not allowed to push",
        "read-only",
        "read only",
        "read access",
        "not permitted",
    ];
    let is_read_only = words.iter().any(|word| output.stderr.contains(word));
    if http_status(&output.stderr) == Some(403) || is_read_only {
        let sentence = format!(
            "{repo} refuses the push{said}: the credentials may read it, but not write to it; give a token or a key that may"
        );
        return Failure::told(Code::PushRejected, sentence);
    }
    if http_status(&output.stderr) == Some(401) || asks_for_login(output) {
        let how = transport.access.how_to_give_credentials(repo);
        let sentence =
            format!("{repo} refuses the push without credentials that may write to it: {how}");
        return Failure::told(Code::AuthenticationFailed, sentence);
    }
    match transport.explain(output) {
        Failure::Git(said) => {
            Failure::told(Code::PushRejected, format!("{repo} cannot be pushed to: {said}"))
        }
        other => other,
    }
}

fn asks_for_login(output: &Output) -> bool {
    output.stderr.contains("could not read Username")
        || output.stderr.contains("Authentication failed for")
}

/// Whether `source` may be pushed to at all.
pub(super) fn check_scheme(source: &Source) -> Result<()> {
    if source.repo.scheme() == Scheme::Git {
        let sentence =
            "git:// is read-only: run the job with an https or ssh URL to deliver its result";
        return Err(Failure::told(Code::SchemeNotAllowed, sentence));
    }
    Ok(())
}
