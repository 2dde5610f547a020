//! Which replicas are idle, and where: each announces itself on the volume.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::SocketAddr,
    path::PathBuf,
};

use contract::{ReplicaId, Service, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Error, Lease, Result, Workspace, watch::Watch};

/// An idle replica, as it announced itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// This life of it.
    pub id: ReplicaId,
    /// Where it takes its job.
    pub address: SocketAddr,
    /// Its process, in its own PID namespace.
    pub pid: u32,
    /// When it was ready.
    pub ready: Timestamp,
}

/// This replica's entry. Withdrawn at the latest when dropped; if the process dies first, the lock on the
/// entry falls free and shows that it is stale.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
    _lock: Lease,
}

impl Registration {
    /// Announces an idle replica. Blocks briefly.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn announce(
        workspace: &Workspace,
        service: Service,
        id: ReplicaId,
        address: SocketAddr,
    ) -> Result<Self> {
        let path = workspace.replicas(service).join(format!("{id}.json"));
        let replica = Replica { id, address, pid: std::process::id(), ready: Timestamp::now() };
        let content = serde_json::to_vec(&replica).unwrap_or_default();
        // Locked before it has its name, so that nobody ever sees it unlocked while its process lives.
        let scratch = workspace.scratch();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&scratch)
            .map_err(Error::io("create", &scratch))?;
        let result =
            file.write_all(&content).map_err(Error::io("write", &scratch)).and_then(|()| {
                let lock = Lease::try_lock(file, &scratch)?;
                fs::rename(&scratch, &path).map_err(Error::io("write", &path))?;
                Ok(lock)
            });
        match result {
            Ok(Some(lock)) => Ok(Self { path, _lock: lock }),
            Ok(None) => {
                Err(Error::io("lock", path)(std::io::Error::other("a fresh file is locked")))
            }
            Err(error) => {
                let _ = fs::remove_file(&scratch);
                Err(error)
            }
        }
    }

    /// Takes the entry back: no gateway will send a job here any more.
    pub fn withdraw(self) {}
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// All entries of one service.
#[derive(Clone, Debug)]
pub struct Replicas {
    workspace: Workspace,
    service: Service,
}

impl Replicas {
    /// The registry of `service`.
    #[must_use]
    pub fn new(workspace: &Workspace, service: Service) -> Self {
        Self { workspace: workspace.clone(), service }
    }

    /// Watches for replicas that come and go.
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.workspace.watcher().watch(&self.workspace.replicas(self.service))
    }

    /// The replicas that are idle now, longest first. Entries of dead ones are removed. Blocks briefly.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn idle(&self) -> Result<Vec<Replica>> {
        let directory = self.workspace.replicas(self.service);
        let mut replicas = Vec::new();
        for entry in fs::read_dir(&directory).map_err(Error::io("list", &directory))?.flatten() {
            let path = entry.path();
            let Ok(content) = fs::read(&path) else { continue };
            let Ok(replica) = serde_json::from_slice::<Replica>(&content) else {
                tracing::warn!(path = %path.display(), "not a replica's entry");
                continue;
            };
            if Lease::is_held(&path)? {
                replicas.push(replica);
            } else if fs::remove_file(&path).is_ok() {
                tracing::warn!(service = %self.service, replica = %replica.id, "an idle replica is gone");
            }
        }
        replicas.sort_by_key(|replica| replica.id);
        Ok(replicas)
    }

    /// Whether the entry of this replica is still there.
    #[must_use]
    pub fn contains(&self, id: ReplicaId) -> bool {
        self.workspace.replicas(self.service).join(format!("{id}.json")).exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_lives_as_long_as_its_replica_is_idle() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let replicas = Replicas::new(&workspace, Service::Pull);
        let address = "127.0.0.1:4000".parse().unwrap();
        let ids = [ReplicaId::new(), ReplicaId::new()];
        let first = Registration::announce(&workspace, Service::Pull, ids[0], address).unwrap();
        let second = Registration::announce(&workspace, Service::Pull, ids[1], address).unwrap();
        let seen: Vec<_> = replicas.idle().unwrap().iter().map(|replica| replica.id).collect();
        assert_eq!(seen, ids);
        assert!(Replicas::new(&workspace, Service::Claude).idle().unwrap().is_empty());
        first.withdraw();
        assert!(!replicas.contains(ids[0]) && replicas.contains(ids[1]));
        drop(second);
        assert!(replicas.idle().unwrap().is_empty());
    }

    #[test]
    fn the_entry_of_a_dead_replica_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let id = ReplicaId::new();
        let entry = serde_json::json!({
            "id": id, "address": "127.0.0.1:1", "pid": 1, "ready": Timestamp::now(),
        });
        let path = workspace.replicas(Service::Claude).join(format!("{id}.json"));
        fs::write(&path, entry.to_string()).unwrap();
        assert!(Replicas::new(&workspace, Service::Claude).idle().unwrap().is_empty());
        assert!(!path.exists());
    }
}
