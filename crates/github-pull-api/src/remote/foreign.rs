//! What git would obey in a mirror, and somebody else may have put there.
//!
//! git looks for its configuration, hooks, attributes, grafts, replacements, alternates, other repositories (`commondir`), remotes
//! (`remotes`, `branches`), worktrees, indexes of several packs, bitmaps and graphs of commits in a repository. A mirror needs none of
//! them, and its configuration is written before each use. So what is not on the list below is removed.

use std::{
    ffi::OsStr,
    fs::{self, FileType},
    io,
    path::{Path, PathBuf},
};

use contract::RepoUrl;

use super::{Extent, ObjectFormat, mirror::UNREACHABLE};
use crate::failure::{Failure, Result};

/// Removes what does not belong into the mirror at `mirror`. What is missing then, git says.
///
/// # Errors
/// If something can be neither looked at nor removed.
pub(super) fn remove_foreign(mirror: &Path, extent: Extent) -> Result<()> {
    keep_only(mirror, |name, kind| match name.to_str() {
        Some("HEAD" | "config" | "packed-refs" | UNREACHABLE) => kind.is_file(),
        Some("shallow") => kind.is_file() && extent.depth.is_some(),
        Some("objects" | "refs" | "lfs") => kind.is_dir(),
        _ => false,
    })?;
    let (refs, objects) = (mirror.join("refs"), mirror.join("objects"));
    keep_only(&refs, |name, kind| kind.is_dir() && (name == "heads" || name == "tags"))?;
    keep_only(&objects, |name, kind| {
        kind.is_dir() && (name == "pack" || name == "info" || name.len() == 2)
    })?;
    // It has nothing but what leads elsewhere, or what git makes again.
    keep_only(&objects.join("info"), |_, _| false)?;
    keep_only(&objects.join("pack"), |name, kind| {
        let extension = Path::new(name).extension().and_then(OsStr::to_str);
        kind.is_file() && matches!(extension, Some("pack" | "idx" | "promisor"))
    })?;
    // A link may lead out of the mirror, and a pipe nowhere.
    let mut directories = vec![refs, objects];
    while let Some(directory) = directories.pop() {
        let found = keep_only(&directory, |_, kind| kind.is_file() || kind.is_dir())?;
        directories.extend(found);
    }
    Ok(())
}

/// Removes from a directory what is not to be kept, and returns the directories in it.
fn keep_only(directory: &Path, keeps: impl Fn(&OsStr, FileType) -> bool) -> Result<Vec<PathBuf>> {
    let failed = |error| Failure::io("list", directory)(error);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut directories = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
        if !keeps(&entry.file_name(), kind) && !is_leftover(&path, kind) {
            tracing::warn!(path = %path.display(), "removing what does not belong into a mirror");
            workspace::remove_tree(&path).map_err(Failure::io("remove", &path))?;
        } else if kind.is_dir() {
            directories.push(path);
        }
    }
    Ok(directories)
}

/// What a killed git left is removed elsewhere.
fn is_leftover(path: &Path, kind: FileType) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    kind.is_file() && (name.ends_with(".lock") || name.starts_with("tmp_"))
}

/// The configuration of a mirror.
pub(super) fn configuration(repo: &RepoUrl, format: ObjectFormat, extent: Extent) -> String {
    let filter = extent.filter.map(|filter| filter.as_str());
    let mut text = git_format(format, filter);
    text.push_str("\tfilemode = true\n\tbare = true\n");
    text.push_str(&origin(repo.address(), filter));
    text
}

/// The beginning of a configuration, within the section `core`.
pub(crate) fn git_format(format: ObjectFormat, filter: Option<&str>) -> String {
    let mut extensions = String::new();
    if format == ObjectFormat::Sha256 {
        extensions.push_str("\tobjectformat = sha256\n");
    }
    if filter.is_some() {
        extensions.push_str("\tpartialclone = origin\n");
    }
    if extensions.is_empty() {
        return "[core]\n\trepositoryformatversion = 0\n".to_owned();
    }
    format!("[extensions]\n{extensions}[core]\n\trepositoryformatversion = 1\n")
}

/// The section of the remote `origin`, which more can be added to.
pub(crate) fn origin(address: &str, filter: Option<&str>) -> String {
    let address = address.replace('\\', "\\\\").replace('"', "\\\"");
    let promisor =
        filter.map(|filter| format!("\tpromisor = true\n\tpartialclonefilter = {filter}\n"));
    format!("[remote \"origin\"]\n\turl = \"{address}\"\n{}", promisor.unwrap_or_default())
}
