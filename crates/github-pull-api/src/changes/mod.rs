//! What an agent left in a checkout, compared with the commit that it was given.
//!
//! [`take`] makes a tree of the files: what the agent has committed, staged, changed and left untracked.
//! Ignored files are left out, unless the agent has added them. The checkout itself is only read.
//!
//! *Architecture invariants:*
//! * The `.git` of the checkout is not obeyed: neither its configuration, nor its hooks, nor what it excludes.
//!   The `.gitignore` and `.gitattributes` files in the tree count, as for `git add -A`; no filter but that of git-lfs runs.
//! * The base comes from the repository's mirror, or from a pack whose objects were hashed again. So nothing that an
//!   agent wrote into `.git/objects` can pass for what it was given.
//! * Nothing is opened that could lead git elsewhere or make it wait.

mod commits;
mod control;
mod index;
mod job;
mod list;
mod objects;
mod patch;
#[cfg(test)]
mod tests;
mod walk;

use std::{collections::BTreeSet, path::Path};

use contract::{Code, FileStatus as Status, RepoUrl, SkipReason as Reason};
use workspace::Workspace;

pub use self::job::changes;
pub(crate) use self::{
    commits::{Commit, adopt},
    control::Control,
    index::in_lfs_at,
    list::Files,
    patch::{MOST_FILES, write_diff},
    walk::Skipped,
};
use self::{
    index::{Taking, added, in_lfs},
    objects::{Base, Origin},
    patch::MOST_PATCH,
};
use crate::{
    checkout::LeftGit,
    failure::{Failure, Result, quote},
    git::{Command, Git},
    remote::{Extent, ObjectId, lfs_obstacle},
    staging::Staging,
};

/// The tree that an agent left.
pub(crate) struct Taken<'a> {
    /// A control directory of ours, which has the objects of the base and of the tree.
    pub(crate) control: Control<'a>,
    /// The commit that the agent was given.
    pub(crate) base: ObjectId,
    /// What it left.
    pub(crate) tree: ObjectId,
    /// The agent's own commits since the base, newest first; at most [`commits::MOST`].
    pub(crate) commits: Vec<Commit>,
    /// What differs between base and tree.
    pub(crate) files: Files,
    /// What is in the checkout but not in the tree, and was not ignored.
    pub(crate) skipped: Vec<Skipped>,
}

impl Taken<'_> {
    /// Refuses what lacks a file because of its size: whoever cannot look at it must not take it for the result.
    ///
    /// # Errors
    /// If there is such a file.
    pub(crate) fn check_whole(&self) -> Result<()> {
        let Some(large) = self.skipped.iter().find(|it| it.reason == Reason::TooLarge) else {
            return Ok(());
        };
        let path = quote(&String::from_utf8_lossy(&large.path), &[]);
        let most = MOST_PATCH / 1_000_000;
        let sentence = format!(
            "'{path}' is larger than {most} MB: have .gitignore name it if it is no part of the result"
        );
        Err(Failure::told(Code::TooLarge, sentence))
    }
}

/// What is to be taken.
pub(crate) struct Source<'a> {
    pub(crate) workspace: &'a Workspace,
    /// The repository that was pulled.
    pub(crate) repo: &'a RepoUrl,
    /// What the pull asked for.
    pub(crate) extent: Extent,
    /// Whether files that belong in LFS become pointers, as in a commit. A pull that left pointers need not be followed by that.
    pub(crate) uses_lfs: bool,
    /// The top directory of the checkout.
    pub(crate) checkout: &'a Path,
    /// The commit that the pull checked out.
    pub(crate) base: &'a ObjectId,
}

