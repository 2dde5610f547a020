//! Whether the volume can be written.

use std::{fs, io};

use nix::sys::statvfs::statvfs;

use crate::{Error, Result, Workspace};

/// How much is written, in bytes.
const PROBE: usize = 64 * 1024;
/// How much room jobs need to begin and to say something, in bytes. A volume with less counts as full.
const NEEDED: u64 = 8 << 20;

/// How much room a volume has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Enough for jobs.
    Enough,
    /// None, or too little for a job.
    None,
}

impl Workspace {
    /// Writes a file and removes it, and looks how much room there is. Blocks as long as the volume does.
    ///
    /// # Errors
    /// If the volume cannot be written for another reason than that it is full.
    pub fn probe(&self) -> Result<Room> {
        let path = self.scratch();
        let written = fs::write(&path, vec![0; PROBE]).map_err(Error::io("write", &path));
        // What cannot be removed now is removed later, with everything else that killed processes leave.
        let _ = fs::remove_file(&path);
        match written {
            Err(error) if error.is_disk_full() => return Ok(Room::None),
            written => written?,
        }
        let volume = statvfs(self.root())
            .map_err(|error| Error::io("look at", self.root())(io::Error::from(error)))?;
        let free = volume.blocks_available().saturating_mul(volume.fragment_size());
        Ok(if free < NEEDED { Room::None } else { Room::Enough })
    }
}
