//! The walk through a tree.

use std::{
    collections::HashMap,
    ffi::CStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    dir::{Dir, Entry, Type},
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, openat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
    unistd::{Gid, Uid, fchownat},
};

use super::{Check, UserIds};

/// The deepest directory whose entries change their owner. Each level takes two file descriptors. What is deeper keeps its
/// owner.
const DEEPEST: usize = 256;

/// How many files with several names are remembered until all names were seen. Further ones keep their owner.
const MOST_LINKED: usize = 100_000;

/// How many entries are looked at before the walk asks whether it is to end.
const CHECKED_EVERY: u32 = 1000;

/// When a directory changes its owner: before or after what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    TopFirst,
    TopLast,
}

/// A change of the owner of everything in a tree that belongs to `from`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) from: UserIds,
    pub(super) to: UserIds,
    pub(super) order: Order,
}

/// Changes what is at `top` and below; nothing if there is nothing.
pub(super) fn change(change: Change, top: &Path, check: Check<'_>) -> io::Result<()> {
    let mut walk = Walk { change, check, looked: 0, linked: HashMap::new(), failed: None };
    match open_directory(AT_FDCWD, top) {
        Ok(directory) => walk.directory(&directory, 0)?,
        Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    walk.failed.map_or(Ok(()), |error| Err(error.into()))
}

struct Walk<'a> {
    change: Change,
    check: Check<'a>,
    /// How many entries were looked at.
    looked: u32,
    /// How many names of a file, by its device and its number there, are still to be seen.
    linked: HashMap<(u64, u64), u64>,
    /// The first error: what comes after it changes all the same.
    failed: Option<Errno>,
}

impl Walk<'_> {
    /// Fails only if the walk is to end.
    fn directory(&mut self, directory: &OwnedFd, depth: usize) -> io::Result<()> {
        if self.change.order == Order::TopFirst {
            self.note(fstat(directory).and_then(|found| self.open(directory.as_fd(), &found)));
        }
        if depth < DEEPEST {
            match directory.try_clone().map_err(errno).and_then(Dir::from_fd) {
                Ok(mut entries) => {
                    for entry in entries.iter() {
                        match entry {
                            Ok(entry) => self.entry(directory, &entry, depth)?,
                            Err(error) => {
                                self.note(Err(error));
                                break;
                            }
                        }
                    }
                }
                Err(error) => self.note(Err(error)),
            }
        }
        // Of a tree that is not taken back as a whole, the top still says so.
        let is_done = depth > 0 || self.failed.is_none();
        if self.change.order == Order::TopLast && is_done {
            self.note(fstat(directory).and_then(|found| self.open(directory.as_fd(), &found)));
        }
        Ok(())
    }

    fn entry(&mut self, parent: &OwnedFd, entry: &Entry, depth: usize) -> io::Result<()> {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            return Ok(());
        }
        self.looked = self.looked.wrapping_add(1);
        if self.looked.is_multiple_of(CHECKED_EVERY) {
            (self.check)()?;
        }
        if matches!(entry.file_type(), Some(Type::Directory) | None) {
            match open_directory(parent, name) {
                Ok(directory) => return self.directory(&directory, depth + 1),
                Err(Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(error) => {
                    self.note(Err(error));
                    return Ok(());
                }
            }
        }
        let done = self.file(parent, name);
        self.note(done);
        Ok(())
    }

    fn note(&mut self, done: nix::Result<()>) {
        match done {
            // It was removed or replaced meanwhile.
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
            Err(error) => self.failed = self.failed.or(Some(error)),
        }
    }

    fn file(&mut self, parent: &OwnedFd, name: &CStr) -> nix::Result<()> {
        if fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_uid != self.change.from.uid {
            return Ok(());
        }
        // Not opened for reading: a pipe would block, and a link is meant itself.
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(parent, name, flags, Mode::empty())?;
        let found = fstat(&file)?;
        if self.has_all_names(&found) { self.open(file.as_fd(), &found) } else { Ok(()) }
    }

    /// Whether no name of a file is left to be seen after this one.
    fn has_all_names(&mut self, found: &FileStat) -> bool {
        let is_directory = found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
        if is_directory || found.st_nlink == 1 {
            return true;
        }
        let file = (found.st_dev, found.st_ino);
        if self.linked.len() >= MOST_LINKED && !self.linked.contains_key(&file) {
            return false;
        }
        let left = self.linked.entry(file).or_insert(found.st_nlink);
        *left = left.saturating_sub(1);
        let is_last = *left == 0;
        if is_last {
            self.linked.remove(&file);
        }
        is_last
    }

    /// Changes the owner of what is open, which `found` describes.
    fn open(&self, file: BorrowedFd<'_>, found: &FileStat) -> nix::Result<()> {
        let Change { from, to, .. } = self.change;
        if found.st_uid != from.uid {
            return Ok(());
        }
        let group = (found.st_gid == from.gid).then(|| Gid::from_raw(to.gid));
        fchownat(file, c"", Some(Uid::from_raw(to.uid)), group, AtFlags::AT_EMPTY_PATH)
    }
}

fn open_directory<P: ?Sized + nix::NixPath>(parent: impl AsFd, name: &P) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}
