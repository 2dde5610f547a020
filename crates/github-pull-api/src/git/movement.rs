//! Moving a checkout from one commit to another.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use cap_std::{ambient_authority, fs::Dir};
use contract::Code;
use git2::{Index, IndexEntry, IndexTime, Oid, Repository, build::CheckoutBuilder};

use super::{
    Job,
    aside::Aside,
    changes::{self, Changes, Entry},
    clone::report_checkout,
    create_dir,
    existing::Checkout,
    refs::{self, Locked},
    shadow::Shadow,
    swap::Swap,
    update::Head,
};
use crate::failure::{Failure, Result};

/// From where to where a checkout goes.
pub(super) struct Move<'a> {
    pub(super) head: &'a Head,
    pub(super) branch: &'a str,
    /// Where the branch was.
    pub(super) local: Option<Oid>,
    pub(super) tip: Oid,
}

/// Moves files, index, branch and `HEAD` to where they are to be: all of them, or none.
///
/// # Errors
/// If something is in the way, or a file cannot be written.
pub(super) fn move_to(
    job: &Job,
    aside: &Aside,
    shadow: &Shadow,
    checkout: &Checkout,
    to: &Move<'_>,
) -> Result<()> {
    let local = |error| Failure::local(&error);
    let repository = &shadow.repository;
    let new = repository.find_commit(to.tip).and_then(|commit| commit.tree()).map_err(local)?;
    let old =
        to.head.commit().map(|id| repository.find_commit(id).and_then(|commit| commit.tree()));
    let old = old.transpose().map_err(local)?;
    check_idle(checkout)?;
    // Held from before the look at local changes until they are merged with the new files.
    let mut index_lock = Locked::take(&checkout.git, "index")?;
    let mut index = shadow.index(job)?;
    let changes = changes::between(repository, old.as_ref(), &new)?;
    changes::check(job, repository, &index, &changes)?;
    job.check_stop()?;

    stage(job, aside, repository, to.tip, &changes)?;
    let staged = open(&aside.join("checkout"))?;
    create_dir(&aside.join("backup"))?;
    let backup = open(&aside.join("backup"))?;
    let mut references = prepare(checkout, to)?;
    job.check_stop()?;
    job.reporter.settle();

    let mut swap = Swap::perform(&checkout.files, &staged, &backup, &changes)?;
    let before = fs::read(shadow.path().join("index")).ok();
    let settled = write_index(&job.target, &mut index, &changes)
        .and_then(|()| {
            fs::read(shadow.path().join("index")).map_err(Failure::io("read", shadow.path()))
        })
        .and_then(|content| index_lock.write(&content))
        .and_then(|()| index_lock.place())
        .and_then(|()| references.iter_mut().try_for_each(Locked::place));
    if let Err(failure) = settled {
        swap.undo();
        restore(checkout, before.as_deref(), to);
        return Err(failure);
    }
    refs::log(&checkout.git, to.branch, to.head.commit(), to.tip);
    if to.local.is_none() {
        refs::track(&checkout.git, to.branch);
    }
    Ok(())
}

fn open(path: &Path) -> Result<Dir> {
    Dir::open_ambient_dir(path, ambient_authority()).map_err(Failure::io("open", path))
}

/// A merge or the like that somebody has not finished is not built upon.
fn check_idle(checkout: &Checkout) -> Result<()> {
    const STATES: [&str; 6] = [
        "MERGE_HEAD",
        "CHERRY_PICK_HEAD",
        "REVERT_HEAD",
        "BISECT_LOG",
        "rebase-merge",
        "rebase-apply",
    ];
    match STATES.iter().find(|name| checkout.git.symlink_metadata(name).is_ok()) {
        None => Ok(()),
        Some(name) => Err(Failure::told(
            Code::CheckoutConflict,
            format!(
                "a merge, rebase or the like is not finished there (.git/{name}): finish or abort it"
            ),
        )),
    }
}

