//! Writes files so that readers see them complete or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use contract::Timestamp;
use uuid::Uuid;

use crate::{Error, Result, Workspace};

/// What the process's mask leaves of it.
const DEFAULT_MODE: u32 = 0o666;
/// For its owner only.
const PRIVATE_MODE: u32 = 0o600;

/// Which process put a file in place that may be put there only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Once {
    /// This call did.
    Ours,
    /// Another call was first.
    Theirs,
}

impl Workspace {
    /// A unique path on the same file system.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.temporary().join(Uuid::now_v7().to_string())
    }

    /// Puts `content` at `path`, flushed to disk, unless a file exists there. Readers see all of it or nothing:
    /// `link(2)` fails if the name exists, on every file system, including NFS.
    pub(crate) fn put_once(&self, path: &Path, content: &[u8]) -> Result<Once> {
        self.put_once_with(path, content, DEFAULT_MODE)
    }

    /// The same for a file that only the stack's own user can read.
    pub(crate) fn put_once_private(&self, path: &Path, content: &[u8]) -> Result<Once> {
        self.put_once_with(path, content, PRIVATE_MODE)
    }

    fn put_once_with(&self, path: &Path, content: &[u8], mode: u32) -> Result<Once> {
        let scratch = self.scratch();
        let result = link_once(&scratch, write_synced_with(&scratch, content, mode), path);
        // The scratch file is no longer needed in any case.
        let _ = fs::remove_file(&scratch);
        result
    }

    /// Puts `content` at `path`, flushed to disk, in the place of what is there. Readers see one or the other.
    pub(crate) fn replace(
        &self,
        path: &Path,
        content: &[u8],
        permissions: Option<fs::Permissions>,
    ) -> Result<()> {
        let scratch = self.scratch();
        let written = write_synced(&scratch, content)
            .and_then(|()| permissions.map_or(Ok(()), |it| fs::set_permissions(&scratch, it)))
            .and_then(|()| fs::rename(&scratch, path));
        if written.is_err() {
            let _ = fs::remove_file(&scratch);
        }
        written.map_err(Error::io("write", path))
    }

    /// Like [`put_once`](Self::put_once), if the volume is full in the space reserved at `reserve`. That is for one process at a
    /// time, unless all of them write the same.
    pub(crate) fn put_once_or_reserve(
        &self,
        path: &Path,
        content: &[u8],
        reserve: &Path,
    ) -> Result<Once> {
        match self.put_once(path, content) {
            Err(error) if error.is_disk_full() => {
                // The reserve may be gone with the end of what it was for.
                if path.try_exists().map_err(Error::io("check", path))? {
                    return Ok(Once::Theirs);
                }
                link_once(reserve, overwrite(reserve, content), path)
            }
            result => result,
        }
    }
}

/// Reserves space for a file of `size` bytes.
pub(crate) fn reserve(path: &Path, size: usize) -> io::Result<()> {
    // Not zeros, because some file systems do not store them.
    fs::write(path, vec![b' '; size])
}

/// Writes into the space that the file at `path` already occupies, and no more. The rest stays filled with spaces,
/// which JSON ignores, so that the space stays reserved if the file is not put in place.
fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let room = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let Some(left) = room.checked_sub(content.len()) else {
        return Err(io::ErrorKind::StorageFull.into());
    };
    file.write_all(content)?;
    file.write_all(&vec![b' '; left])?;
    file.sync_all()
}

fn link_once(from: &Path, written: io::Result<()>, path: &Path) -> Result<Once> {
    match written.and_then(|()| fs::hard_link(from, path)) {
        Ok(()) => {
            path.parent().map_or(Ok(()), sync_directory)?;
            Ok(Once::Ours)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Once::Theirs),
        Err(error) => Err(Error::io("write", path)(error)),
    }
}

/// Creates a file and flushes it to disk.
pub(crate) fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    write_synced_with(path, content, DEFAULT_MODE)
}

fn write_synced_with(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    sync(&file, path)
}

/// Flushes the entries of a directory to disk.
pub(crate) fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|opened| sync(&opened, directory))
        .map_err(Error::io("flush", directory))
}

fn sync(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|synced| synced.push(path.to_owned()));
    #[cfg(not(test))]
    let _ = path;
    Ok(())
}

/// Reads a file of at most `limit` bytes; `None` if it does not exist. Anything except a regular file counts as
/// damage and does not block: an agent may have put a pipe there.
pub(crate) fn read_at_most(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let error = || Error::io("read", path);
    let file = match without_waiting(OpenOptions::new().read(true)).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(error()(source)),
    };
    let found = file.metadata().map_err(error())?;
    if !found.is_file() || found.len() > limit {
        return Err(Error::malformed(path)("not a file that this stack wrote"));
    }
    // With room for all of it, it takes one read, and another that finds the end.
    let mut content = Vec::with_capacity(usize::try_from(found.len()).unwrap_or_default() + 1);
    file.take(limit).read_to_end(&mut content).map_err(error())?;
    Ok(Some(content))
}

/// When a file was last written; long ago if it is not there.
pub(crate) fn modified(path: &Path) -> Timestamp {
    let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
    modified.unwrap_or(SystemTime::UNIX_EPOCH).into()
}

/// Makes opening a pipe return immediately, even if its other end is closed.
pub(crate) fn without_waiting(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
}

/// The paths that this thread has flushed since the last call.
#[cfg(test)]
pub(crate) fn take_synced() -> Vec<PathBuf> {
    tests::SYNCED.take()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        /// The paths that this thread has flushed, because a test cannot cut the power.
        pub(super) static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    #[test]
    fn a_reserve_accepts_only_what_fits() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, path) = (dir.path().join("kept"), dir.path().join("file"));
        reserve(&kept, 10).unwrap();
        let full = link_once(&kept, overwrite(&kept, b"0123456789x"), &path).unwrap_err();
        assert!(full.is_disk_full() && !path.exists());
        // A file that was not put in place keeps its space.
        overwrite(&kept, b"1").unwrap();
        overwrite(&kept, b"0123456789").unwrap();
        assert_eq!(link_once(&kept, overwrite(&kept, b"12345"), &path).unwrap(), Once::Ours);
        assert_eq!(fs::read(&path).unwrap().trim_ascii_end(), b"12345");
        assert_eq!(link_once(&kept, Ok(()), &path).unwrap(), Once::Theirs);
    }
}
