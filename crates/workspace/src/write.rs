//! Putting files in place whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{Error, Result, Workspace};

/// Whether a file that may exist only once is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Once {
    /// This call put it in place.
    Ours,
    /// Somebody else was first.
    Theirs,
}

impl Workspace {
    /// A name that nobody else has, on the same file system.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.temporary().join(Uuid::now_v7().to_string())
    }

    /// Puts `content` at `path`, flushed to disk, if nothing is there yet. Readers see all of it or
    /// nothing: `link(2)` fails if the name exists, on every file system, NFS included.
    pub(crate) fn put_once(&self, path: &Path, content: &[u8]) -> Result<Once> {
        let scratch = self.scratch();
        let result = link_once(&scratch, write_synced(&scratch, content), path);
        // Whatever happened, the scratch name is of no more use.
        let _ = fs::remove_file(&scratch);
        result
    }

    /// [`put_once`](Self::put_once), for the one process that may use the room kept at `reserve`: it is
    /// needed when the volume is full.
    pub(crate) fn put_once_or_reserve(
        &self,
        path: &Path,
        content: &[u8],
        reserve: &Path,
    ) -> Result<Once> {
        match self.put_once(path, content) {
            Err(error) if error.is_disk_full() => {
                link_once(reserve, overwrite(reserve, content), path)
            }
            result => result,
        }
    }
}

/// Keeps room for a file of `size` bytes.
pub(crate) fn reserve(path: &Path, size: usize) -> io::Result<()> {
    // Not zeros: some file systems do not write those.
    fs::write(path, vec![b' '; size])
}

/// Writes into the room that `path` takes up already, and not one byte more. What is left of it stays filled
/// with blanks, which JSON ignores: a write that is not put in place must not make the room smaller.
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
            sync_directory(path)?;
            Ok(Once::Ours)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Once::Theirs),
        Err(error) => Err(Error::io("write", path)(error)),
    }
}

pub(crate) fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes the entry of `path` in its directory last through a power cut.
fn sync_directory(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => {
            File::open(parent).and_then(|dir| dir.sync_all()).map_err(Error::io("flush", parent))
        }
        None => Ok(()),
    }
}

/// Reads a file of at most `limit` bytes; `None` if it is not there. What is no file, which an agent may have put
/// in its place, is an error, not something to wait for.
pub(crate) fn read_at_most(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let read = || {
        let file = without_waiting(OpenOptions::new().read(true)).open(path)?;
        let found = file.metadata()?;
        if !found.is_file() || found.len() > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a file of ours"));
        }
        let mut content = Vec::new();
        file.take(limit).read_to_end(&mut content)?;
        Ok(content)
    };
    match read() {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// Opens at once, even a pipe that nobody holds the other end of.
pub(crate) fn without_waiting(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_takes_what_fits_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, path) = (dir.path().join("kept"), dir.path().join("file"));
        reserve(&kept, 10).unwrap();
        let full = link_once(&kept, overwrite(&kept, b"0123456789x"), &path).unwrap_err();
        assert!(full.is_disk_full() && !path.exists());
        // A write that was not put in place leaves the room as large as it was.
        overwrite(&kept, b"1").unwrap();
        overwrite(&kept, b"0123456789").unwrap();
        assert_eq!(link_once(&kept, overwrite(&kept, b"12345"), &path).unwrap(), Once::Ours);
        assert_eq!(fs::read(&path).unwrap().trim_ascii_end(), b"12345");
        assert_eq!(link_once(&kept, Ok(()), &path).unwrap(), Once::Theirs);
    }
}
