//! Many concurrent callers. Each is a client of its own: it posts a job, follows it to its terminal event, resumes a
//! broken stream, and checks that nothing follows the end.

mod caller;
mod sample;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use contract::Service;
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinSet};

use crate::Api;
use caller::Caller;
pub use caller::LoadEvent;
pub use sample::{Ended, JobProblem, Kept, OutcomeCount, Results, Sample, Spread};

/// Creates the request of a job from the job's number, starting at 1.
pub type MakeRequest = dyn Fn(u32) -> Value + Send + Sync;

/// The parameters of a run.
#[derive(Clone)]
pub struct Load {
    /// The stack.
    pub api: Api,
    /// The service that runs the jobs.
    pub service: Service,
    /// The total number of jobs.
    pub jobs: u32,
    /// The number of concurrent jobs.
    pub concurrency: u32,
    /// The maximum random pause of a caller before each job.
    pub jitter: Duration,
    /// How long a stack that has answered may be unreachable.
    pub patience: Duration,
    /// Creates the requests.
    pub request: Arc<MakeRequest>,
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} jobs for {}, {} at once", self.jobs, self.service, self.concurrency)
    }
}

/// A run. Dropping it stops its callers.
#[derive(Debug)]
pub struct RunningLoad {
    results: Results,
    events: mpsc::Receiver<(u32, LoadEvent)>,
    /// The callers with a job, and whether it is running.
    busy: HashMap<u32, bool>,
    _callers: JoinSet<()>,
}

impl RunningLoad {
    /// Starts the callers.
    #[must_use]
    pub fn start(load: &Load) -> Self {
        let (sender, events) = mpsc::channel(1000);
        let next = Arc::new(AtomicU32::new(1));
        let epoch = Instant::now();
        let mut callers = JoinSet::new();
        for number in 1..=load.concurrency.min(load.jobs) {
            let caller = Caller {
                number,
                api: load.api.clone(),
                service: load.service,
                patience: load.patience,
                epoch,
                events: sender.clone(),
            };
            let (next, load) = (Arc::clone(&next), load.clone());
            callers.spawn(async move {
                loop {
                    // Exceeds the number of jobs by at most one per caller.
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    if job > load.jobs {
                        return;
                    }
                    tokio::time::sleep(random_up_to(load.jitter)).await;
                    caller.call(&(load.request)(job)).await;
                }
            });
        }
        Self { results: Results::default(), events, busy: HashMap::new(), _callers: callers }
    }

    /// The next report, or `None` after the last job. Cancel-safe.
    pub async fn next(&mut self) -> Option<LoadEvent> {
        let (caller, event) = self.events.recv().await?;
        match &event {
            LoadEvent::Submitted => drop(self.busy.insert(caller, false)),
            LoadEvent::Started => drop(self.busy.insert(caller, true)),
            LoadEvent::Done(sample) => {
                self.busy.remove(&caller);
                self.results.add((**sample).clone());
            }
        }
        Some(event)
    }

    /// The jobs that have ended.
    #[must_use]
    pub fn results(&self) -> &Results {
        &self.results
    }

    /// The number of running jobs.
    #[must_use]
    pub fn running(&self) -> usize {
        self.busy.values().filter(|runs| **runs).count()
    }

    /// The number of jobs that wait for a replica.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.busy.len() - self.running()
    }

    /// Runs until the last job has ended.
    pub async fn finish(mut self) -> Results {
        while self.next().await.is_some() {}
        self.results
    }
}

fn random_up_to(most: Duration) -> Duration {
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    // A random UUID is random enough.
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    Duration::from_millis(random.rotate_left(16) % most.saturating_add(1))
}
