//! How many processes a job may have, and what holds them together.

use std::{fs, io, io::Write as _, process};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::process::Command;

use crate::{
    cgroup::{Cgroup, Hierarchy, pid_namespace},
    guest::before_exec,
};

/// The inode of the pid namespace that the machine began with (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The bounds of one job, for [`Guest::bounded`](crate::Guest::bounded). Dropped, they kill what is still within
/// them, as far as the machine can.
#[derive(Debug)]
pub struct JobBounds {
    cgroups: Vec<Cgroup>,
    /// `RLIMIT_NPROC`, if that is what bounds the job.
    user_limit: Option<u64>,
    limited_by: LimitedBy,
}

/// What keeps a job from having more processes than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitedBy {
    /// The controller `pids` of the job's own cgroup: the job alone is counted.
    Cgroup,
    /// `RLIMIT_NPROC`. The kernel counts all processes and threads of the user, so the limit is what the user
    /// has when the job begins and what the job may have in addition.
    UserLimit,
    /// Nothing: `RLIMIT_NPROC` does not bind root, and there is no cgroup to be had.
    NothingForRoot,
    /// Nothing of ours: in a container `RLIMIT_NPROC` would count the user's processes in all containers of the
    /// machine. The container's own limit holds (`--pids-limit`, `pids` in a stack file).
    Container,
}

impl JobBounds {
    /// Bounds for a job that may have `processes` processes and threads. What the machine has no means for is
    /// left out; [`limited_by`](Self::limited_by) says what holds. Blocking: it looks at files in `/proc` and
    /// `/sys`.
    #[must_use]
    pub fn new(processes: u32) -> Self {
        let mut cgroups = Vec::new();
        let mut is_limited = false;
        // An error means that no cgroup is delegated to this process.
        if let Ok(group) = Cgroup::create(Hierarchy::Version2) {
            is_limited = group.limit(processes).is_ok();
            cgroups.push(group);
        }
        if !is_limited && let Ok(group) = Cgroup::create(Hierarchy::Pids) {
            is_limited = group.limit(processes).is_ok();
            cgroups.push(group);
        }
        let limited_by = if is_limited { LimitedBy::Cgroup } else { without_cgroup() };
        let user_limit =
            (limited_by == LimitedBy::UserLimit).then(|| threads_of_user() + u64::from(processes));
        Self { cgroups, user_limit, limited_by }
    }

    /// What bounds the number of processes.
    #[must_use]
    pub fn limited_by(&self) -> LimitedBy {
        self.limited_by
    }

    /// Whether a cgroup of the job's own holds its processes together.
    #[must_use]
    pub fn has_cgroup(&self) -> bool {
        !self.cgroups.is_empty()
    }

    /// Kills everything within the bounds at once, or at least keeps it from forking, where the machine can.
    /// [`end_job`](crate::end_job) ends what is left, too. Blocking.
    pub fn kill(&self) {
        for cgroup in &self.cgroups {
            cgroup.kill();
        }
    }

    /// Removes what the bounds are made of. Call it when nothing is left within them. Blocking.
    ///
    /// # Errors
    /// If something still is; the next job beside this one removes it then.
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

/// What bounds a job where no cgroup does.
fn without_cgroup() -> LimitedBy {
    if pid_namespace().ok() != Some(FIRST_PID_NAMESPACE) {
        LimitedBy::Container
    } else if nix::unistd::getuid().is_root() {
        LimitedBy::NothingForRoot
    } else {
        LimitedBy::UserLimit
    }
}

/// What would bound a job that began now.
pub(crate) fn limited_by() -> LimitedBy {
    JobBounds::new(u32::from(u16::MAX)).limited_by
}

fn enter(command: &mut Command, cgroup: &Cgroup) {
    // A group that is gone holds nobody, and the job is ended without it.
    let Ok(door) = cgroup.door() else { return };
    before_exec(command, move || {
        // The job can do without, if the group is of a kind that may hold no process.
        let _ = (&door).write(b"0");
        Ok(())
    });
}

fn limit_user(command: &mut Command, limit: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NPROC).unwrap_or((limit, limit));
    let (soft, hard) = (soft.min(limit), hard.min(limit));
    before_exec(command, move || Ok(setrlimit(Resource::RLIMIT_NPROC, soft, hard)?));
}

/// How many processes and threads run as this process's user, as the kernel counts them for `RLIMIT_NPROC`.
fn threads_of_user() -> u64 {
    let user = nix::unistd::getuid().as_raw();
    let threads = |pid: u32| {
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        let status = String::from_utf8_lossy(&status);
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        (field("Uid:")? == u64::from(user)).then(|| field("Threads:"))?
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // This process at least, if nothing else can be seen.
    pids.filter_map(threads).sum::<u64>().max(threads(process::id()).unwrap_or(1))
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
            assert!(threads_of_user() > 500);
            drop(stop);
        });
    }
}
