//! The way back from an update that did not come to its end.
//!
//! Before git touches the files of a checkout, every file that the update may replace gets a second name
//! in the staging directory. git replaces files and never writes into one, so the old content stays there
//! until the update has succeeded. Rolling back takes renames only, which need no room on the volume.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use cap_std::{
    ambient_authority,
    fs::{Dir, MetadataExt as _},
};

use super::files::{is_absent, path};
use crate::failure::{Failure, Result};

/// The files as they were.
pub(super) struct Rollback<'a> {
    files: &'a Dir,
    saved: Dir,
    /// In the order of their names.
    entries: Vec<(PathBuf, Before)>,
}

/// What was at a path.
enum Before {
    /// A file or a link, whose second name is this number.
    File(usize),
    /// Nothing: this is the first part of the path that was missing.
    Missing(PathBuf),
    /// Something that git does not replace: a directory, or a way there that is no directory.
    Other,
}

impl<'a> Rollback<'a> {
    /// Gives the files at `paths` beneath `files` second names in the empty directory `staging`.
    ///
    /// # Errors
    /// If one of them cannot be linked.
    pub(super) fn prepare(files: &'a Dir, paths: &[Vec<u8>], staging: &Path) -> Result<Self> {
        let saved = Dir::open_ambient_dir(staging, ambient_authority())
            .map_err(Failure::io("open", staging))?;
        let mut rollback = Self { files, saved, entries: Vec::new() };
        for (number, path) in paths.iter().map(|it| path(it)).enumerate() {
            let before = rollback.save(path, number).map_err(Failure::io("link", path))?;
            rollback.entries.push((path.to_owned(), before));
        }
        Ok(rollback)
    }

    fn save(&self, path: &Path, number: usize) -> io::Result<Before> {
        let (parent, name) = match descend(self.files, path)? {
            Way::There(parent, name) => (parent, name),
            Way::Missing(first) => return Ok(Before::Missing(first)),
            Way::Blocked => return Ok(Before::Other),
        };
        match parent.symlink_metadata(name) {
            Ok(metadata) if metadata.is_file() || metadata.is_symlink() => {
                // A file system without links gets a copy.
                let second = number.to_string();
                if let Err(error) = parent.hard_link(name, &self.saved, &second) {
                    if metadata.is_symlink() {
                        return Err(error);
                    }
                    parent.copy(name, &self.saved, &second)?;
                }
                Ok(Before::File(number))
            }
            Ok(_) => Ok(Before::Other),
            Err(error) if is_absent(&error) => Ok(Before::Missing(path.to_owned())),
            Err(error) => Err(error),
        }
    }

    /// Puts every file back. What cannot be put back is logged, and the rest still is.
    pub(super) fn roll_back(self) {
        // What is new goes first: it may stand where something old is to be.
        for (_, before) in self.entries.iter().rev() {
            if let Before::Missing(first) = before {
                self.log(first, self.remove(first));
            }
        }
        for (path, before) in &self.entries {
            if let Before::File(number) = before {
                self.log(path, self.restore(path, &number.to_string()));
            }
        }
    }

    #[expect(clippy::unused_self, reason = "reads as a step of the rollback")]
    fn log(&self, path: &Path, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::error!(path = %path.display(), %error, "cannot put a file back");
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let Way::There(parent, name) = descend(self.files, path)? else { return Ok(()) };
        remove(&parent, name)
    }

    fn restore(&self, path: &Path, second: &str) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.files.create_dir_all(parent)?;
        }
        let Way::There(parent, name) = descend(self.files, path)? else { return Ok(()) };
        let identity = |dir: &Dir, name: &OsStr| {
            dir.symlink_metadata(name).map(|it| (it.dev(), it.ino())).ok()
        };
        let saved = identity(&self.saved, OsStr::new(second));
        // git did not come to this one.
        if saved.is_some() && identity(&parent, name) == saved {
            return Ok(());
        }
        remove(&parent, name)?;
        self.saved.rename(second, &parent, name)
    }
}

/// Removes whatever is there.
fn remove(parent: &Dir, name: &OsStr) -> io::Result<()> {
    match parent.symlink_metadata(name) {
        Ok(metadata) if metadata.is_dir() => parent.remove_dir_all(name),
        Ok(_) => parent.remove_file(name),
        Err(error) if is_absent(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Where a path leads without following a link.
enum Way<'a> {
    /// Its directory, and its name there.
    There(Dir, &'a OsStr),
    /// The first of its directories that is missing.
    Missing(PathBuf),
    /// One of its directories is a file or a link.
    Blocked,
}

fn descend<'p>(files: &Dir, path: &'p Path) -> io::Result<Way<'p>> {
    let bytes = path.as_os_str().as_bytes();
    let mut parts = bytes.split(|byte| *byte == b'/').map(OsStr::from_bytes);
    let Some(name) = parts.next_back() else { return Ok(Way::Blocked) };
    let (mut directory, mut so_far) = (files.try_clone()?, PathBuf::new());
    for part in parts {
        so_far.push(part);
        match directory.symlink_metadata(part) {
            Ok(metadata) if metadata.is_dir() => directory = directory.open_dir(part)?,
            Ok(_) => return Ok(Way::Blocked),
            Err(error) if is_absent(&error) => return Ok(Way::Missing(so_far)),
            Err(error) => return Err(error),
        }
    }
    Ok(Way::There(directory, name))
}
