//! A walk over a checkout before git looks at it: what would make git wait, and what is not followed.

use std::{
    collections::BTreeSet,
    io,
    ops::Bound,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use cap_std::fs::{Dir, FileType};
use contract::{Code, SkipReason as Reason};

use crate::{
    failure::{Failure, Result},
    monitor::Monitor,
};

/// The most nested repositories. Each is an argument of git's.
const MOST_REPOSITORIES: usize = 1000;
/// The most files and directories that are looked at, ignored ones included.
const MOST_ENTRIES: usize = 4_000_000;
/// The files that git reads in every directory.
const READ_BY_GIT: [&[u8]; 3] = [b".gitattributes", b".gitignore", b".lfsconfig"];

/// Something in a checkout that is not in the tree that was taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skipped {
    pub(crate) path: Vec<u8>,
    pub(crate) reason: Reason,
}

/// What there is in a checkout.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The files and links among the paths that were asked for.
    pub(super) present: BTreeSet<Vec<u8>>,
    /// The directories among them.
    pub(super) directories: BTreeSet<Vec<u8>>,
    /// Repositories of their own, without a path that was asked for in them.
    pub(super) repositories: Vec<Vec<u8>>,
    pub(super) skipped: Vec<Skipped>,
    entries: usize,
}

impl Walk {
    /// Walks over `root`. No link is followed, nor what is beneath a `.git`. `base` and `added` are the paths that are asked
    /// for. Those of the base are in the index, so git lists the directories above them without a look at a `.git` there. What
    /// an agent claims to have added has no such effect.
    ///
    /// # Errors
    /// If git would wait for something, there are too many repositories, or a directory cannot be listed for another
    /// reason than its permissions.
    pub(super) fn over(
        monitor: &Monitor,
        root: &Dir,
        base: &BTreeSet<Vec<u8>>,
        added: &BTreeSet<Vec<u8>>,
    ) -> Result<Self> {
        let mut walk = Self::default();
        let mut open = vec![Vec::new()];
        while let Some(directory) = open.pop() {
            monitor.check_stop()?;
            walk.list(root, (base, added), &directory, &mut open)?;
        }
        Ok(walk)
    }

    fn list(
        &mut self,
        root: &Dir,
        (base, added): (&BTreeSet<Vec<u8>>, &BTreeSet<Vec<u8>>),
        directory: &[u8],
        open: &mut Vec<Vec<u8>>,
    ) -> Result<()> {
        let shown = if directory.is_empty() { Path::new(".") } else { path(directory) };
        let entries = match root.read_dir(shown) {
            Ok(entries) => entries,
            Err(error) if is_unreadable(&error) => {
                self.skip(directory, Reason::Unreadable);
                return Ok(());
            }
            Err(error) => return Err(Failure::io("list", shown)(error)),
        };
        let mut found: Vec<(Vec<u8>, FileType)> = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Failure::io("list", shown))?;
            let kind = entry.file_type().map_err(Failure::io("look at", shown))?;
            found.push((entry.file_name().into_vec(), kind));
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                let sentence = format!(
                    "there are more than {MOST_ENTRIES} files in the checkout, ignored ones included: look at it on the volume"
                );
                return Err(Failure::told(Code::TooLarge, sentence));
            }
        }
        let is_repository = found.iter().any(|(name, _)| name.eq_ignore_ascii_case(b".git"));
        if is_repository && !directory.is_empty() && !has_beneath(base, directory) {
            if base.contains(directory) {
                self.directories.insert(directory.to_vec());
            }
            self.repositories.push(directory.to_vec());
            if self.repositories.len() > MOST_REPOSITORIES {
                let sentence = format!(
                    "there are more than {MOST_REPOSITORIES} repositories in the checkout: look at it on the volume"
                );
                return Err(Failure::told(Code::TooLarge, sentence));
            }
            return Ok(());
        }
        for (name, kind) in found {
            if name.eq_ignore_ascii_case(b".git") {
                continue;
            }
            let path = if directory.is_empty() {
                name.clone()
            } else {
                [directory, b"/", name.as_slice()].concat()
            };
            if kind.is_dir() {
                if base.contains(&path) {
                    self.directories.insert(path.clone());
                }
                open.push(path);
            } else if kind.is_file() || kind.is_symlink() {
                if base.contains(&path) || added.contains(&path) {
                    self.present.insert(path);
                }
            } else if READ_BY_GIT.contains(&name.as_slice()) {
                let sentence = format!(
                    "'{}' in the checkout is a pipe, a socket or a device, and git would read it: remove it on the \
                     volume to see what else has changed",
                    String::from_utf8_lossy(&path)
                );
                return Err(Failure::told(Code::CheckoutConflict, sentence));
            } else {
                self.skip(&path, Reason::Special);
            }
        }
        Ok(())
    }

    fn skip(&mut self, path: &[u8], reason: Reason) {
        self.skipped.push(Skipped { path: path.to_vec(), reason });
    }
}

/// Whether one of `paths` is beneath `directory`.
fn has_beneath(paths: &BTreeSet<Vec<u8>>, directory: &[u8]) -> bool {
    let first = [directory, b"/"].concat();
    let range = (Bound::Included(first.clone()), Bound::Unbounded);
    paths.range::<Vec<u8>, _>(range).next().is_some_and(|path| path.starts_with(&first))
}

fn is_unreadable(error: &io::Error) -> bool {
    const ENAMETOOLONG: i32 = nix::libc::ENAMETOOLONG;
    error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(ENAMETOOLONG)
}

pub(super) fn path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// A pattern of `.gitignore` for exactly this directory.
pub(super) fn pattern(directory: &[u8]) -> PathBuf {
    let mut pattern = vec![b'/'];
    for &byte in directory {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b' ') {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    pattern.push(b'/');
    PathBuf::from(std::ffi::OsString::from_vec(pattern))
}
