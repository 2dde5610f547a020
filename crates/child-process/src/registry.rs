//! The children that have a [`Child`](crate::Child), and the exit statuses of those that were reaped.
//!
//! A zombie can be reaped only once. If this process is not a subreaper, tokio reaps its children by their pids. In a
//! subreaper, the [`reaper`](crate::reaper) reaps every zombie and stores the exit status of registered children
//! here.

use std::{
    collections::BTreeMap,
    process::ExitStatus,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::unistd::Pid;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Registry {
    children: BTreeMap<Pid, Option<ExitStatus>>,
    spawned: u64,
    reaped: u64,
}

static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { children: BTreeMap::new(), spawned: 0, reaped: 0 });

/// Notified after each spawn and each reaping.
static CHANGED: Condvar = Condvar::new();

/// Locks the registry. The lock is held from before a fork until the new child is registered, and while the processes
/// are listed, so no listing contains an unregistered child. It is also held while a zombie is reaped, so while you
/// hold it, a registered pid cannot be reused.
pub(crate) fn lock() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    pub(crate) fn add(&mut self, pid: Pid) {
        self.children.insert(pid, None);
        self.spawned += 1;
        CHANGED.notify_all();
    }

    pub(crate) fn remove(&mut self, pid: Pid) {
        self.children.remove(&pid);
    }

    /// Records that the reaper has reaped `pid`.
    pub(crate) fn reaped(&mut self, pid: Pid, status: ExitStatus) {
        if let Some(child) = self.children.get_mut(&pid) {
            *child = Some(status);
        }
        self.reaped += 1;
        CHANGED.notify_all();
    }

    /// The status of a registered child that the reaper has reaped.
    pub(crate) fn status(&self, pid: Pid) -> Option<ExitStatus> {
        self.children.get(&pid).copied().flatten()
    }

    /// Whether `pid` has a `Child`.
    pub(crate) fn contains(&self, pid: Pid) -> bool {
        self.children.contains_key(&pid)
    }

    /// The registered children that the reaper has not reaped.
    pub(crate) fn unreaped(&self) -> Vec<Pid> {
        let unreaped = self.children.iter().filter(|(_, status)| status.is_none());
        unreaped.map(|(pid, _)| *pid).collect()
    }

    /// The number of children spawned so far.
    pub(crate) fn spawned(&self) -> u64 {
        self.spawned
    }
}

/// Waits until more than `seen` children were spawned.
pub(crate) fn wait_for_spawn(seen: u64) {
    let unchanged = |registry: &mut Registry| registry.spawned == seen;
    drop(CHANGED.wait_while(lock(), unchanged).unwrap_or_else(PoisonError::into_inner));
}

/// Waits until a child is reaped, for at most `limit`.
pub(crate) fn wait_for_reaping(limit: Duration) {
    let registry = lock();
    let before = registry.reaped;
    let unchanged = |registry: &mut Registry| registry.reaped == before;
    drop(CHANGED.wait_timeout_while(registry, limit, unchanged));
}
