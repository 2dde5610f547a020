//! Checks that the processes of jobs are alive. The kernel reports no released lock, so this has to be asked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use contract::JobId;
use tokio::sync::watch;

use crate::{Job, blocking};

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
        let due: Vec<_> = lock(&jobs).checked.values().map(|checked| checked.job.clone()).collect();
        let news = blocking(move || {
            due.into_iter().filter(has_news).map(|job| job.id()).collect::<Vec<_>>()
        })
        .await;
        let mut jobs = lock(&jobs);
        if jobs.checked.is_empty() {
            jobs.is_running = false;
            return;
        }
        for checked in news.iter().filter_map(|id| jobs.checked.get(id)) {
            checked.news.send_replace(());
        }
    }
}

/// Whether a job has ended, is gone, or cannot be checked.
fn has_news(job: &Job) -> bool {
    let is_alive = matches!(job.settle(), Ok(None));
    !is_alive || !matches!(Job::open(job.workspace(), job.id()), Ok(Some(_)))
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
