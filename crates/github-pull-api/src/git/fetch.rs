//! Talking to the git host.

use std::{cell::Cell, collections::HashSet, rc::Rc, time::Duration};

use contract::Code;
use git2::{
    AutotagOption, CertificateCheckStatus, Cred, CredentialType, ErrorClass, ErrorCode,
    FetchOptions, FetchPrune, Remote, RemoteCallbacks, RemoteRedirect, Repository,
};

use super::{Job, trouble::Trouble};
use crate::{
    access::{Denial, Logins},
    failure::{Failure, Result},
    known_hosts,
    report::{Progress, Reporter, Stage},
};

const REFSPECS: [&str; 2] = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];

/// What a fetch goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Into {
    /// A repository just made, which nothing can be wrong with.
    New,
    /// One that may have been damaged since.
    Existing,
}

/// Fetches all branches and tags into `repository`, and returns the name of the default branch.
///
/// # Errors
/// What the git host did wrong, or [`Failure::Damaged`] if `repository` did.
pub(super) fn fetch(job: &Job, repository: &Repository, into: Into) -> Result<Option<String>> {
    let denial = Rc::new(Cell::new(None));
    let mut trouble = Trouble { job, denial: Rc::clone(&denial), into, silence: Duration::ZERO };
    // The address is without credentials, so none gets into a file.
    let mut remote =
        repository.remote_anonymous(job.repo.address()).map_err(|error| trouble.explain(&error))?;
    let mut fetched = attempt(job, &mut remote, &mut trouble);
    if let Err(error) = &fetched
        && into == Into::Existing
        && matches!(trouble.explain(error), Failure::Damaged(_))
    {
        // Perhaps a branch `a` stands where `a/b` is to be: libgit2 prunes only after it has written.
        tracing::debug!(job = %job.id, %error, "pruning before another fetch");
        prune(repository, &remote).map_err(|error| Failure::local(&error))?;
        fetched = attempt(job, &mut remote, &mut trouble);
    }
    job.check_stop()?;
    fetched.map_err(|error| trouble.explain(&error))?;

    let heads = remote.list().map_err(|error| trouble.explain(&error))?;
    if !heads.iter().any(|head| head.name().starts_with("refs/heads/")) {
        return Err(Failure::told(
            Code::EmptyRepository,
            format!("{} has no commit yet: push one, then send the job again", job.repo),
        ));
    }
    let default = match remote.default_branch() {
        Ok(name) => {
            name.as_str().ok().and_then(|name| name.strip_prefix("refs/heads/")).map(str::to_owned)
        }
        Err(_) => None,
    };
    remember_default(repository, default.as_deref()).map_err(|error| Failure::local(&error))?;
    Ok(default)
}

fn attempt(
    job: &Job,
    remote: &mut Remote<'_>,
    trouble: &mut Trouble<'_>,
) -> std::result::Result<(), git2::Error> {
    let mut options = FetchOptions::new();
    options
        .remote_callbacks(callbacks(job, &trouble.denial))
        .prune(FetchPrune::On)
        .download_tags(AutotagOption::None)
        .update_fetchhead(false)
        // Redirects stay on the host they come from. libgit2 forgets credentials on the way to another
        // port, and `Logins` gives that one none.
        .follow_redirects(RemoteRedirect::None);
    job.reporter.listen();
    let fetched = remote.fetch(&REFSPECS, Some(&mut options), None);
    trouble.silence = job.reporter.silence().unwrap_or_default();
    job.reporter.stop_listening();
    job.reporter.end_stage();
    fetched
}

/// Removes the references that the remote does not have.
fn prune(repository: &Repository, remote: &Remote<'_>) -> std::result::Result<(), git2::Error> {
    let kept: HashSet<&str> = remote.list()?.iter().map(git2::RemoteHead::name).collect();
    for reference in repository.references()? {
        let mut reference = reference?;
        if !reference.name().is_ok_and(|name| kept.contains(name)) {
            reference.delete()?;
        }
    }
    Ok(())
}

