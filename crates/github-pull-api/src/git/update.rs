//! Updating a checkout that is there.

use cap_std::{ambient_authority, fs::Dir};
use contract::{BranchName, Code};
use git2::{AutotagOption, FetchOptions, Oid, RemoteCallbacks, Repository};

use super::{
    Done, Job,
    aside::Aside,
    existing::Checkout,
    mirror::Mirror,
    movement::{Move, move_to},
    refs,
    shadow::Shadow,
};
use crate::failure::{Failure, Result};

/// Where `HEAD` is.
pub(super) enum Head {
    /// On a branch, which has a commit or not yet.
    Branch(String, Option<Oid>),
    Detached(Oid),
}

impl Head {
    /// The commit that is checked out.
    pub(super) fn commit(&self) -> Option<Oid> {
        match self {
            Self::Branch(_, commit) => *commit,
            Self::Detached(commit) => Some(*commit),
        }
    }

    /// The branch it is on.
    pub(super) fn branch(&self) -> Option<&str> {
        match self {
            Self::Branch(name, _) => Some(name),
            Self::Detached(_) => None,
        }
    }
}

/// Updates `checkout` from `mirror`: fast-forward, or a switch to the branch that is asked for.
///
/// # Errors
/// If the branch diverged, or local changes are in the way; then files, index, `HEAD` and branches are
/// as they were.
pub(super) fn update(
    job: &Job,
    aside: &Aside,
    mirror: Mirror,
    checkout: &Checkout,
) -> Result<Done> {
    let shadow = Shadow::make(job, aside, checkout)?;
    let repository = &shadow.repository;
    let head = read_head(repository)?;
    let (branch, upstream) = match (&job.branch, &head) {
        (None, Head::Branch(name, Some(commit))) => match mirror.tip(name)? {
            Some(tip) => (name.clone(), tip),
            None => {
                // A branch that was made here, by an agent perhaps: it is what the caller works on.
                fetch(job, &shadow, &mirror)?;
                publish(&shadow, checkout, &mirror)?;
                job.message(format!("The branch '{name}' is only here: kept as it is"));
                return Ok(done(name, *commit));
            }
        },
        (asked, _) => mirror.branch(job, asked.as_ref())?,
    };
    fetch(job, &shadow, &mirror)?;
    publish(&shadow, checkout, &mirror)?;
    // Others may fetch while this one works on its files.
    drop(mirror);

    let local = find_branch(repository, &branch)?;
    let tip = fast_forward(repository, &branch, local, upstream)?;
    if head.branch() == Some(branch.as_str()) && head.commit() == Some(tip) {
        let ahead = if tip == upstream { "" } else { ", with commits that are only here" };
        job.message(format!("Already up to date{ahead}"));
        return Ok(done(&branch, tip));
    }
    keep_detached(repository, &head, tip)?;
    if local.is_none() {
        check_name(repository, &branch)?;
    }
    let shown = tip.to_string();
    job.message(format!("Checking out {branch} at {}", shown.get(..10).unwrap_or(&shown)));
    move_to(job, aside, &shadow, checkout, &Move { head: &head, branch: &branch, local, tip })?;
    Ok(done(&branch, tip))
}

fn done(branch: &str, commit: Oid) -> Done {
    Done { branch: BranchName::parse(branch).ok(), commit: commit.to_string() }
}

fn read_head(repository: &Repository) -> Result<Head> {
    let local = |error| Failure::local(&error);
    let head = repository.find_reference("HEAD").map_err(local)?;
    if let Ok(Some(name)) = head.symbolic_target()
        && let Some(branch) = name.strip_prefix("refs/heads/")
    {
        return Ok(Head::Branch(branch.to_owned(), find_branch(repository, branch)?));
    }
    head.peel_to_commit().map(|commit| Head::Detached(commit.id())).map_err(local)
}

fn find_branch(repository: &Repository, branch: &str) -> Result<Option<Oid>> {
    match repository.refname_to_id(&format!("refs/heads/{branch}")) {
        Ok(id) => Ok(Some(id)),
        Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
        Err(error) => Err(Failure::local(&error)),
    }
}

