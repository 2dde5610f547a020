//! What killed processes and failing disks leave of a mirror.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read as _, Seek as _},
    path::Path,
};

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

/// Removes what a killed process left in a mirror: half a pack, and locks of references.
pub(super) fn remove_leftovers(mirror: &Path) {
    let remove = |path: &Path| {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove what a killed pull left");
        }
    };
    let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    for entry in list(&mirror.join("objects/pack")) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("tmp_") {
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
