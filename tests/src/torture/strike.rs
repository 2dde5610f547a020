//! Killing a process, and seeing to it that its jobs end.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::volume::JobDirectory;
use crate::procfs;

/// How soon a job is to be ended whose process has died.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// How soon the jobs are to be ended which it had asked for: they are told once it has ended, and
/// may have an agent that needs all of its own time.
const CHILDREN_SOON: Duration = Duration::from_secs(10);

/// Between two looks for a file.
const INTERVAL: Duration = Duration::from_millis(5);

/// A process that was killed.
#[derive(Debug)]
pub(crate) struct Death {
    at: Instant,
    /// The jobs it had taken, by the locks it held.
    pub(crate) jobs: Vec<JobDirectory>,
}

impl Death {
    /// Stops the process, looks which jobs it has, and kills it. Nothing if it has left by itself.
    pub(crate) fn of(workspace: &Path, pid: u32) -> Option<Self> {
        let target = Pid::from_raw(pid.cast_signed());
        // Stopped, it can take no job between the look and its death.
        kill(target, Signal::SIGSTOP).ok()?;
        let stopped = Instant::now();
        loop {
            match procfs::state(pid)? {
                'T' => break,
                // It has left by itself in this moment; its id may soon be another's.
                'Z' | 'X' => return None,
                _ if stopped.elapsed() > Duration::from_millis(100) => break,
                _ => std::thread::yield_now(),
            }
        }
        let jobs = leases(workspace, pid);
        kill(target, Signal::SIGKILL).ok()?;
        Some(Self { at: Instant::now(), jobs })
    }

    /// Waits for the end of its jobs, and says how long each took.
    ///
    /// # Errors
    /// A sentence, if one is late.
    pub(crate) async fn settled(self) -> Result<Vec<Duration>, String> {
        let mut times = Vec::new();
        for job in self.jobs {
            if !job.has("claim") {
                // It died with the lock and without the job, which is another's to take.
                continue;
            }
            times.push(ended(&job, self.at, SOON).await?);
            for child in job.children() {
                ended(&child, self.at, CHILDREN_SOON).await?;
            }
        }
        Ok(times)
    }
}

async fn ended(job: &JobDirectory, since: Instant, limit: Duration) -> Result<Duration, String> {
    while !job.has("outcome") {
        if since.elapsed() > limit {
            let id = job.id();
            return Err(format!("{id} has no end {limit:?} after the death of its process"));
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(since.elapsed())
}

/// The jobs whose lease a process holds.
fn leases(workspace: &Path, pid: u32) -> Vec<JobDirectory> {
    let jobs = workspace.join(".stack/jobs");
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let lease = |descriptor: fs::DirEntry| {
        let file = fs::read_link(descriptor.path()).ok()?;
        let is_lease = file.starts_with(&jobs) && file.ends_with("lease");
        let number = descriptor.file_name().into_string().ok()?;
        let told = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        // Who only looks whether somebody holds it has the file open, and no lock.
        (is_lease && told.contains("FLOCK")).then(|| JobDirectory::holding(&file))?
    };
    descriptors.filter_map(lease).collect()
}

/// Whether a process has taken a job.
pub(crate) fn has_job(workspace: &Path, pid: u32) -> bool {
    !leases(workspace, pid).is_empty()
}

/// Whether a process has taken this job.
pub(crate) fn has_lease_of(workspace: &Path, pid: u32, job: &JobDirectory) -> bool {
    leases(workspace, pid).contains(job)
}
