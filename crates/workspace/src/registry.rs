//! The registry of replicas. Each replica announces itself on the volume, first as idle and then as busy.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use contract::{ReplicaId, Service, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    Error, FileLock, Result, StackSecret, Statement, Workspace, watch::Watch, write::read_at_most,
};

/// The longest entry that is read, in bytes: many times the longest that is written.
const MAX_ENTRY: u64 = 64 * 1024;

/// The announcement of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaEntry {
    /// Identifies this run of the replica.
    pub id: ReplicaId,
    /// The address at which it accepts its job.
    pub address: SocketAddr,
    /// Its process ID, in its own PID namespace.
    pub pid: u32,
    /// When it became ready.
    pub ready: Timestamp,
    /// What proves that it belongs to the stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// This replica's entry, which is removed on drop. If the process dies first, the lock on the entry is released,
/// which marks the entry as stale.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
    /// Where the entry is while the replica is busy.
    busy: PathBuf,
    _lock: FileLock,
}

impl Registration {
    /// Announces an idle replica, with a proof if it knows the stack's secret. Blocks briefly.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn announce(
        workspace: &Workspace,
        service: Service,
        id: ReplicaId,
        address: SocketAddr,
        secret: Option<&StackSecret>,
    ) -> Result<Self> {
        let name = format!("{id}.json");
        let path = workspace.replicas(service).join(&name);
        let busy = workspace.busy_replicas(service).join(name);
        let statement = Statement::Replica { service, id, address };
        let replica = ReplicaEntry {
            id,
            address,
            pid: std::process::id(),
            ready: Timestamp::now(),
            proof: secret.map(|secret| secret.prove(statement)),
        };
        let content = serde_json::to_vec(&replica).unwrap_or_default();
        let lock = FileLock::create(&workspace.scratch(), &path, &content)?;
        Ok(Self { path, busy, _lock: lock })
    }

    /// Marks the replica as busy: gateways send it no more jobs, but still see it.
    pub fn mark_busy(&mut self) {
        match fs::rename(&self.path, &self.busy) {
            Ok(()) => self.path.clone_from(&self.busy),
            Err(error) => {
                tracing::warn!(%error, "failed to mark this replica as busy");
                // It must not look idle.
                let _ = fs::remove_file(&self.path);
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The entries of one service.
#[derive(Clone, Debug)]
pub struct Registry {
    workspace: Workspace,
    service: Service,
    secret: Option<StackSecret>,
}

impl Registry {
    /// The registry of `service`.
    #[must_use]
    pub fn new(workspace: &Workspace, service: Service) -> Self {
        Self { workspace: workspace.clone(), service, secret: None }
    }

    /// Believes only entries of replicas that know this secret. All others count as damaged.
    #[must_use]
    pub fn only_proven(self, secret: Option<StackSecret>) -> Self {
        Self { secret, ..self }
    }

    /// Watches for replicas that appear and disappear.
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.workspace.watcher().watch(&self.workspace.replicas(self.service))
    }

    /// The idle replicas, in the order in which they became idle. Removes entries of dead ones. Blocks briefly.
    ///
    /// An invalid entry affects only its own replica: it is logged once, and set aside if no process holds it.
    ///
    /// # Errors
    /// If the registry cannot be listed.
    pub fn idle(&self) -> Result<Vec<ReplicaEntry>> {
        let mut replicas = self.list(&self.workspace.replicas(self.service), usize::MAX)?;
        replicas.sort_by_key(|replica| replica.id);
        Ok(replicas)
    }

    /// The busy replicas. Removes entries of dead ones. Blocks briefly.
    ///
    /// # Errors
    /// If the registry cannot be listed.
    pub fn busy(&self) -> Result<Vec<ReplicaEntry>> {
        self.list(&self.workspace.busy_replicas(self.service), usize::MAX)
    }

    /// Whether any replica is busy. Blocks briefly.
    ///
    /// # Errors
    /// If the registry cannot be listed.
    pub fn is_any_busy(&self) -> Result<bool> {
        let one = self.list(&self.workspace.busy_replicas(self.service), 1)?;
        Ok(!one.is_empty())
    }

    /// At most `limit` live replicas with entries in `directory`.
    fn list(&self, directory: &Path, limit: usize) -> Result<Vec<ReplicaEntry>> {
        let error = || Error::io("list", directory);
        let mut replicas = Vec::new();
        for entry in fs::read_dir(directory).map_err(error())? {
            if replicas.len() >= limit {
                break;
            }
            let path = entry.map_err(error())?.path();
            match self.look(&path) {
                Ok(replica) => replicas.extend(replica),
                Err(error) => self.workspace.report_once(&path, &error),
            }
        }
        Ok(replicas)
    }

    /// The replica of this entry, if it is alive.
    fn look(&self, path: &Path) -> Result<Option<ReplicaEntry>> {
        // If the entry is gone, the replica has accepted a job since the listing.
        let entry = read_at_most(path, MAX_ENTRY).and_then(|content| {
            let read = content.map(|content| serde_json::from_slice::<ReplicaEntry>(&content));
            read.transpose().map_err(Error::malformed(path))
        });
        let entry = entry.and_then(|entry| match entry {
            Some(entry) if !self.is_proven(&entry) => Err(Error::malformed(path)(
                "it is not from a replica of this stack: give all parts the same STACK_SECRET_FILE",
            )),
            entry => Ok(entry),
        });
        let replica = match entry {
            Ok(Some(replica)) => replica,
            Ok(None) => return Ok(None),
            Err(error) => {
                // If it is held, it may be of a newer version.
                if error.is_damage() && !FileLock::is_held(path)? {
                    self.workspace.set_aside(path)?;
                }
                return Err(error);
            }
        };
        if FileLock::is_held(path)? {
            return Ok(Some(replica));
        }
        if fs::remove_file(path).is_ok() {
            tracing::warn!(service = %self.service, replica = %replica.id, "a replica has died");
        }
        Ok(None)
    }

    fn is_proven(&self, entry: &ReplicaEntry) -> bool {
        let Some(secret) = &self.secret else { return true };
        let ReplicaEntry { id, address, .. } = *entry;
        let statement = Statement::Replica { service: self.service, id, address };
        entry.proof.as_ref().is_some_and(|proof| secret.is_proof(proof, statement))
    }

    /// Whether this replica is announced as idle.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn contains(&self, id: ReplicaId) -> Result<bool> {
        is_in(&self.workspace.replicas(self.service), id)
    }

    /// Whether this replica is announced as busy.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn is_busy(&self, id: ReplicaId) -> Result<bool> {
        is_in(&self.workspace.busy_replicas(self.service), id)
    }
}

