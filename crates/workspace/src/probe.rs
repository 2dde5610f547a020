//! Checks whether the volume can be written.

use std::{fs, io};

use nix::sys::statvfs::statvfs;

use crate::{Error, Result, Workspace};

/// How many bytes are written.
const PROBE: usize = 64 * 1024;
/// The space that jobs need to start and write events, in bytes. A volume with less counts as full.
const NEEDED: u64 = 8 << 20;

/// How much space a volume has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeSpace {
    /// Enough for jobs.
    Enough,
    /// None, or too little for a job.
    None,
}

impl Workspace {
    /// Writes and removes a file, and checks the free space. Blocks as long as the volume does.
    ///
    /// # Errors
    /// If the volume cannot be written for a reason other than being full.
    pub fn probe(&self) -> Result<FreeSpace> {
        let path = self.scratch();
        let written = fs::write(&path, vec![0; PROBE]).map_err(Error::io("write", &path));
        // If it cannot be removed now, it is removed later with the leftovers of killed processes.
        let _ = fs::remove_file(&path);
        match written {
            Err(error) if error.is_disk_full() => return Ok(FreeSpace::None),
            written => written?,
        }
        let volume = statvfs(self.root())
            .map_err(|error| Error::io("check", self.root())(io::Error::from(error)))?;
        let free = volume.blocks_available().saturating_mul(volume.fragment_size());
        Ok(if free < NEEDED { FreeSpace::None } else { FreeSpace::Enough })
    }
}