/// Takes the tree. Nobody may work in the checkout meanwhile: the job has its turn. Blocks; call it within a runtime.
///
/// # Errors
/// If the checkout or the base is gone, something in the checkout would make git wait, or git fails.
pub(crate) fn take<'a>(git: &'a Git, staging: &Staging, source: &Source<'_>) -> Result<Taken<'a>> {
    let Source { checkout, base, .. } = *source;
    let is_directory = std::fs::symlink_metadata(checkout).map(|it| it.is_dir());
    match is_directory {
        Ok(true) => {}
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::io("look at", checkout)(error));
        }
        _ => {
            let sentence =
                "the checkout of this job was deleted: there is nothing to compare any more";
            return Err(Failure::told(Code::WorkspaceGone, sentence));
        }
    }
    let mut skipped = Vec::new();
    // Nothing in it is needed if the mirror has the base.
    let left = claimed(LeftGit::look(&git.monitor, checkout).map(Some))?;
    if left.is_none() {
        skipped.push(Skipped { path: b".git".to_vec(), reason: Reason::Unreadable });
    }
    let (mut added_by_agent, mut commits) = (BTreeSet::new(), Vec::new());
    if let Some(left) = &left {
        added_by_agent = claimed(added(git, staging, left, base))?;
        commits = claimed(commits::since(git, staging, left, base))?;
    }
    let obstacle = if source.uses_lfs { lfs_obstacle(git)? } else { None };
    let uses_lfs = source.uses_lfs && obstacle.is_none();
    let taking = Taking { git, staging, checkout, base, added: &added_by_agent, uses_lfs };
    let mut last = None;
    for origin in Origin::all(source, left.as_ref()) {
        let mut found = skipped.clone();
        let mut attempt = || {
            let Some(objects) = Base::find(git, staging, source, &origin)? else { return Ok(None) };
            let (control, tree) = taking.tree(&objects, &mut found)?;
            // It reads whatever of the base was changed.
            let files = Files::between(&control, base, &tree)?;
            Ok(Some((control, tree, files)))
        };
        match attempt() {
            Ok(Some((control, tree, mut files))) => {
                if source.uses_lfs {
                    find_lfs(&control, &mut files, obstacle)?;
                }
                found.sort();
                let (base, skipped) = (base.clone(), found);
                return Ok(Taken { control, base, tree, commits, files, skipped });
            }
            Ok(None) => {}
            // Something of the base is missing there.
            Err(Failure::Git(said)) => last = Some(said),
            Err(other) => return Err(other),
        }
    }
    Err(match last {
        Some(said) => Failure::Git(said),
        None => Failure::told(
            Code::WorkspaceGone,
            format!(
                "the commit {base}, which the job was given, is neither in the mirror of {} nor in the checkout any more",
                source.repo
            ),
        ),
    })
}

/// What an agent left may say anything, and may be unreadable: then it says nothing.
fn claimed<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(Failure::Stopped) => Err(Failure::Stopped),
        Err(Failure::Told { code: Code::DiskFull, .. }) => Err(Failure::disk_full()),
        Err(why) => {
            tracing::info!(%why, "something in the .git of a checkout cannot be read");
            Ok(T::default())
        }
        result => result,
    }
}

/// What a command prints that lists files.
fn listed(command: Command<'_>) -> Result<Vec<u8>> {
    command.output().map_err(|failure| match failure {
        Failure::Told { code: Code::RepositoryInvalid, .. } => {
            let sentence = "there are too many files for a diff: have .gitignore name those that do not belong in it, or look \
                            at the checkout on the volume";
            Failure::told(Code::TooLarge, sentence)
        }
        other => other,
    })
}

/// Notes which files are in LFS. If git-lfs was there for the pull and is not any more, all that the checkout has would seem to have
/// changed.
fn find_lfs(control: &Control<'_>, files: &mut Files, obstacle: Option<&str>) -> Result<()> {
    let paths: Vec<&[u8]> = files.0.iter().map(|file| file.path.as_slice()).collect();
    let found = in_lfs(control, &paths)?;
    let found: Vec<bool> = paths.iter().map(|path| found.contains(path)).collect();
    for (file, is_in_lfs) in files.0.iter_mut().zip(found) {
        file.is_in_lfs = is_in_lfs && file.status != Status::Deleted;
        if let Some(obstacle) = obstacle
            && is_in_lfs
            && file.status == Status::Modified
        {
            let sentence = format!(
                "files in Git LFS have changed, and cannot be compared: {obstacle}, where pulls run"
            );
            return Err(Failure::told(Code::GitFailed, sentence));
        }
    }
    Ok(())
}