fn is_in(directory: &Path, id: ReplicaId) -> Result<bool> {
    let path = directory.join(format!("{id}.json"));
    path.try_exists().map_err(Error::io("check", path))
}

/// The idle replicas of one service, as a dispatcher knows them. A look costs one listing, and a few system calls for each
/// replica that is new or needed.
#[derive(Debug)]
pub struct IdleReplicas {
    registry: Registry,
    known: BTreeMap<ReplicaId, ReplicaEntry>,
}

impl IdleReplicas {
    /// Knows of no replica until the first look.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self { registry, known: BTreeMap::new() }
    }

    /// Looks for changes. Afterwards, the first `wanted` replicas are alive. Blocks briefly.
    ///
    /// # Errors
    /// If the registry cannot be read.
    pub fn look(&mut self, wanted: usize) -> Result<()> {
        let directory = self.registry.workspace.replicas(self.registry.service);
        let error = || Error::io("list", &directory);
        let mut gone = std::mem::take(&mut self.known);
        for entry in fs::read_dir(&directory).map_err(error())? {
            let path = entry.map_err(error())?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            if let Some(replica) = id.and_then(|id| gone.remove(&id)) {
                self.known.insert(replica.id, replica);
                continue;
            }
            match self.registry.look(&path) {
                Ok(replica) => self.known.extend(replica.map(|replica| (replica.id, replica))),
                Err(error) => self.registry.workspace.report_once(&path, &error),
            }
        }
        let mut alive = 0;
        let ids: Vec<_> = self.known.keys().copied().collect();
        for id in ids {
            if alive >= wanted {
                break;
            }
            let path = directory.join(format!("{id}.json"));
            match self.registry.look(&path) {
                Ok(Some(_)) => alive += 1,
                Ok(None) => {
                    self.known.remove(&id);
                }
                Err(error) => {
                    self.registry.workspace.report_once(&path, &error);
                    self.known.remove(&id);
                }
            }
        }
        Ok(())
    }

    /// Whether any replica of the service is there, idle or busy. Blocks briefly.
    ///
    /// # Errors
    /// If the registry cannot be listed.
    pub fn is_any_there(&self) -> Result<bool> {
        Ok(!self.known.is_empty() || self.registry.is_any_busy()?)
    }

    /// The replicas, in the order in which they became idle.
    pub fn iter(&self) -> impl Iterator<Item = &ReplicaEntry> {
        self.known.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::workspace;

    #[test]
    fn an_entry_lives_as_long_as_its_replica() {
        let (_dir, workspace) = workspace();
        let registry = Registry::new(&workspace, Service::Pull);
        let address = "127.0.0.1:4000".parse().unwrap();
        let ids = [ReplicaId::new(), ReplicaId::new()];
        let mut first =
            Registration::announce(&workspace, Service::Pull, ids[0], address, None).unwrap();
        let second =
            Registration::announce(&workspace, Service::Pull, ids[1], address, None).unwrap();
        let seen: Vec<_> = registry.idle().unwrap().iter().map(|replica| replica.id).collect();
        assert_eq!(seen, ids);
        assert!(Registry::new(&workspace, Service::Claude).idle().unwrap().is_empty());
        assert!(!registry.is_any_busy().unwrap());
        first.mark_busy();
        assert!(!registry.contains(ids[0]).unwrap() && registry.contains(ids[1]).unwrap());
        let busy: Vec<_> = registry.busy().unwrap().iter().map(|it| it.id).collect();
        assert!(busy == [ids[0]] && registry.is_any_busy().unwrap());
        drop((first, second));
        assert!(registry.idle().unwrap().is_empty() && registry.busy().unwrap().is_empty());
    }

    #[test]
    fn the_entry_of_a_dead_replica_is_removed() {
        let (_dir, workspace) = workspace();
        let id = ReplicaId::new();
        let entry = serde_json::json!({
            "id": id, "address": "127.0.0.1:1", "pid": 1, "ready": Timestamp::now(),
        });
        let registry = Registry::new(&workspace, Service::Claude);
        let idle = workspace.replicas(Service::Claude).join(format!("{id}.json"));
        let busy = workspace.busy_replicas(Service::Claude).join(format!("{id}.json"));
        for path in [&idle, &busy] {
            fs::write(path, entry.to_string()).unwrap();
        }
        assert!(registry.idle().unwrap().is_empty() && !registry.is_any_busy().unwrap());
        assert!(!idle.exists() && !busy.exists());
    }

    #[test]
    fn a_dispatcher_probes_only_the_replicas_it_needs() {
        let (_dir, workspace) = workspace();
        let registry = Registry::new(&workspace, Service::Pull);
        let address = "127.0.0.1:4000".parse().unwrap();
        let announce =
            |id| Registration::announce(&workspace, Service::Pull, id, address, None).unwrap();
        let ids: [ReplicaId; 4] = std::array::from_fn(|_| ReplicaId::new());
        let mut alive: Vec<_> = ids.into_iter().map(announce).collect();
        let mut known = IdleReplicas::new(registry);
        let seen = |known: &IdleReplicas| known.iter().map(|it| it.id).collect::<Vec<_>>();
        known.look(0).unwrap();
        assert_eq!(seen(&known), ids);
        // One dies without a trace, and one takes a job.
        let path = workspace.replicas(Service::Pull).join(format!("{}.json", ids[0]));
        let entry = fs::read(&path).unwrap();
        drop(alive.remove(0));
        fs::write(&path, entry).unwrap();
        alive[2].mark_busy();
        known.look(0).unwrap();
        assert_eq!(
            seen(&known),
            ids[..3],
            "nobody needs one, so nobody asks whether the first is alive"
        );
        known.look(1).unwrap();
        assert_eq!(seen(&known), ids[1..3]);
        assert!(!path.exists());
        drop(alive);
        known.look(0).unwrap();
        assert!(seen(&known).is_empty() && !known.is_any_there().unwrap());
    }

    /// Such an entry once kept every job of its service waiting.
    #[test]
    fn an_invalid_entry_affects_only_its_own_replica() {
        let (_dir, workspace) = workspace();
        let directory = workspace.replicas(Service::Pull);
        let id = ReplicaId::new();
        let address = "127.0.0.1:4000".parse().unwrap();
        let _alive = Registration::announce(&workspace, Service::Pull, id, address, None).unwrap();
        let names = ["00-directory.json", "00-pipe.json", "00-loop.json", "00-garbage.json"];
        let [folder, pipe, looped, garbage] = names.map(|name| directory.join(name));
        fs::create_dir(&folder).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        std::os::unix::fs::symlink(&looped, &looped).unwrap();
        fs::write(&garbage, "{").unwrap();
        let (done, heard) = std::sync::mpsc::channel();
        let registry = Registry::new(&workspace, Service::Pull);
        std::thread::spawn(move || {
            for _ in 0..3 {
                let idle = registry.idle().map_err(|error| error.to_string());
                let _ = done.send(idle.map(|idle| idle.iter().map(|it| it.id).collect::<Vec<_>>()));
            }
        });
        for _ in 0..3 {
            let idle = heard.recv_timeout(std::time::Duration::from_secs(5)).expect("it hangs");
            assert_eq!(idle, Ok(vec![id]));
        }
        let aside: Vec<_> = fs::read_dir(workspace.damaged()).unwrap().flatten().collect();
        assert!(!garbage.exists() && !pipe.exists());
        assert_eq!(aside.len(), 3, "unheld entries are set aside once: {aside:?}");
    }

    #[test]
    fn only_replicas_that_know_the_secret_are_believed() {
        let (_dir, workspace) = workspace();
        let secret = workspace.stack_secret().unwrap();
        let address = "127.0.0.1:4000".parse().unwrap();
        let registry = Registry::new(&workspace, Service::Pull);
        let believed = || registry.clone().only_proven(Some(secret.clone())).idle().unwrap();
        let announce = |id, secret| {
            Registration::announce(&workspace, Service::Pull, id, address, secret).unwrap()
        };
        let (ours, other) = (ReplicaId::new(), ReplicaId::new());
        let _ours = announce(ours, Some(&secret));
        let _other = announce(other, None);
        assert_eq!(believed().iter().map(|it| it.id).collect::<Vec<_>>(), [ours]);
        assert_eq!(registry.idle().unwrap().len(), 2, "both, if nobody asks for a proof");
        // The same proof at another address, or under another ID.
        let path = |id| workspace.replicas(Service::Pull).join(format!("{id}.json"));
        let entry = fs::read_to_string(path(ours)).unwrap();
        let elsewhere = entry.replace("127.0.0.1:4000", "127.0.0.1:4001");
        let renamed = entry.replace(&ours.to_string(), &other.to_string());
        assert!(elsewhere != entry && renamed != entry);
        for forged in [elsewhere, renamed] {
            fs::write(path(other), forged).unwrap();
            assert_eq!(believed().len(), 1);
        }
    }
}