/// Writes the new version of every file that changes into a directory of its own.
fn stage(
    job: &Job,
    aside: &Aside,
    repository: &Repository,
    tip: Oid,
    changes: &Changes,
) -> Result<()> {
    let directory = aside.join("checkout");
    create_dir(&directory)?;
    let paths: Vec<_> = changes
        .iter()
        .filter(|(_, change)| change.new.is_some_and(|new| !new.is_submodule()))
        .map(|(path, _)| path)
        .collect();
    if paths.is_empty() {
        return Ok(());
    }
    // Seen from a branch without commits every file is a new one, whatever it was before.
    let unborn = format!("refs/heads/staging-{}", job.id);
    repository.set_head(&unborn).map_err(|error| Failure::local(&error))?;
    let mut options = CheckoutBuilder::new();
    options
        .force()
        .disable_pathspec_match(true)
        .update_index(false)
        .refresh(false)
        .target_dir(&directory);
    for path in paths {
        options.path(path);
    }
    report_checkout(job, aside, &mut options);
    let commit = repository.find_commit(tip).map_err(|error| Failure::local(&error))?;
    let written = repository.checkout_tree(commit.as_object(), Some(&mut options));
    job.reporter.end_stage();
    job.check_stop()?;
    written.map_err(|error| Failure::local(&error))
}

/// Writes where the branch and `HEAD` are to be beside where they are.
fn prepare<'a>(checkout: &'a Checkout, to: &Move<'_>) -> Result<Vec<Locked<'a>>> {
    let mut references = Vec::new();
    let name = format!("refs/heads/{}", to.branch);
    if to.local != Some(to.tip) {
        let branch = Locked::take(&checkout.git, &name)?;
        branch.write(format!("{}\n", to.tip).as_bytes())?;
        references.push(branch);
    }
    if to.head.branch() != Some(to.branch) {
        let head = Locked::take(&checkout.git, "HEAD")?;
        head.write(format!("ref: {name}\n").as_bytes())?;
        references.push(head);
    }
    Ok(references)
}

/// Puts the new entries into the shadow's index; all others stay as they are, staged changes included.
fn write_index(target: &Path, index: &mut Index, changes: &Changes) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;

    let local = |error| Failure::local(&error);
    for (path, change) in changes {
        // Not there if the update before this one was killed after it wrote the index.
        if change.old.is_some() && index.get_path(path, 0).is_some() {
            index.remove(path, 0).map_err(local)?;
        }
    }
    for (path, change) in changes {
        let Some(new) = change.new else { continue };
        let full = target.join(path);
        let metadata = fs::symlink_metadata(&full).map_err(Failure::io("look at", &full))?;
        index.add(&index_entry(path.as_os_str().as_bytes(), new, &metadata)).map_err(local)?;
    }
    index.write().map_err(local)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index keeps 32 bits of each"
)]
fn index_entry(path: &[u8], entry: Entry, metadata: &fs::Metadata) -> IndexEntry {
    IndexEntry {
        ctime: IndexTime::new(metadata.ctime() as i32, metadata.ctime_nsec() as u32),
        mtime: IndexTime::new(metadata.mtime() as i32, metadata.mtime_nsec() as u32),
        dev: metadata.dev() as u32,
        ino: metadata.ino() as u32,
        mode: entry.mode,
        uid: metadata.uid(),
        gid: metadata.gid(),
        file_size: if entry.is_submodule() { 0 } else { metadata.len() as u32 },
        id: entry.id,
        flags: 0,
        flags_extended: 0,
        path: path.to_owned(),
    }
}

/// Puts index and references back, when the last steps of an update fail.
fn restore(checkout: &Checkout, index: Option<&[u8]>, to: &Move<'_>) {
    let git = &checkout.git;
    let mut results = vec![match index {
        Some(content) => git.write("index", content),
        None => git.remove_file("index"),
    }];
    let name = format!("refs/heads/{}", to.branch);
    results.push(match to.local {
        Some(id) => git.write(&name, format!("{id}\n")),
        None => git.remove_file(&name),
    });
    for error in results.into_iter().filter_map(std::result::Result::err) {
        tracing::error!(%error, "cannot undo half an update of .git");
    }
}
