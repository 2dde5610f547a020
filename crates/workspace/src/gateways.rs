//! Which gateways are alive. A gateway owns its queue until it is gone; then another one takes it over.

use std::fs;

use contract::GatewayId;

use crate::{FileLock, Result, Workspace, layout::parsed_names, write::read_at_most};

/// The longest file of a gateway that is read, in bytes.
const MAX_FILE: u64 = 4096;

/// The content of a gateway's file. Earlier versions wrote none, and did not index the jobs that they created.
const INDEXES: &[u8] = b"indexes its jobs\n";

impl Workspace {
    fn gateway(&self, id: GatewayId) -> std::path::PathBuf {
        self.gateways().join(id.to_string())
    }

    /// Announces that this gateway is alive, as long as the lock is held.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn announce_gateway(&self, id: GatewayId) -> Result<FileLock> {
        FileLock::create(&self.scratch(), &self.gateway(id), INDEXES)
    }

    /// Takes over from a gateway; `None` if it is alive, or if another one has taken over. The caller owns its queue
    /// as long as it keeps the lock.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn adopt_gateway(&self, id: GatewayId) -> Result<Option<FileLock>> {
        let path = self.gateway(id);
        // Another process may have removed it just before. A lock on a removed file excludes nobody.
        Ok(FileLock::try_acquire(&path)?.filter(|lock| lock.is_at(&path)))
    }

    /// Takes over from all dead gateways, except those in `known`. A gateway that cannot be checked is logged once.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn adopt_gateways(&self, known: &[GatewayId]) -> Result<Vec<(GatewayId, FileLock)>> {
        let mut adopted = Vec::new();
        for id in self.known_gateways()?.into_iter().filter(|id| !known.contains(id)) {
            match self.adopt_gateway(id).and_then(|lock| self.index_jobs_of(id, lock)) {
                Ok(lock) => adopted.extend(lock.map(|lock| (id, lock))),
                Err(error) => self.report_once(&self.gateway(id), &error),
            }
        }
        Ok(adopted)
    }

    /// Makes sure that the jobs of an adopted gateway are in the index.
    fn index_jobs_of(&self, id: GatewayId, lock: Option<FileLock>) -> Result<Option<FileLock>> {
        let path = self.gateway(id);
        if lock.is_some() && read_at_most(&path, MAX_FILE)?.is_some_and(|found| found.is_empty()) {
            self.rebuild_index()?;
        }
        Ok(lock)
    }

    /// All gateways with a file here, alive or not.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn known_gateways(&self) -> Result<Vec<GatewayId>> {
        parsed_names(&self.gateways())
    }

    /// Removes the file of an adopted gateway whose queue is empty.
    pub fn forget_gateway(&self, id: GatewayId, adopted: FileLock) {
        // While it is locked, so that the next process that gets the lock sees that the file is removed.
        let _ = fs::remove_file(self.gateway(id));
        drop(adopted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_gateway_is_adopted_once() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let id = GatewayId::new();
        let alive = workspace.announce_gateway(id).unwrap();
        assert_eq!(workspace.known_gateways().unwrap(), [id]);
        assert!(workspace.adopt_gateway(id).unwrap().is_none());
        drop(alive);
        let adopted = workspace.adopt_gateway(id).unwrap().unwrap();
        assert!(workspace.adopt_gateway(id).unwrap().is_none());
        drop(adopted);
        let adopted = workspace.adopt_gateway(id).unwrap().expect("its adopter died too");
        let late = std::fs::File::open(workspace.gateway(id)).unwrap();
        workspace.forget_gateway(id, adopted);
        let late = FileLock::try_lock(late, &workspace.gateway(id)).unwrap().unwrap();
        assert!(!late.is_at(&workspace.gateway(id)), "a late one has locked a removed file");
        assert!(workspace.known_gateways().unwrap().is_empty());
    }
}
