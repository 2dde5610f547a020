//! Putting files in place whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
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
        let written = write_synced(&scratch, content).and_then(|()| fs::hard_link(&scratch, path));
        // Whatever happened, the scratch name is of no more use.
        let _ = fs::remove_file(&scratch);
        match written {
            Ok(()) => {
                sync_directory(path)?;
                Ok(Once::Ours)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Once::Theirs),
            Err(error) => Err(Error::io("write", path)(error)),
        }
    }
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
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

/// Reads a small file; `None` if it is not there.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}
