//! Writing the files of a commit into a checkout that has files of its own.

use std::collections::BTreeSet;

use cap_std::fs::Dir;
use contract::Code;

use super::{files::path, safe_git_dir::SafeGitDir, tree::Changes};
use crate::{
    failure::{Failure, Result},
    git::Output,
    remote::ObjectId,
};

/// Makes sure that git finds no pipe or device where it looks for a file of its own among `files`.
///
/// # Errors
/// If it would find one.
pub(super) fn check_traps(
    control: &SafeGitDir<'_>,
    files: &Dir,
    changes: &Changes,
    tip: &ObjectId,
) -> Result<()> {
    let listed =
        control.command(&["ls-tree", "-r", "-d", "-z", "--name-only", tip.as_str()]).output()?;
    let mut directories: BTreeSet<&[u8]> = listed.split(|byte| *byte == 0).collect();
    for path in &changes.paths {
        let mut path = path.as_slice();
        while let Some(end) = path.iter().rposition(|byte| *byte == b'/') {
            path = path.get(..end).unwrap_or_default();
            directories.insert(path);
        }
    }
    for directory in directories {
        for name in [".gitattributes", ".gitignore", ".lfsconfig"] {
            let path = path(directory).join(name);
            // What cannot be looked at is missing, or leads out of the checkout: git does not open it either.
            let Ok(metadata) = files.symlink_metadata(&path) else { continue };
            if !(metadata.is_file() || metadata.is_symlink() || metadata.is_dir()) {
                let sentence = format!(
                    "'{}' is a pipe, a socket or a device: remove it, then send the job again",
                    path.display()
                );
                return Err(Failure::told(Code::CheckoutConflict, sentence));
            }
        }
    }
    Ok(())
}

/// Lets git write the files of `tip`, which it does only if no local change is in the way.
///
/// # Errors
/// If one is, or git fails.
pub(super) fn check_out(control: &SafeGitDir<'_>, tip: &ObjectId) -> Result<()> {
    let arguments = ["checkout", "--detach", "--progress", tip.as_str()];
    let mut output = control.command(&arguments).run()?;
    if !output.status.success() {
        let conflicts = conflicts(&output);
        if !conflicts.is_empty() && adopt(control, tip, &conflicts)? {
            output = control.command(&arguments).run()?;
        }
    }
    if output.status.success() { Ok(()) } else { Err(explain(&output)) }
}

/// Why git did not write the files.
fn explain(output: &Output) -> Failure {
    let conflict = |sentence: String| Failure::told(Code::CheckoutConflict, sentence);
    let said = output.stderr.as_str();
    let conflicts = conflicts(output);
    if !conflicts.is_empty() {
        let mut names: Vec<_> = conflicts.iter().take(10).map(|name| format!("'{name}'")).collect();
        if conflicts.len() > names.len() {
            names.push(format!("{} more", conflicts.len() - names.len()));
        }
        return conflict(format!(
            "local changes are in the way of incoming ones: {}; commit, move or remove them, then send \
             the job again",
            names.join(", ")
        ));
    }
    if said.contains("resolve your current index first") {
        return conflict(
            "a merge in the directory has conflicts: resolve them and commit, then send the job again"
                .into(),
        );
    }
    output.failure()
}

/// The paths that git says are in the way: each on a line of its own, behind a tab.
fn conflicts(output: &Output) -> Vec<String> {
    output.stderr.lines().filter_map(|line| line.strip_prefix('\t')).map(str::to_owned).collect()
}

/// Takes those of `conflicts` whose files already are as they come for changes that were made here too, as
/// after an update that was killed. Whether it took any.
fn adopt(control: &SafeGitDir<'_>, tip: &ObjectId, conflicts: &[String]) -> Result<bool> {
    let incoming = control.path().join("incoming");
    let with = |first: &[&str]| {
        let arguments: Vec<&str> = ["--literal-pathspecs"].iter().chain(first).copied().collect();
        control.command(&arguments).env("GIT_INDEX_FILE", &incoming)
    };
    with(&["read-tree", tip.as_str()]).output()?;
    let names: Vec<&str> = conflicts.iter().take(1000).map(String::as_str).collect();
    let diff =
        ["diff", "--name-only", "-z", "--no-ext-diff", "--no-textconv", "--no-renames", "--"];
    let differing = with(&[diff.as_slice(), &names].concat()).output()?;
    let differing: BTreeSet<&[u8]> = differing.split(|byte| *byte == 0).collect();
    // Exactly these: a directory that is in the way is not the files that belong beneath it.
    let entries = with(&[&["ls-files", "-s", "-z", "--"], names.as_slice()].concat()).output()?;
    let path = |entry: &[u8]| entry.splitn(2, |byte| *byte == b'\t').nth(1).map(<[u8]>::to_vec);
    let is_same = |entry: &&[u8]| {
        path(entry).is_some_and(|path| {
            names.iter().any(|name| name.as_bytes() == path) && !differing.contains(path.as_slice())
        })
    };
    let same: Vec<&[u8]> = entries.split(|byte| *byte == 0).filter(is_same).collect();
    if same.is_empty() {
        return Ok(false);
    }
    let entries = [same.join(&0), vec![0]].concat();
    control.command(&["update-index", "-z", "--index-info"]).input(entries).output()?;
    Ok(true)
}
