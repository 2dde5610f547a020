//! The change as a patch that `git apply` takes.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::ffi::OsStringExt as _,
    path::Path,
};

use contract::FileStatus as Status;

use super::{
    Control, Files, Taken,
    list::{DIFF, FileChange},
};
use crate::{
    failure::{Failure, Result},
    remote::ObjectId,
};

/// The largest patch, in bytes. What comes after is left out. So is a file that is larger.
pub(super) const MOST_PATCH: u64 = 100_000_000;
/// The most files in a patch, and in a list of them.
pub(crate) const MOST_FILES: usize = 50_000;

/// The most files that are left out for their size. Each is an argument of git's.
const MOST_EXCLUDED: usize = 100;

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
    /// Writes the patch from base to tree into a new file, and notes which files hide something in it. Whether it is whole: one
    /// that is too large ends with the last file that fits, and with a line that says so.
    ///
    /// # Errors
    /// If git cannot make it, or it cannot be written.
    pub(crate) fn write_patch(&mut self, to: &Path) -> Result<bool> {
        let is_whole = self.write_patch_of(to, MOST_PATCH, MOST_FILES)?;
        find_hiding(&mut self.files, to).map_err(Failure::io("read", to))?;
        Ok(is_whole)
    }

    pub(super) fn write_patch_of(&self, to: &Path, most: u64, most_files: usize) -> Result<bool> {
        let failed = |error| Failure::io("write", to)(error);
        let file = File::create_new(to).map_err(failed)?;
        let what = ["-p", "--binary", self.base.as_str(), self.tree.as_str(), "--"];
        let mut command = self.control.command(&[&DIFF[..], &what].concat());
        let large = self.files.0.iter().filter(|file| file.is_large);
        let large: Vec<&FileChange> = large.take(MOST_EXCLUDED).collect();
        for path in large.iter().flat_map(|file| [Some(&file.path), file.from.as_ref()]) {
            let Some(path) = path else { continue };
            let pattern = [b":(exclude,literal)".as_slice(), path].concat();
            command = command.argument(OsString::from_vec(pattern));
        }
        let is_whole = command.output_to(file, most)?;
        if is_whole && large.is_empty() && self.files.0.len() <= most_files {
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

/// Notes which files add lines that a terminal would not show as they are.
fn find_hiding(files: &mut Files, patch: &Path) -> std::io::Result<()> {
    // A file that became a link, or the like, has two parts: it is removed, and then it is added.
    let parts_of = |file: &FileChange| if file.status == Status::TypeChanged { 2 } else { 1 };
    let parts: Vec<usize> = (files.0.iter().enumerate())
        .flat_map(|(number, file)| std::iter::repeat_n(number, parts_of(file)))
        .collect();
    let (mut parts, mut current, mut is_head) = (parts.into_iter(), None, true);
    let mut reader = BufReader::with_capacity(1 << 20, File::open(patch)?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if line.starts_with(HEADER) {
            (current, is_head) = (parts.next(), true);
        } else if line.starts_with(b"@@") {
            is_head = false;
        } else if !is_head
            && line.starts_with(b"+")
            && is_hiding(&line)
            && let Some(file) = current.and_then(|number| files.0.get_mut(number))
        {
            file.is_hiding = true;
        }
        line.clear();
    }
    Ok(())
}

fn is_hiding(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    // It ends the lines of many files.
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.utf8_chunks().any(|chunk| chunk.valid().contains(transcript::is_hidden))
}
