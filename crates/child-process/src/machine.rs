//! What this machine supports for limiting and ending jobs. For `doctor`.

use std::{fs, io, path::PathBuf};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Uid, getuid},
};

use crate::{Guest, LimitedBy, bounds, cgroup::Hierarchy};

/// A cgroup of version 2 in which this process may create groups for its jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// The directory.
    pub directory: PathBuf,
    /// Whether a whole group can be killed in one step (Linux 5.14).
    pub can_kill: bool,
}

/// The usage of a limited resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// How much is in use.
    pub used: u64,
    /// How much there is in total.
    pub limit: u64,
}

/// Whether a job gets its own cgroup, which can be killed in one step that forks cannot outrun.
///
/// # Errors
/// If it does not. The error is a clause that says why.
pub fn cgroup_delegation() -> Result<Delegation, String> {
    let directory = Hierarchy::Version2.delegated()?;
    // Every group except the root has this file.
    let is_root = !directory.join("cgroup.type").exists();
    let can_kill = is_root && is_at_least((5, 14)) || directory.join("cgroup.kill").exists();
    Ok(Delegation { directory, can_kill })
}

/// What would limit the processes of a job that starts now. Creates and removes a cgroup to find out.
#[must_use]
pub fn process_limit() -> LimitedBy {
    process_limit_of(getuid())
}

/// The same for a job of another user.
#[must_use]
pub fn process_limit_of(user: Uid) -> LimitedBy {
    bounds::limited_by(user)
}

/// Whether a child can have its own pid namespace: directly as root, otherwise in a user namespace.
///
/// # Errors
/// As documented in unshare(2): `EPERM` or `ENOSPC` if the operator does not allow it.
pub async fn pid_namespace() -> io::Result<()> {
    let flags = if nix::unistd::geteuid().is_root() {
        CloneFlags::CLONE_NEWPID
    } else {
        CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID
    };
    let guest = Guest::new("true").env("PATH", "/usr/local/bin:/usr/bin:/bin");
    let mut child = guest.step(move || Ok(unshare(flags)?)).spawn().await?;
    child.wait().await.map(drop)
}

/// The pids of this machine. Threads also use pids.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn pids() -> io::Result<Capacity> {
    let limit = number_in("/proc/sys/kernel/pid_max")?;
    Ok(Capacity { used: threads_now()?, limit })
}

/// The threads of all processes on this machine.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn threads() -> io::Result<Capacity> {
    let limit = number_in("/proc/sys/kernel/threads-max")?;
    Ok(Capacity { used: threads_now()?, limit })
}

/// The second number of the fourth field of `/proc/loadavg`, proc_loadavg(5).
fn threads_now() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let field = text.split_ascii_whitespace().nth(3).and_then(|field| field.split_once('/'));
    field.and_then(|(_, total)| total.parse().ok()).ok_or_else(|| {
        io::Error::other("/proc/loadavg does not have the format of proc_loadavg(5)")
    })
}

fn number_in(path: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|error| io::Error::other(format!("{path}: {error}")))
}

fn is_at_least(wanted: (u32, u32)) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|it| it.parse().ok());
    numbers.next().zip(numbers.next()).is_some_and(|found: (u32, u32)| found >= wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_positive_and_below_the_limit() {
        for room in [pids().unwrap(), threads().unwrap()] {
            assert!(room.used > 1 && room.used < room.limit, "{room:?}");
        }
    }

    #[test]
    fn the_kernels_version_is_compared_by_number() {
        assert!(is_at_least((3, 4)) && is_at_least((4, 20)));
        assert!(!is_at_least((1000, 0)));
    }
}