/// Brings the objects of the mirror that the checkout lacks into the shadow.
fn fetch(job: &Job, shadow: &Shadow, mirror: &Mirror) -> Result<()> {
    let local = |error| Failure::local(&error);
    let odb = shadow.repository.odb().map_err(local)?;
    let wanted = mirror.branches()?.into_iter().chain(mirror.tags()?);
    if wanted.into_iter().all(|(_, id)| odb.exists(id)) {
        return Ok(());
    }
    let mut remote =
        shadow.repository.remote_anonymous(&mirror.path().to_string_lossy()).map_err(local)?;
    let mut callbacks = RemoteCallbacks::new();
    callbacks.transfer_progress(|_| !job.should_stop());
    callbacks.sideband_progress(|_| !job.should_stop());
    let mut options = FetchOptions::new();
    options.remote_callbacks(callbacks).download_tags(AutotagOption::None).update_fetchhead(false);
    let refspecs = ["+refs/heads/*:refs/mirror/heads/*", "+refs/tags/*:refs/mirror/tags/*"];
    let fetched = remote.fetch(&refspecs, Some(&mut options), None);
    job.check_stop()?;
    fetched.map_err(local)
}

/// Puts the objects that were brought, and the branches of `origin`, into the checkout.
fn publish(shadow: &Shadow, checkout: &Checkout, mirror: &Mirror) -> Result<()> {
    let path = shadow.path().join("objects/pack");
    let failed = |error| Failure::io("move into the checkout", &path)(error);
    let packs = Dir::open_ambient_dir(&path, ambient_authority()).map_err(failed)?;
    checkout.git.create_dir_all("objects/pack").map_err(failed)?;
    let mut names: Vec<_> = packs
        .entries()
        .map_err(failed)?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("pack-"))
        .collect();
    // A pack is looked for by its index, so that one comes last.
    names.sort_by_key(|name| name.ends_with(".idx"));
    for name in names {
        let to = format!("objects/pack/{name}");
        // A link to a file that was made for this checkout and loses its other name soon.
        match packs.hard_link(&name, &checkout.git, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(_) => {
                packs.copy(&name, &checkout.git, &to).map_err(failed)?;
            }
            Ok(()) => {}
        }
    }
    refs::publish(&checkout.git, mirror)
}

/// Where `branch` goes: to `upstream`, unless it already has that and more.
fn fast_forward(
    repository: &Repository,
    branch: &str,
    local: Option<Oid>,
    upstream: Oid,
) -> Result<Oid> {
    let failed = |error| Failure::local(&error);
    let Some(local) = local.filter(|local| *local != upstream) else { return Ok(upstream) };
    if repository.graph_descendant_of(upstream, local).map_err(failed)? {
        return Ok(upstream);
    }
    if repository.graph_descendant_of(local, upstream).map_err(failed)? {
        return Ok(local);
    }
    Err(Failure::told(
        Code::Diverged,
        format!(
            "'{branch}' has commits that the repository does not have, and the other way round: push, \
             rebase or remove them, or use another directory"
        ),
    ))
}

/// Makes sure that a new branch stands where no other is, and beneath none.
fn check_name(repository: &Repository, branch: &str) -> Result<()> {
    let local = |error| Failure::local(&error);
    for reference in repository.references_glob("refs/heads/*").map_err(local)? {
        let reference = reference.map_err(local)?;
        let Some(name) = reference.name().ok().and_then(|name| name.strip_prefix("refs/heads/"))
        else {
            continue;
        };
        let is_beneath = |one: &str, other: &str| {
            one.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
        };
        if is_beneath(name, branch) || is_beneath(branch, name) {
            return Err(Failure::told(
                Code::CheckoutConflict,
                format!(
                    "the branch '{name}' of the checkout leaves no room for '{branch}': rename it"
                ),
            ));
        }
    }
    Ok(())
}

/// Makes sure that no commit is lost when `HEAD` leaves it.
fn keep_detached(repository: &Repository, head: &Head, tip: Oid) -> Result<()> {
    let Head::Detached(commit) = *head else { return Ok(()) };
    let local = |error| Failure::local(&error);
    let is_in =
        |id: Oid| id == commit || repository.graph_descendant_of(id, commit).unwrap_or(false);
    if is_in(tip) {
        return Ok(());
    }
    for reference in repository.references().map_err(local)? {
        if let Some(id) = reference.map_err(local)?.target()
            && is_in(id)
        {
            return Ok(());
        }
    }
    Err(Failure::told(
        Code::CheckoutConflict,
        format!("HEAD is at {commit}, which is on no branch: make a branch of it first"),
    ))
}
