//! What an update changes, and whether that is in the way of what somebody else changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use contract::Code;
use git2::{Delta, DiffFile, DiffOptions, FileMode, Index, ObjectType, Oid, Repository, Tree};

use super::Job;
use crate::failure::{Failure, Result, quote};

/// One entry of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: Oid,
    pub(super) mode: u32,
}

/// One path that is not the same in both trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) old: Option<Entry>,
    pub(super) new: Option<Entry>,
}

/// Every path that is not the same, in order.
pub(super) type Changes = BTreeMap<PathBuf, Change>;

impl Entry {
    fn of(file: &DiffFile<'_>) -> Option<Self> {
        let mode = u32::from(file.mode());
        (mode != 0).then(|| Self { id: file.id(), mode })
    }

    /// Whether it is a submodule: a directory of its own that a pull leaves alone.
    pub(super) fn is_submodule(&self) -> bool {
        self.mode == u32::from(FileMode::Commit)
    }
}

/// The paths in which `old` and `new` are not the same.
///
/// # Errors
/// If one of the trees cannot be read.
pub(super) fn between(
    repository: &Repository,
    old: Option<&Tree<'_>>,
    new: &Tree<'_>,
) -> Result<Changes> {
    let local = |error| Failure::local(&error);
    let mut options = DiffOptions::new();
    options.ignore_submodules(false).include_typechange(true);
    let diff = repository.diff_tree_to_tree(old, Some(new), Some(&mut options)).map_err(local)?;
    let mut changes = Changes::new();
    for delta in diff.deltas() {
        let (old, new) = (delta.old_file(), delta.new_file());
        if let Some(path) = old.path()
            && delta.status() != Delta::Added
        {
            let change = changes.entry(path.to_owned()).or_insert(Change { old: None, new: None });
            change.old = Entry::of(&old);
        }
        if let Some(path) = new.path()
            && delta.status() != Delta::Deleted
        {
            let change = changes.entry(path.to_owned()).or_insert(Change { old: None, new: None });
            change.new = Entry::of(&new);
        }
    }
    Ok(changes)
}

/// Makes sure that `changes` touch nothing that is not as `HEAD` has it. What is already as the new
/// tree has it is not in the way: an update that was killed half way goes on.
///
/// # Errors
/// [`Code::CheckoutConflict`], with some of the paths.
pub(super) fn check(
    job: &Job,
    repository: &Repository,
    index: &Index,
    changes: &Changes,
) -> Result<()> {
    let mut conflicts = BTreeSet::new();
    staged(index, changes, &mut conflicts);
    unstaged(job, repository, index, changes, &mut conflicts)?;
    for (path, change) in changes {
        if change.new.is_some() && is_obstructed(&job.target, path, changes) {
            conflicts.insert(path.clone());
        }
    }
    if conflicts.is_empty() {
        return Ok(());
    }
    let some: Vec<_> = conflicts
        .iter()
        .take(5)
        .map(|path| format!("'{}'", quote(&path.to_string_lossy(), &[])))
        .collect();
    let more = conflicts.len().saturating_sub(some.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Failure::told(
        Code::CheckoutConflict,
        format!(
            "incoming commits touch files with local changes: {}{more}; commit, move or remove them",
            some.join(", ")
        ),
    ))
}

/// Paths whose entry in the index is neither the old nor the new one.
fn staged(index: &Index, changes: &Changes, conflicts: &mut BTreeSet<PathBuf>) {
    for (path, change) in changes {
        let staged = index.get_path(path, 0).map(|entry| Entry { id: entry.id, mode: entry.mode });
        let unmerged = (1..=3).any(|stage| index.get_path(path, stage).is_some());
        if unmerged || (staged != change.old && staged != change.new) {
            conflicts.insert(path.clone());
        }
    }
}

/// Paths whose file is neither what the index says nor the new one.
fn unstaged(
    job: &Job,
    repository: &Repository,
    index: &Index,
    changes: &Changes,
    conflicts: &mut BTreeSet<PathBuf>,
) -> Result<()> {
    let mut options = DiffOptions::new();
    options
        .disable_pathspec_match(true)
        .include_untracked(true)
        .include_ignored(true)
        .recurse_untracked_dirs(true)
        .recurse_ignored_dirs(true)
        .include_typechange(true)
        .ignore_submodules(true);
    for path in changes.keys() {
        options.pathspec(path);
    }
    if changes.is_empty() {
        return Ok(());
    }
    let diff = repository
        .diff_index_to_workdir(Some(index), Some(&mut options))
        .map_err(|error| Failure::local(&error))?;
    for delta in diff.deltas() {
        let Some(path) = delta.new_file().path().or(delta.old_file().path()) else { continue };
        let Some(change) = changes.get(path) else {
            // Beneath a path of ours: something untracked in a directory that is to become a file, or
            // that stays beside what changes. `is_obstructed` tells the one from the other.
            continue;
        };
        if !is_already(&job.target.join(path), change.new) {
            conflicts.insert(path.to_owned());
        }
    }
    Ok(())
}

/// Whether the file at `path` is as `entry` says.
fn is_already(path: &Path, entry: Option<Entry>) -> bool {
    let metadata = fs::symlink_metadata(path);
    let (metadata, entry) = match (metadata, entry) {
        (Err(_), None) => return true,
        (Ok(metadata), Some(entry)) => (metadata, entry),
        _ => return false,
    };
    if entry.is_submodule() {
        return metadata.is_dir();
    }
    let id = if metadata.is_symlink() && entry.mode == u32::from(FileMode::Link) {
        fs::read_link(path)
            .ok()
            .and_then(|link| Oid::hash_object(ObjectType::Blob, link.as_os_str().as_bytes()).ok())
    } else if metadata.is_file() && entry.mode != u32::from(FileMode::Link) {
        Oid::hash_file(ObjectType::Blob, path).ok()
    } else {
        None
    };
    id == Some(entry.id)
}

/// Whether something stands where `path` is to be, or where a directory above it is to be, that the
/// update does not itself take away.
fn is_obstructed(target: &Path, path: &Path, changes: &Changes) -> bool {
    let goes = |path: &Path| {
        changes.get(path).is_some_and(|change| change.old.is_some() && change.new.is_none())
    };
    let mut above = PathBuf::new();
    for part in path.parent().into_iter().flat_map(Path::components) {
        above.push(part);
        match fs::symlink_metadata(target.join(&above)) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) if goes(&above) => return false,
            // A link or a file in the place of a directory: nothing is written through it.
            Ok(_) => return true,
            Err(_) => return false,
        }
    }
    let Ok(metadata) = fs::symlink_metadata(target.join(path)) else { return false };
    let is_submodule =
        changes.get(path).and_then(|change| change.new).is_some_and(|new| new.is_submodule());
    if !metadata.is_dir() || is_submodule {
        // Files are compared with the index, not here.
        return false;
    }
    let going: HashSet<PathBuf> =
        changes.keys().filter(|path| goes(path)).map(|path| target.join(path)).collect();
    holds_others(&target.join(path), &going)
}

/// Whether anything but what is in `going` is in a directory.
fn holds_others(directory: &Path, going: &HashSet<PathBuf>) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return true };
    entries.flatten().any(|entry| {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => holds_others(&path, going),
            _ => !going.contains(&path),
        }
    })
}