/// Makes `HEAD` of the mirror what it is at the git host. Reading the commit is also the first look
/// at whether the mirror holds together.
fn remember_default(
    repository: &Repository,
    default: Option<&str>,
) -> std::result::Result<(), git2::Error> {
    let Some(default) = default else { return Ok(()) };
    let name = format!("refs/heads/{default}");
    repository.find_reference(&name)?.peel_to_tree()?;
    repository.reference_symbolic("HEAD", &name, true, "")?;
    Ok(())
}

fn callbacks<'a>(job: &'a Job, denial: &Rc<Cell<Option<Denial>>>) -> RemoteCallbacks<'a> {
    let mut callbacks = RemoteCallbacks::new();
    callbacks.transfer_progress(|progress| {
        let total = progress.total_objects();
        let received = progress.received_objects();
        let stage = if received < total || progress.total_deltas() == 0 {
            Stage::Receiving
        } else {
            Stage::Resolving
        };
        if received < total {
            job.reporter.heard();
        } else {
            // What is left is this machine's work, however long it takes.
            job.reporter.stop_listening();
        }
        tell(&job.reporter, stage, &progress);
        !job.should_stop()
    });
    callbacks.sideband_progress(|_| {
        job.reporter.heard();
        !job.should_stop()
    });

    let mut logins = Logins::new(&job.config, &job.repo);
    let denied = Rc::clone(denial);
    let mut key_given = false;
    callbacks.credentials(move |url, user, kinds| {
        job.reporter.heard();
        let user = user.or(job.repo.credentials().0).unwrap_or("git");
        let given = if kinds.contains(CredentialType::USERNAME) {
            Ok(Cred::username(user))
        } else if kinds.contains(CredentialType::SSH_KEY) {
            match &job.config.ssh_key_file {
                None => Err(Denial::NoSshKey),
                Some(_) if std::mem::replace(&mut key_given, true) => Err(Denial::Refused),
                Some(key) => Ok(Cred::ssh_key(user, None, key, None)),
            }
        } else if kinds.contains(CredentialType::USER_PASS_PLAINTEXT) {
            logins.next(url).map(|login| Cred::userpass_plaintext(&login.user, &login.password))
        } else {
            Err(Denial::Kind)
        };
        given.unwrap_or_else(|reason| {
            denied.set(Some(reason));
            Err(git2::Error::new(ErrorCode::Auth, ErrorClass::Callback, "no credentials to give"))
        })
    });

    let denied = Rc::clone(denial);
    callbacks.certificate_check(move |certificate, _| {
        job.reporter.heard();
        let Some(key) = certificate.as_hostkey() else {
            // TLS: what OpenSSL found out counts.
            return Ok(CertificateCheckStatus::CertificatePassthrough);
        };
        let key = key.hostkey().unwrap_or_default();
        let known = match &job.config.ssh_known_hosts_file {
            None => Err(Denial::UnknownHostKey),
            Some(file) => known_hosts::check(file, job.repo.host(), key),
        };
        match known {
            Ok(()) => Ok(CertificateCheckStatus::CertificateOk),
            Err(reason) => {
                denied.set(Some(reason));
                Err(git2::Error::new(ErrorCode::Certificate, ErrorClass::Ssh, "unknown host key"))
            }
        }
    });
    callbacks
}

/// Tells how far a transfer is, with the end of each stage told for certain.
fn tell(reporter: &Reporter, stage: Stage, progress: &git2::Progress<'_>) {
    let bytes = progress.received_bytes();
    if stage == Stage::Resolving {
        // Replaces what is held of the stage before, so that it ends at its total.
        if progress.indexed_deltas() == 0 {
            let total = progress.total_objects();
            reporter.progress(Progress { stage: Stage::Receiving, received: total, total, bytes });
        }
        let (received, total) = (progress.indexed_deltas(), progress.total_deltas());
        reporter.progress(Progress { stage, received, total, bytes });
    } else {
        let (received, total) = (progress.received_objects(), progress.total_objects());
        reporter.progress(Progress { stage, received, total, bytes });
    }
}
