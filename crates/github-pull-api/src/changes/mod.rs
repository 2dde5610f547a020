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

use std::path::Path;

use contract::{Code, RepoUrl, SkipReason as Reason};
use workspace::Workspace;

pub use self::job::changes;
pub(crate) use self::{
    commits::{Commit, adopt},
    control::Control,
    list::Files,
    patch::{MOST_FILES, write_diff},
    walk::Skipped,
};
use self::{
    index::Taking,
    objects::{Base, Origin},
};
use crate::{
    checkout::LeftGit,
    failure::{Failure, Result},
    git::Git,
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

/// What is to be taken.
pub(crate) struct Source<'a> {
    pub(crate) workspace: &'a Workspace,
    /// The repository that was pulled.
    pub(crate) repo: &'a RepoUrl,
    /// What the pull asked for.
    pub(crate) extent: Extent,
    /// The top directory of the checkout.
    pub(crate) checkout: &'a Path,
    /// The commit that the pull checked out.
    pub(crate) base: &'a ObjectId,
}

/// Takes the tree. Nobody may work in the checkout meanwhile. Blocks; call it within a runtime.
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
    let left = match LeftGit::look(checkout) {
        Ok(left) => Some(left),
        Err(Failure::Told { code: Code::NotARepository, sentence }) => {
            tracing::info!(%sentence, "a checkout has no .git that can be read");
            skipped.push(Skipped { path: b".git".to_vec(), reason: Reason::Unreadable });
            None
        }
        Err(other) => return Err(other),
    };
    let uses_lfs = source.extent.lfs && lfs_obstacle(git)?.is_none();
    let mut last = None;
    for origin in Origin::all(source, left.as_ref()) {
        let Some(base_objects) = Base::find(git, staging, source, &origin)? else { continue };
        let taking = Taking { git, staging, checkout, base, left: left.as_ref(), uses_lfs };
        let mut found = skipped.clone();
        match taking.tree(&base_objects, &mut found) {
            Ok((control, tree)) => {
                let files = Files::between(&control, base, &tree)?;
                let commits = match &left {
                    Some(left) => commits::since(git, staging, left, base)?,
                    None => Vec::new(),
                };
                found.sort();
                let (base, skipped) = (base.clone(), found);
                return Ok(Taken { control, base, tree, commits, files, skipped });
            }
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
