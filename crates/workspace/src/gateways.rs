//! Which gateways live: what waits in the queue of one is its own until it is gone, and then somebody else's.

use std::{fs, io};

use contract::ReplicaId;

use crate::{Error, Lease, Result, Workspace};

impl Workspace {
    fn gateway(&self, id: ReplicaId) -> std::path::PathBuf {
        self.gateways().join(id.to_string())
    }

    /// Says that the gateway of this id lives, for as long as the lease does.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn announce_gateway(&self, id: ReplicaId) -> Result<Lease> {
        // Locked before it has its name, so that nobody ever takes it for dead.
        let (scratch, path) = (self.scratch(), self.gateway(id));
        let announced = Lease::try_acquire(&scratch).and_then(|lease| {
            let taken = || io::Error::other("a fresh file is locked");
            let lease = lease.ok_or_else(|| Error::io("lock", &scratch)(taken()))?;
            fs::rename(&scratch, &path).map_err(Error::io("write", path))?;
            Ok(lease)
        });
        if announced.is_err() {
            let _ = fs::remove_file(&scratch);
        }
        announced
    }

    /// Takes over from the gateway of this id; `None` if it lives, or another has taken over. What waited in its
    /// queue is the caller's for as long as it keeps the lease.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn adopt_gateway(&self, id: ReplicaId) -> Result<Option<Lease>> {
        let path = self.gateway(id);
        // Another may have opened it, and removed it, just before: a lock on no name keeps nobody out.
        Ok(Lease::try_acquire(&path)?.filter(|lease| lease.is_at(&path)))
    }

    /// The gateways there are signs of, dead or alive.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn known_gateways(&self) -> Result<Vec<ReplicaId>> {
        let directory = self.gateways();
        let entries = fs::read_dir(&directory).map_err(Error::io("list", &directory))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// Removes what is left of an adopted gateway: nothing waits in its queue any more.
    pub fn forget_gateway(&self, id: ReplicaId, adopted: Lease) {
        // While it is locked: whoever gets the lock after this sees that it is on no name any more.
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
        let id = ReplicaId::new();
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
        let late = Lease::try_lock(late, &workspace.gateway(id)).unwrap().unwrap();
        assert!(!late.is_at(&workspace.gateway(id)), "who was late has a lock on no name");
        assert!(workspace.known_gateways().unwrap().is_empty());
    }
}
