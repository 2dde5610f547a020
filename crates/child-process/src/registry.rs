//! The children that a [`Child`](crate::Child) stands for, and who reaped them.
//!
//! A zombie can be reaped once. As long as this process is no subreaper, tokio reaps its children, each by its
//! pid. In a subreaper the [`reaper`](crate::reaper) takes every zombie, and leaves the exit status of those
//! that somebody waits for here.

use std::{
    collections::BTreeMap,
    process::ExitStatus,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::unistd::Pid;

/// See the module.
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

/// The registry, locked. The lock is held from before a fork until the new child is registered, and throughout
/// one look at the processes below, so that no look meets an unregistered child of ours. It is held while a
/// zombie is reaped too, so that whoever holds it can signal a registered pid and meet nobody else.
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

    /// Notes that the reaper has taken `pid`.
    pub(crate) fn reaped(&mut self, pid: Pid, status: ExitStatus) {
        if let Some(child) = self.children.get_mut(&pid) {
            *child = Some(status);
        }
        self.reaped += 1;
        CHANGED.notify_all();
    }

    /// The status of a registered child that the reaper took.
    pub(crate) fn status(&self, pid: Pid) -> Option<ExitStatus> {
        self.children.get(&pid).copied().flatten()
    }

    /// Whether a `Child` stands for `pid`.
    pub(crate) fn contains(&self, pid: Pid) -> bool {
        self.children.contains_key(&pid)
    }

    /// The registered children that nobody has reaped, as far as is known here.
    pub(crate) fn unreaped(&self) -> Vec<Pid> {
        let unreaped = self.children.iter().filter(|(_, status)| status.is_none());
        unreaped.map(|(pid, _)| *pid).collect()
    }

    /// How many were spawned so far.
    pub(crate) fn spawned(&self) -> u64 {
        self.spawned
    }
}

/// Waits until more than `seen` were spawned.
pub(crate) fn wait_for_spawn(seen: u64) {
    let unchanged = |registry: &mut Registry| registry.spawned == seen;
    drop(CHANGED.wait_while(lock(), unchanged).unwrap_or_else(PoisonError::into_inner));
}

/// Waits until something was reaped, for `limit` at most.
pub(crate) fn wait_for_reaping(limit: Duration) {
    let registry = lock();
    let before = registry.reaped;
    let unchanged = |registry: &mut Registry| registry.reaped == before;
    drop(CHANGED.wait_timeout_while(registry, limit, unchanged));
}
