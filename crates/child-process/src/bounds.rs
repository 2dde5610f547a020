//! The process limit of a job, and the cgroup that contains it.

use std::{fs, io, io::Write as _, process};

use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::{Uid, getuid},
};
use tokio::process::Command;

use crate::{
    cgroup::{Cgroup, Hierarchy, pid_namespace},
    guest::before_exec,
};

/// The inode of the machine's initial pid namespace (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The bounds of one job, for [`Guest::bounded`](crate::Guest::bounded). Dropping them kills the processes within
/// them, if the machine supports that.
#[derive(Debug)]
pub struct JobBounds {
    cgroups: Vec<Cgroup>,
    /// `RLIMIT_NPROC`, if it limits the job.
    user_limit: Option<u64>,
    limited_by: LimitedBy,
}

/// What limits the number of a job's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitedBy {
    /// The controller `pids` of the job's own cgroup. It counts only the job.
    Cgroup,
    /// `RLIMIT_NPROC`. The kernel counts all processes and threads of the user, so the limit is their number when the
    /// job starts plus the number the job may have.
    UserLimit,
    /// Nothing: `RLIMIT_NPROC` does not apply to root, and there is no cgroup.
    NothingForRoot,
    /// Nothing of ours: in a container, `RLIMIT_NPROC` would count the user's processes in all containers of the
    /// machine. The container's own limit applies (`--pids-limit`, `pids` in a stack file).
    Container,
}

impl JobBounds {
    /// Bounds for a job that may have `processes` processes and threads. Bounds that the machine does not support are
    /// omitted; [`limited_by`](Self::limited_by) says which one applies. Blocking: it reads files in `/proc` and
    /// `/sys`.
    #[must_use]
    pub fn new(processes: u32) -> Self {
        Self::of_user(processes, getuid())
    }

    /// The same for a job that [runs as](crate::Guest::user) another user.
    #[must_use]
    pub fn of_user(processes: u32, user: Uid) -> Self {
        let mut cgroups = Vec::new();
        let mut is_limited = false;
        // An error means that no cgroup is delegated to this process.
        if let Ok(group) = Cgroup::create(Hierarchy::Version2) {
            is_limited = group.limit(processes).is_ok();
            cgroups.push(group);
        }
        if !is_limited && let Ok(group) = Cgroup::create(Hierarchy::PIDS) {
            is_limited = group.limit(processes).is_ok();
            cgroups.push(group);
        }
        if !cgroups.iter().any(Cgroup::shares_processor_time) {
            cgroups.extend(Cgroup::create(Hierarchy::CPU));
        }
        let limited_by = if is_limited { LimitedBy::Cgroup } else { fallback_limit(user) };
        let user_limit =
            (limited_by == LimitedBy::UserLimit).then(|| threads_of(user) + u64::from(processes));
        Self { cgroups, user_limit, limited_by }
    }

    /// What limits the number of processes.
    #[must_use]
    pub fn limited_by(&self) -> LimitedBy {
        self.limited_by
    }

    /// Whether the job has a cgroup of its own.
    #[must_use]
    pub fn has_cgroup(&self) -> bool {
        !self.cgroups.is_empty()
    }

    /// Whether the job's processes share their processor time, so that it gets no more by starting more of them.
    #[must_use]
    pub fn shares_processor_time(&self) -> bool {
        self.cgroups.iter().any(Cgroup::shares_processor_time)
    }

    /// Kills everything within the bounds at once, or at least prevents forks, if the machine supports that.
    /// [`end_job`](crate::end_job) also ends the rest. Blocking.
    pub fn kill(&self) {
        for cgroup in &self.cgroups {
            cgroup.kill();
        }
    }

    /// Removes the cgroups. Call it when they are empty. Blocking.
    ///
    /// # Errors
    /// If a cgroup is not empty. The next job with the same parent cgroup then removes it.
    pub fn remove(self) -> io::Result<()> {
        self.cgroups.iter().try_for_each(Cgroup::remove)
    }

    pub(crate) fn apply(&self, command: &mut Command) {
        for cgroup in &self.cgroups {
            enter(command, cgroup);
        }
        if let Some(limit) = self.user_limit {
            limit_user(command, limit);
        }
    }
}

/// What limits a job without a cgroup.
fn fallback_limit(user: Uid) -> LimitedBy {
    if pid_namespace().ok() != Some(INITIAL_PID_NAMESPACE) {
        LimitedBy::Container
    } else if user.is_root() {
        LimitedBy::NothingForRoot
    } else {
        LimitedBy::UserLimit
    }
}

/// What would limit a job of `user` that starts now.
pub(crate) fn limited_by(user: Uid) -> LimitedBy {
    JobBounds::of_user(u32::from(u16::MAX), user).limited_by
}

fn enter(command: &mut Command, cgroup: &Cgroup) {
    // If the group is gone, the job runs without it.
    let Ok(procs_file) = cgroup.procs_file() else { return };
    before_exec(command, move || {
        // Fails if the group's type does not allow processes. The job then runs without it.
        let _ = (&procs_file).write(b"0");
        Ok(())
    });
}

fn limit_user(command: &mut Command, limit: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NPROC).unwrap_or((limit, limit));
    let (soft, hard) = (soft.min(limit), hard.min(limit));
    before_exec(command, move || Ok(setrlimit(Resource::RLIMIT_NPROC, soft, hard)?));
}

/// The number of processes and threads of a user, counted as for `RLIMIT_NPROC`.
fn threads_of(user: Uid) -> u64 {
    let threads = |pid: u32| {
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        let status = String::from_utf8_lossy(&status);
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        (field("Uid:")? == u64::from(user.as_raw())).then(|| field("Threads:"))?
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // At least this process's own, in case no other is visible.
    pids.filter_map(threads).sum::<u64>().max(threads(process::id()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threads_of_the_user_are_counted() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        std::thread::scope(|scope| {
            for _ in 0..500 {
                scope.spawn(|| drop(wait.lock().map(|wait| wait.recv())));
            }
            assert!(threads_of(getuid()) > 500);
            drop(stop);
        });
    }
}
