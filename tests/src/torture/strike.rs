//! Kills a process and checks that its jobs end.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use contract::DeliverRequest;
use fastrand::Rng;
use tokio::task::JoinSet;

use super::{kill::sentence, report::Report, volume::JobDirectory};
use crate::{Stack, procfs};

/// How soon a job must have ended after its process died.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// The same for the jobs that it started: they are cancelled only after it has ended, and their
/// agents may take all of their own time to exit.
const CHILDREN_SOON: Duration = Duration::from_secs(10);

/// Time between two looks for a file.
const INTERVAL: Duration = Duration::from_millis(5);

/// A process that was killed.
#[derive(Debug)]
pub(crate) struct Death {
    at: Instant,
    /// The jobs it had claimed, according to the locks it held.
    pub(crate) jobs: Vec<JobDirectory>,
}

impl Death {
    /// Stops the process, finds its jobs, and kills it. Returns `None` if it has exited by itself.
    pub(crate) fn of(workspace: &Path, pid: u32) -> Option<Self> {
        let target = Pid::from_raw(pid.cast_signed());
        // While it is stopped, it cannot claim a job between the look and its death.
        kill(target, Signal::SIGSTOP).ok()?;
        let stopped = Instant::now();
        loop {
            match procfs::state(pid)? {
                'T' => break,
                // It has just exited by itself, and another process may soon have its PID.
                'Z' | 'X' => return None,
                _ if stopped.elapsed() > Duration::from_millis(100) => break,
                _ => std::thread::yield_now(),
            }
        }
        let jobs = leases(workspace, pid);
        kill(target, Signal::SIGKILL).ok()?;
        Some(Self { at: Instant::now(), jobs })
    }

    /// Waits for its jobs to end. Returns how long each of them took.
    ///
    /// # Errors
    /// A sentence, if one is late.
    pub(crate) async fn settled(self) -> Result<Vec<Duration>, String> {
        let mut times = Vec::new();
        for job in self.jobs {
            if !job.has("claim") {
                // It died holding the lock but without a claim, so another replica can run the job.
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

/// The deaths of a campaign: what was killed, and the tasks that wait for the jobs of dead processes to end.
#[derive(Default)]
pub(crate) struct Deaths {
    tasks: JoinSet<Result<Vec<Duration>, String>>,
    pub(crate) killed: BTreeMap<String, usize>,
    at_work: usize,
    pub(crate) delivering: usize,
}

impl Deaths {
    /// Kills a replica or a gateway of one of these parts, and `of` its processes.
    pub(crate) fn strike(&mut self, stack: &Stack, parts: &[&'static str], of: Of, rng: &mut Rng) {
        let victims = stack.descendants().into_iter().filter_map(|process| {
            // The child of a replica looks like the replica until it becomes git or the agent.
            let is_replica = process.state != 'Z' && process.ppid == stack.pid();
            let cmdline = is_replica.then(|| process.cmdline())?;
            let part = parts.iter().find(|part| is_part(&cmdline, part))?;
            Some((process.pid, *part))
        });
        let mut victims: Vec<_> = victims.collect();
        if of == Of::AtWork {
            victims.retain(|(pid, _)| has_job(stack.workspace(), *pid));
        }
        let Some(&(pid, part)) = rng.choice(&victims) else { return };
        let Some(death) = Death::of(stack.workspace(), pid) else { return };
        *self.killed.entry(part.to_owned()).or_default() += 1;
        self.at_work += usize::from(!death.jobs.is_empty());
        let delivers =
            |job: &JobDirectory| job.record().is_some_and(|it| it["path"] == DeliverRequest::PATH);
        self.delivering += usize::from(death.jobs.iter().any(delivers));
        self.tasks.spawn(death.settled());
    }

    /// Waits for the jobs of all of them, and reports.
    pub(crate) async fn conclude(mut self, report: &mut Report) {
        let mut times = Vec::new();
        while let Some(settled) = self.tasks.join_next().await {
            match settled.map_err(sentence) {
                Ok(Ok(some)) => times.extend(some),
                Ok(Err(late)) | Err(late) => report.violate(late),
            }
        }
        report.figure("processes killed", self.killed.values().sum::<usize>());
        report.figure("by service", serde_json::json!(self.killed));
        report.figure("of these, with a job", self.at_work);
        report.times("from a kill to the end of the job", &mut times);
    }
}

/// Which processes are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// Any of them.
    All,
    /// Those that have a job.
    AtWork,
}

fn is_part(cmdline: &str, part: &str) -> bool {
    cmdline.strip_suffix(part).is_some_and(|rest| rest.ends_with(" serve "))
}

async fn ended(job: &JobDirectory, since: Instant, limit: Duration) -> Result<Duration, String> {
    while !job.has("outcome") {
        if since.elapsed() > limit {
            let id = job.id();
            return Err(format!("{id} has not ended {limit:?} after its process died"));
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
        // A process that only checks the lease has the file open, but holds no lock.
        (is_lease && told.contains("FLOCK")).then(|| JobDirectory::holding(&file))?
    };
    descriptors.filter_map(lease).collect()
}

/// Whether a process has claimed a job.
pub(crate) fn has_job(workspace: &Path, pid: u32) -> bool {
    !leases(workspace, pid).is_empty()
}

/// Whether a process has claimed this job.
pub(crate) fn has_lease_of(workspace: &Path, pid: u32, job: &JobDirectory) -> bool {
    leases(workspace, pid).contains(job)
}
