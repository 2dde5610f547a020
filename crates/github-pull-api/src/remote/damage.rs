//! What killed processes, failing disks and others leave of a mirror.

use std::{
    ffi::OsStr,
    fs::{self, FileType},
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
};

use super::layout::UNREACHABLE;
use crate::failure::{Failure, Result};

/// Makes sure that every pack is whole, as far as its size and its ends tell: git would fetch again what it
/// cannot read, and leave the damaged pack to be copied into checkouts.
///
/// # Errors
/// [`Failure::Git`] if one is not.
pub(super) fn check_packs(packs: &Path) -> Result<()> {
    let damaged = |path: &Path| Failure::Git(format!("{} is damaged", path.display()));
    let entries = fs::read_dir(packs).map_err(|_| damaged(packs))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension() != Some(OsStr::new("idx")) {
            continue;
        }
        // An index ends with the checksum that its pack ends with, and one of its own.
        let (index, pack) = (end_of(&path, 64), end_of(&path.with_extension("pack"), 32));
        let (Ok(index), Ok(pack)) = (index, pack) else { return Err(damaged(&path)) };
        let is_whole = [20, 32].into_iter().any(|length| {
            let of_index = index.get(64 - 2 * length..64 - length);
            of_index.is_some() && of_index == pack.get(32 - length..)
        });
        if !is_whole {
            return Err(damaged(&path));
        }
    }
    Ok(())
}

/// The last `length` bytes of a file.
fn end_of(path: &Path, length: usize) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    file.seek(io::SeekFrom::End(-i64::try_from(length).map_err(io::Error::other)?))?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Removes from a mirror what is not its own, or only half there: what killed processes left, what earlier versions kept, and
/// what somebody else put there. git obeys nothing of it but the objects.
///
/// # Errors
/// [`Failure::Git`] if something cannot be removed.
pub(super) fn clean(mirror: &Path) -> Result<()> {
    let (objects, refs, lfs) = (mirror.join("objects"), mirror.join("refs"), mirror.join("lfs"));
    let cleaned = (|| {
        keep_only(mirror, |name, kind| match name {
            "HEAD" | "packed-refs" | "shallow" | UNREACHABLE => kind.is_file(),
            "objects" | "refs" | "lfs" => kind.is_dir(),
            _ => false,
        })?;
        keep_only(&refs, |name, kind| kind.is_dir() && matches!(name, "heads" | "tags"))?;
        // Other directories only lead elsewhere, or hold what git makes again.
        keep_only(&objects, |name, kind| kind.is_dir() && (name == "pack" || name.len() == 2))?;
        keep_only(&objects.join("pack"), |name, kind| {
            let extension = Path::new(name).extension().and_then(OsStr::to_str);
            kind.is_file() && matches!(extension, Some("pack" | "idx" | "promisor"))
        })?;
        // A link may lead out of the mirror, and a pipe nowhere.
        let mut directories = vec![objects, refs, lfs];
        while let Some(directory) = directories.pop() {
            directories.extend(keep_only(&directory, |name, kind| {
                kind.is_dir()
                    || kind.is_file() && !name.starts_with("tmp_") && !name.ends_with(".lock")
            })?);
        }
        Ok(())
    })();
    cleaned.map_err(|error: io::Error| {
        Failure::Git(format!("{} cannot be cleaned: {error}", mirror.display()))
    })
}

/// Removes from a directory what is not to be kept, and returns the directories in it.
fn keep_only(directory: &Path, keeps: impl Fn(&str, FileType) -> bool) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut directories = Vec::new();
    for entry in entries {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if !keeps(&entry.file_name().to_string_lossy(), kind) {
            tracing::info!(path = %path.display(), "removing what does not belong into a mirror");
            workspace::remove_tree(&path)?;
        } else if kind.is_dir() {
            directories.push(path);
        }
    }
    Ok(directories)
}
