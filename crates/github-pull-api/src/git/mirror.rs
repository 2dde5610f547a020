//! The mirror of a repository: bare, shared by all pulls of it, and the only thing that talks to the
//! network.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use contract::{BranchName, Code};
use git2::{Oid, Repository, RepositoryInitOptions};
use sha2::{Digest as _, Sha256};

use super::{Job, aside::Aside, fetch, lock::Lock};
use crate::failure::{Failure, Result};

/// Whether what is there is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Fetch what changed.
    Update,
    /// Fetch everything into a new mirror, which then takes the place of the old one.
    Rebuild,
}

/// A mirror as of now. Nobody else reads or writes it while this lives.
pub(super) struct Mirror {
    path: PathBuf,
    repository: Repository,
    default: Option<String>,
    _lock: Lock,
}

impl Mirror {
    /// Brings the mirror of the job's repository up to date, with the job's own credentials.
    ///
    /// # Errors
    /// If the fetch fails: what the mirror already holds serves nobody who may not fetch it.
    pub(super) fn fetch(job: &Job, aside: &Aside, freshness: Freshness) -> Result<Self> {
        let name: String = Sha256::digest(job.repo.mirror_key())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let directory = job.workspace.mirrors();
        let path = directory.join(format!("{name}.git"));
        let lock = directory.join(format!("{name}.lock"));
        let lock = Lock::take(job, &lock, "Waiting for another pull of this repository")?;
        if freshness == Freshness::Update && path.exists() {
            remove_leftovers(&path);
            job.message("Updating the mirror");
            match update(job, &path) {
                Ok((repository, default)) => {
                    return Ok(Self { path, repository, default, _lock: lock });
                }
                Err(Failure::Damaged(what)) => {
                    tracing::warn!(job = %job.id, %what, mirror = %path.display(), "a mirror is damaged");
                    job.message("The mirror is damaged: building it anew");
                }
                Err(failure) => return Err(failure),
            }
        }
        job.message(format!("Cloning {}", job.repo));
        let default = create(job, aside, &path)?;
        let repository = Repository::open_bare(&path).map_err(|error| Failure::local(&error))?;
        Ok(Self { path, repository, default, _lock: lock })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The branch that `branch` or, without one, the remote's `HEAD` names, and its commit.
    ///
    /// # Errors
    /// If there is no such branch.
    pub(super) fn branch(&self, job: &Job, branch: Option<&BranchName>) -> Result<(String, Oid)> {
        let asked = branch.map(BranchName::as_str);
        if let Some(name) = asked.or(self.default.as_deref())
            && let Some(id) = self.tip(name)?
        {
            return Ok((name.to_owned(), id));
        }
        let mut names: Vec<_> =
            self.branches()?.into_iter().map(|(name, _)| format!("'{name}'")).collect();
        names.truncate(10);
        let some = names.join(", ");
        let sentence = match asked {
            Some(name) => format!("{} has no branch '{name}': there is {some}", job.repo),
            None => {
                format!("{} names no default branch: ask for one of its own, like {some}", job.repo)
            }
        };
        Err(Failure::told(Code::BranchNotFound, sentence))
    }

    /// The remote's default branch.
    pub(super) fn default(&self) -> Option<&str> {
        self.default.as_deref()
    }

    /// The commit of a branch, if the branch is there.
    ///
    /// # Errors
    /// If the mirror cannot be read.
    pub(super) fn tip(&self, branch: &str) -> Result<Option<Oid>> {
        match self.repository.refname_to_id(&format!("refs/heads/{branch}")) {
            Ok(id) => Ok(Some(id)),
            Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
            Err(error) => Err(Failure::local(&error)),
        }
    }

    /// Every branch.
    ///
    /// # Errors
    /// If the mirror cannot be read.
    pub(super) fn branches(&self) -> Result<Vec<(String, Oid)>> {
        self.under("refs/heads/")
    }

    /// Every tag, with what it points at: a commit or a tag object.
    ///
    /// # Errors
    /// If the mirror cannot be read.
    pub(super) fn tags(&self) -> Result<Vec<(String, Oid)>> {
        self.under("refs/tags/")
    }

    fn under(&self, prefix: &str) -> Result<Vec<(String, Oid)>> {
        let local = |error| Failure::local(&error);
        let mut found = Vec::new();
        for reference in self.repository.references_glob(&format!("{prefix}*")).map_err(local)? {
            let reference = reference.map_err(local)?;
            // A name that is not UTF-8 cannot be asked for, and no tool of today makes one.
            let Ok(name) = reference.name() else { continue };
            if let (Some(name), Some(id)) = (name.strip_prefix(prefix), reference.target()) {
                found.push((name.to_owned(), id));
            }
        }
        Ok(found)
    }
}

fn update(job: &Job, path: &Path) -> Result<(Repository, Option<String>)> {
    let repository = Repository::open_bare(path).map_err(|error| Failure::local(&error))?;
    let default = fetch::fetch(job, &repository, fetch::Into::Existing)?;
    Ok((repository, default))
}

/// Makes a mirror aside and renames it into place, so that half a mirror is never there.
fn create(job: &Job, aside: &Aside, path: &Path) -> Result<Option<String>> {
    let making = aside.join("mirror");
    let mut options = RepositoryInitOptions::new();
    options.bare(true).mkdir(true).external_template(false);
    let repository =
        Repository::init_opts(&making, &options).map_err(|error| Failure::local(&error))?;
    let default = fetch::fetch(job, &repository, fetch::Into::New)?;
    drop(repository);
    match fs::rename(path, aside.join("old-mirror")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Failure::io("move away", path)(error));
        }
        _ => {}
    }
    fs::rename(&making, path).map_err(Failure::io("put in place", path))?;
    Ok(default)
}

/// Removes what a killed process left in a mirror: half a pack, and locks of references.
fn remove_leftovers(mirror: &Path) {
    let remove = |path: &Path| {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove what a killed pull left");
        }
    };
    let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    for entry in list(&mirror.join("objects/pack")) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("tmp_") || name.starts_with("pack_git2_") {
            remove(&entry.path());
        }
    }
    let mut directories = vec![mirror.join("refs")];
    for entry in list(mirror).filter(|entry| is_lock(&entry.path())) {
        remove(&entry.path());
    }
    while let Some(directory) = directories.pop() {
        for entry in list(&directory) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(_) if is_lock(&entry.path()) => remove(&entry.path()),
                _ => {}
            }
        }
    }
}

fn is_lock(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "lock")
}
