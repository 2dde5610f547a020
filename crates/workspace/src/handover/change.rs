//! The walk through a tree.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, openat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
    unistd::{Gid, Uid, fchownat},
};

use super::UserIds;

/// The deepest directory whose entries change their owner. Each level takes a file descriptor. What is deeper keeps its
/// owner.
const DEEPEST: usize = 256;

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

impl Change {
    /// Changes what is at `top` and below; nothing if there is nothing.
    pub(super) fn tree(&self, top: &Path) -> io::Result<()> {
        match open_directory(AT_FDCWD, top) {
            Ok(directory) => Ok(self.directory(&directory, 0)?),
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn directory(&self, directory: &OwnedFd, depth: usize) -> nix::Result<()> {
        if self.order == Order::TopFirst {
            self.open(directory.as_fd(), &fstat(directory)?)?;
        }
        if depth < DEEPEST {
            let mut entries = Dir::from_fd(directory.try_clone().map_err(errno)?)?;
            for entry in entries.iter() {
                let entry = entry?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let done = match entry.file_type() {
                    Some(Type::Directory) => self.subdirectory(directory, name, depth),
                    Some(_) => self.file(directory, name),
                    None => match self.subdirectory(directory, name, depth) {
                        Err(Errno::ENOTDIR | Errno::ELOOP) => self.file(directory, name),
                        done => done,
                    },
                };
                match done {
                    // It was removed or replaced meanwhile.
                    Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if self.order == Order::TopLast {
            self.open(directory.as_fd(), &fstat(directory)?)?;
        }
        Ok(())
    }

    fn subdirectory(&self, parent: &OwnedFd, name: &CStr, depth: usize) -> nix::Result<()> {
        self.directory(&open_directory(parent, name)?, depth + 1)
    }

    fn file(&self, parent: &OwnedFd, name: &CStr) -> nix::Result<()> {
        if !self.concerns(&fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?) {
            return Ok(());
        }
        // Not opened for reading: a pipe would block, and a link is meant itself.
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(parent, name, flags, Mode::empty())?;
        self.open(file.as_fd(), &fstat(&file)?)
    }

    /// Changes the owner of what is open, which `found` describes.
    fn open(&self, file: BorrowedFd<'_>, found: &FileStat) -> nix::Result<()> {
        if !self.concerns(found) {
            return Ok(());
        }
        let user = (found.st_uid == self.from.uid).then(|| Uid::from_raw(self.to.uid));
        let group = (found.st_gid == self.from.gid).then(|| Gid::from_raw(self.to.gid));
        fchownat(file, c"", user, group, AtFlags::AT_EMPTY_PATH)
    }

    fn concerns(&self, found: &FileStat) -> bool {
        let is_directory = found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
        (is_directory || found.st_nlink == 1) && found.st_uid == self.from.uid
    }
}

fn open_directory<P: ?Sized + nix::NixPath>(parent: impl AsFd, name: &P) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}
