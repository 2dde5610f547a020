//! The change as a patch that `git apply` takes.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
};

use super::{Control, Taken, list::DIFF};
use crate::{
    failure::{Failure, Result},
    remote::ObjectId,
};

/// The largest patch, in bytes. What comes after is left out.
const MOST_PATCH: u64 = 100_000_000;
/// The most files in a patch, and in a list of them.
pub(crate) const MOST_FILES: usize = 50_000;

/// What a file's part of a patch begins with. No line within such a part does.
const HEADER: &[u8] = b"diff --git ";

/// Writes the patch between two trees into a new file. Returns its size in bytes, and whether it is whole: what comes after
/// [`MOST_PATCH`] is left out.
///
/// # Errors
/// If git cannot make it, or it cannot be written.
pub(crate) fn write_diff(
    control: &Control<'_>,
    from: &ObjectId,
    to: &ObjectId,
    path: &Path,
) -> Result<(u64, bool)> {
    let file = File::create(path).map_err(Failure::io("write", path))?;
    let what = ["-p", "--binary", from.as_str(), to.as_str()];
    // What counts as text is up to the attributes of `from`: others could make any patch small.
    let command =
        control.command(&[&DIFF[..], &what].concat()).env("GIT_ATTR_SOURCE", from.as_str());
    let is_whole = command.output_to(file, MOST_PATCH)?;
    let size = std::fs::metadata(path).map_err(Failure::io("look at", path))?.len();
    Ok((size, is_whole))
}

impl Taken<'_> {
    /// Writes the patch from base to tree into a new file. Whether it is whole: one that is too large ends with the last file
    /// that fits, and with a line that says so.
    ///
    /// # Errors
    /// If git cannot make it, or it cannot be written.
    pub(crate) fn write_patch(&self, to: &Path) -> Result<bool> {
        self.write_patch_of(to, MOST_PATCH, MOST_FILES)
    }

    pub(super) fn write_patch_of(&self, to: &Path, most: u64, most_files: usize) -> Result<bool> {
        let failed = |error| Failure::io("write", to)(error);
        let file = File::create_new(to).map_err(failed)?;
        let what = ["-p", "--binary", self.base.as_str(), self.tree.as_str()];
        let command = self.control.command(&[&DIFF[..], &what].concat());
        let is_whole = command.output_to(file, most)?;
        if is_whole && self.files.0.len() <= most_files {
            return Ok(true);
        }
        let end = end_of_files(to, is_whole, most_files).map_err(failed)?;
        let mut file = OpenOptions::new().write(true).open(to).map_err(failed)?;
        file.set_len(end).map_err(failed)?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).map_err(failed)?;
        let mark = format!(
            "# The rest of this diff was left out: a diff has at most {} MB and {most_files} files.\n",
            most / 1_000_000
        );
        file.write_all(mark.as_bytes()).map_err(failed)?;
        Ok(false)
    }
}

/// Where the last part ends that is to stay. If the patch is not whole, the last part in it is not either.
fn end_of_files(patch: &Path, is_whole: bool, most_files: usize) -> std::io::Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(patch)?);
    let (mut offset, mut last, mut count) = (0, 0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(if is_whole { offset } else { last });
        }
        if line.starts_with(HEADER) {
            last = offset;
            if count == most_files {
                return Ok(last);
            }
            count += 1;
        }
        offset += read as u64;
    }
}
