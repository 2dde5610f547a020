//! Files that an agent may have made: looked at before they are opened, so that a pipe, a device or a
//! link in the place of a file neither leads elsewhere nor makes a pull wait.

use std::{
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::Refusal;
use crate::failure::{Failure, Result};

/// A path in `.git` or in the files of a checkout.
pub(super) fn path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// Opens the regular file `name` of `.git`, if it is there.
///
/// # Errors
/// If something else is there, or it cannot be opened.
pub(super) fn open(
    git: &Dir,
    name: &Path,
    refusal: &Refusal<'_>,
) -> Result<Option<cap_std::fs::File>> {
    let failed = |error| Failure::io("read in .git", name)(error);
    match git.symlink_metadata(name) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => {
            let name = name.display();
            return Err(refusal
                .because(&format!("its .git/{name} is not a regular file; use another name")));
        }
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK);
    git.open_with(name, &options).map(Some).map_err(failed)
}

/// Reads at most `most` bytes of the regular file `name` of `.git`, if it is there.
///
/// # Errors
/// As [`open`], or if it cannot be read.
pub(super) fn read(
    git: &Dir,
    name: &Path,
    most: u64,
    refusal: &Refusal<'_>,
) -> Result<Option<Vec<u8>>> {
    let Some(file) = open(git, name, refusal)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(Failure::io("read in .git", name))?;
    Ok(Some(bytes))
}

/// Whether there is nothing, perhaps because a file is where a directory would have to be.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
