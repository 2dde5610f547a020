//! The children that tokio waits for.
//!
//! A zombie may be reaped by one party only. Tokio reaps the children it spawned, each by its pid;
//! every other child of this process is one it adopted, and is reaped in [`sweep`](crate::sweep).

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::unistd::Pid;

static OWNED: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());

/// The set, locked. It is held from before a fork until the new child is in it, and throughout one
/// look at `/proc`, so that no child is ever seen that is not in it yet.
pub(crate) fn lock() -> MutexGuard<'static, BTreeSet<Pid>> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}
