//! Checks that the processes of jobs are alive. The kernel reports no released lock, so this has to be asked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use contract::JobId;
use tokio::sync::watch;

use crate::{FileLock, Job, blocking};

/// How often each job is checked.
const INTERVAL: Duration = Duration::from_millis(500);

/// Checks the jobs that somebody waits for, all in one step and each once, however many wait for it.
#[derive(Debug, Default)]
pub(crate) struct LivenessChecker {
    jobs: Arc<Mutex<Jobs>>,
}

#[derive(Debug, Default)]
struct Jobs {
    checked: HashMap<JobId, Checked>,
    /// Whether a task checks them. It ends when there is nothing left to check.
    is_running: bool,
}

#[derive(Debug)]
struct Checked {
    job: Job,
    /// Whether its process has been seen alive.
    was_alive: bool,
    news: watch::Sender<()>,
    users: usize,
}

/// A job that is checked for as long as this lives.
#[derive(Debug)]
pub struct LivenessWatch {
    jobs: Arc<Mutex<Jobs>>,
    id: JobId,
    news: watch::Receiver<()>,
}

fn lock(jobs: &Mutex<Jobs>) -> MutexGuard<'_, Jobs> {
    // The map stays usable after a panic in another thread.
    jobs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LivenessChecker {
    /// Starts to check `job`.
    pub(crate) fn watch(&self, job: &Job) -> LivenessWatch {
        let mut jobs = lock(&self.jobs);
        if !std::mem::replace(&mut jobs.is_running, true) {
            tokio::spawn(run(Arc::downgrade(&self.jobs)));
        }
        let checked = jobs.checked.entry(job.id()).or_insert_with(|| Checked {
            job: job.clone(),
            was_alive: false,
            news: watch::Sender::new(()),
            users: 0,
        });
        checked.users += 1;
        LivenessWatch { jobs: Arc::clone(&self.jobs), id: job.id(), news: checked.news.subscribe() }
    }
}

async fn run(jobs: Weak<Mutex<Jobs>>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(jobs) = jobs.upgrade() else { return };
        let due: Vec<_> = lock(&jobs)
            .checked
            .values()
            .map(|checked| (checked.job.clone(), checked.was_alive))
            .collect();
        let found: Vec<_> = blocking(move || {
            due.into_iter().map(|(job, was_alive)| (job.id(), check(&job, was_alive))).collect()
        })
        .await;
        let mut jobs = lock(&jobs);
        if jobs.checked.is_empty() {
            jobs.is_running = false;
            return;
        }
        for (id, liveness) in found {
            let Some(checked) = jobs.checked.get_mut(&id) else { continue };
            checked.was_alive |= liveness == Liveness::Alive;
            if liveness == Liveness::Unknown {
                checked.news.send_replace(());
            }
        }
    }
}

/// What a check shows.
#[derive(Debug, PartialEq, Eq)]
enum Liveness {
    /// No process has claimed the job.
    Waiting,
    /// Its process is alive.
    Alive,
    /// It has ended, is gone, or cannot be checked.
    Unknown,
}

/// Checks a job. A claim is final, so it is looked for only until the job's process has been seen.
fn check(job: &Job, was_alive: bool) -> Liveness {
    let is_claimed = if was_alive { Ok(true) } else { job.claimed().map(|claim| claim.is_some()) };
    match is_claimed {
        Ok(true) if matches!(FileLock::is_held(&job.lease_path()), Ok(true)) => Liveness::Alive,
        Ok(false) if matches!(Job::open(job.workspace(), job.id()), Ok(Some(_))) => {
            Liveness::Waiting
        }
        _ => Liveness::Unknown,
    }
}

impl LivenessWatch {
    /// Waits for a check that has found that the job has ended, is gone, or cannot be read. Its caller looks itself, to see
    /// which.
    pub async fn found(&mut self) {
        // The sender is in the map as long as this watch exists, so the channel cannot close.
        let _ = self.news.changed().await;
    }
}

impl Drop for LivenessWatch {
    fn drop(&mut self) {
        let mut jobs = lock(&self.jobs);
        if let Some(checked) = jobs.checked.get_mut(&self.id) {
            checked.users -= 1;
            if checked.users == 0 {
                jobs.checked.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{job, workspace};

    #[tokio::test]
    async fn a_job_is_checked_once_for_all_who_wait() {
        let (_dir, workspace) = workspace();
        let job = job(&workspace);
        assert_eq!(check(&job, false), Liveness::Waiting);
        let mut watches: Vec<_> = (0..3).map(|_| job.watch_liveness()).collect();
        assert_eq!(lock(&workspace.liveness().jobs).checked.len(), 1);
        let claimed = job.claim("replica").unwrap().unwrap();
        assert_eq!((check(&job, false), check(&job, true)), (Liveness::Alive, Liveness::Alive));
        let found = watches[0].found();
        assert!(tokio::time::timeout(2 * INTERVAL, found).await.is_err(), "it is alive");
        drop(claimed);
        for watch in &mut watches {
            tokio::time::timeout(Duration::from_secs(10), watch.found()).await.expect("it is dead");
        }
        drop(watches);
        assert!(lock(&workspace.liveness().jobs).checked.is_empty());
    }
}
