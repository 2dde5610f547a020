//! Where a checkout is, and what keeps it there.

use std::path::Path;

use cap_std::fs::Dir;
use contract::Code;

use super::{Refusal, files, safe_git_dir::SafeGitDir};
use crate::{
    failure::{Failure, Result},
    remote::{LARGEST_REFS, ObjectId, Refs},
};

/// Where `HEAD` is.
pub(super) enum Head {
    /// On a branch, which has a commit or not yet.
    Branch(Vec<u8>, Option<ObjectId>),
    Detached(ObjectId),
}

impl Head {
    pub(super) fn commit(&self) -> Option<&ObjectId> {
        match self {
            Self::Branch(_, commit) => commit.as_ref(),
            Self::Detached(commit) => Some(commit),
        }
    }

    pub(super) fn branch(&self) -> Option<&[u8]> {
        match self {
            Self::Branch(name, _) => Some(name),
            Self::Detached(_) => None,
        }
    }
}

/// Reads `HEAD` of a checkout whose references are `current`.
///
/// # Errors
/// If it is damaged.
pub(super) fn read(git: &Dir, refusal: &Refusal<'_>, current: &Refs) -> Result<Head> {
    let text = files::read(git, Path::new("HEAD"), 8192, refusal)?.unwrap_or_default();
    read_text(&text, refusal, current)
}

fn read_text(text: &[u8], refusal: &Refusal<'_>, current: &Refs) -> Result<Head> {
    let text = text.trim_ascii();
    if let Some(name) = text.strip_prefix(b"ref: refs/heads/").filter(|name| is_plain(name)) {
        let commit = current.get([b"refs/heads/", name].concat().as_slice()).cloned();
        return Ok(Head::Branch(name.to_vec(), commit));
    }
    let id = ObjectId::parse(text).ok_or_else(|| refusal.because("its HEAD names no branch"))?;
    Ok(Head::Detached(id))
}

/// The commit that `HEAD` leads to, if there is one, without a look at other references.
///
/// # Errors
/// If it is damaged.
pub(super) fn commit(git: &Dir, refusal: &Refusal<'_>) -> Result<Option<ObjectId>> {
    let read = |name: &[u8], most| files::read(git, files::path(name), most, refusal);
    let text = read(b"HEAD", 8192)?.unwrap_or_default();
    let mut current = Refs::new();
    if let Some(name) = text.trim_ascii().strip_prefix(b"ref: ").filter(|name| is_plain(name)) {
        // A directory there is what is left of a branch `name/other` that was deleted.
        let is_directory = |name| git.symlink_metadata(name).is_ok_and(|it| it.is_dir());
        let loose = if is_directory(files::path(name)) { None } else { read(name, 1024)? };
        let id = match loose {
            Some(text) => ObjectId::parse(text.trim_ascii()),
            None => {
                let packed = read(b"packed-refs", LARGEST_REFS)?.unwrap_or_default();
                let end = [b" ", name].concat();
                let mut lines = packed.split(|byte| *byte == b'\n');
                lines.find_map(|line| ObjectId::parse(line.strip_suffix(end.as_slice())?))
            }
        };
        current.extend(id.map(|id| (name.to_vec(), id)));
    }
    Ok(read_text(&text, refusal, &current)?.commit().cloned())
}

/// A name that leads nowhere else.
fn is_plain(name: &[u8]) -> bool {
    let part = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
    name.split(|byte| *byte == b'/').all(part) && !name.contains(&0)
}

/// Makes sure that nothing is under way in the checkout that a pull would disturb.
///
/// # Errors
/// If something is.
pub(super) fn check_idle(git: &Dir) -> Result<()> {
    const UNDER_WAY: [(&str, &str); 6] = [
        ("MERGE_HEAD", "a merge"),
        ("CHERRY_PICK_HEAD", "a cherry-pick"),
        ("REVERT_HEAD", "a revert"),
        ("rebase-merge", "a rebase"),
        ("rebase-apply", "a rebase"),
        ("BISECT_LOG", "a bisection"),
    ];
    match UNDER_WAY.iter().find(|(name, _)| git.symlink_metadata(name).is_ok()) {
        None => Ok(()),
        Some((_, what)) => Err(Failure::told(
            Code::CheckoutConflict,
            format!(
                "{what} in the directory is not finished: finish or abort it, then send the job again"
            ),
        )),
    }
}

/// Makes sure that a new branch stands where no other is, and beneath none.
///
/// # Errors
/// If another one is in its way.
pub(super) fn check_name(current: &Refs, branch: &[u8]) -> Result<()> {
    let is_beneath = |one: &[u8], other: &[u8]| {
        one.strip_prefix(other).is_some_and(|rest| rest.starts_with(b"/"))
    };
    let mut branches = current.keys().filter_map(|name| name.strip_prefix(b"refs/heads/"));
    match branches.find(|name| is_beneath(name, branch) || is_beneath(branch, name)) {
        None => Ok(()),
        Some(name) => Err(Failure::told(
            Code::CheckoutConflict,
            format!(
                "the branch '{}' of the checkout leaves no room for '{}': rename it",
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(branch)
            ),
        )),
    }
}

/// Makes sure that no commit is lost when `HEAD` leaves it for `tip`.
///
/// # Errors
/// If it is on no branch.
pub(super) fn keep_detached(
    control: &SafeGitDir<'_>,
    head: &Head,
    tip: &ObjectId,
    current: &Refs,
) -> Result<()> {
    let Head::Detached(commit) = head else { return Ok(()) };
    if current.values().any(|id| id == commit) {
        return Ok(());
    }
    let mut input = format!("{commit}\n^{tip}\n");
    for id in current.values() {
        input.push_str(&format!("^{id}\n"));
    }
    let left = control
        .command(&["rev-list", "--max-count=1", "--ignore-missing", "--stdin"])
        .input(input.into_bytes())
        .output()?;
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::told(
        Code::CheckoutConflict,
        format!("HEAD is at {commit}, which is on no branch: make a branch of it first"),
    ))
}
