//! What a service's job is: one function from a validated request to a stream of steps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use contract::{Code, Ending, EventLine, JobId};
use tokio::sync::{Notify, watch};
use workspace::Workspace;

/// What a job's stream yields.
#[derive(Debug)]
pub enum Step {
    /// Something that happened; appended to the journal before anyone sees it.
    Event(EventLine),
    /// The end. Nothing after it is looked at.
    End(Ending),
}

/// What a job knows besides its request.
#[derive(Clone, Debug)]
pub struct JobContext {
    /// The job.
    pub id: JobId,
    /// The workflow that asked for it.
    pub parent: Option<JobId>,
    /// The volume.
    pub workspace: Workspace,
    /// Whether, and why, the job should end now.
    pub stop: Stop,
    /// How long the job may run.
    pub deadline: Deadline,
    /// How long the job has to end once it is asked to; then it is ended without being asked. A job that
    /// hands a part of it on keeps the rest for its own end.
    pub stop_time: Duration,
}

/// Why a running job should end. In order: a reason is only ever replaced by a later one in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopReason {
    /// A caller asked, or the parent ended.
    Cancelled,
    /// The job ran as long as it may.
    Deadline,
    /// The replica was told to stop and its grace is over.
    Terminated,
}

impl StopReason {
    /// The code of the terminal event.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Cancelled => Code::Cancelled,
            Self::Deadline => Code::Deadline,
            Self::Terminated => Code::Terminated,
        }
    }

    /// One sentence for the caller.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Cancelled => "the job was cancelled",
            Self::Deadline => {
                "the job ran longer than it may: ask for a longer timeoutSeconds, or raise JOB_TIMEOUT_SECONDS"
            }
            Self::Terminated => {
                "the replica was told to stop before the job was done: send the job again"
            }
        }
    }
}

/// The request to end a job, seen from both sides. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop {
    reason: Arc<watch::Sender<Option<StopReason>>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { reason: Arc::new(watch::Sender::new(None)) }
    }
}

impl Stop {
    /// Asks the job to end. A weaker reason than the one already given changes nothing.
    pub fn request(&self, reason: StopReason) {
        self.reason.send_if_modified(|current| {
            let stronger = *current < Some(reason);
            if stronger {
                *current = Some(reason);
            }
            stronger
        });
    }

    /// The reason, if the job should end.
    #[must_use]
    pub fn reason(&self) -> Option<StopReason> {
        *self.reason.borrow()
    }

    /// Waits until the job should end.
    pub async fn requested(&self) -> StopReason {
        let mut receiver = self.reason.subscribe();
        loop {
            if let Some(reason) = *receiver.borrow_and_update() {
                return reason;
            }
            // The sender lives in `self`, so the channel cannot close while this waits.
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A time limit that stands still while somebody holds a [`Pause`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Deadline {
    inner: Arc<DeadlineInner>,
}

#[derive(Debug)]
struct DeadlineInner {
    limit: Duration,
    pauses: AtomicUsize,
    changed: Notify,
}

/// Holds a [`Deadline`] still until it is dropped.
#[derive(Debug)]
pub struct Pause {
    inner: Arc<DeadlineInner>,
}

impl Deadline {
    /// A limit of `limit`, counted from the call of [`passed`](Self::passed).
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self {
            inner: Arc::new(DeadlineInner {
                limit,
                pauses: AtomicUsize::new(0),
                changed: Notify::new(),
            }),
        }
    }

    /// The limit itself.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.inner.limit
    }

    /// Stops the clock until the returned value is dropped.
    #[must_use]
    pub fn pause(&self) -> Pause {
        self.inner.pauses.fetch_add(1, Ordering::SeqCst);
        self.inner.changed.notify_waiters();
        Pause { inner: Arc::clone(&self.inner) }
    }

    /// Waits until the limit has passed, not counting pauses.
    pub async fn passed(&self) {
        let mut left = self.inner.limit;
        loop {
            let changed = self.inner.changed.notified();
            tokio::pin!(changed);
            // Registered before the count is read, so that no change in between is missed.
            changed.as_mut().enable();
            if self.inner.pauses.load(Ordering::SeqCst) > 0 {
                changed.await;
                continue;
            }
            let start = tokio::time::Instant::now();
            tokio::select! {
                () = tokio::time::sleep(left) => return,
                () = changed => left = left.saturating_sub(start.elapsed()),
            }
        }
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.inner.pauses.fetch_sub(1, Ordering::SeqCst);
        self.inner.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reasons_only_escalate() {
        let stop = Stop::default();
        assert_eq!(stop.reason(), None);
        stop.request(StopReason::Deadline);
        stop.request(StopReason::Cancelled);
        assert_eq!(stop.requested().await, StopReason::Deadline);
        stop.request(StopReason::Terminated);
        assert_eq!(stop.reason(), Some(StopReason::Terminated));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_stops_the_clock() {
        let deadline = Deadline::new(Duration::from_secs(10));
        let start = tokio::time::Instant::now();
        let waiting = tokio::spawn({
            let deadline = deadline.clone();
            async move { deadline.passed().await }
        });
        tokio::time::sleep(Duration::from_secs(4)).await;
        let (first, second) = (deadline.pause(), deadline.pause());
        tokio::time::sleep(Duration::from_secs(100)).await;
        drop(first);
        tokio::time::sleep(Duration::from_secs(100)).await;
        drop(second);
        waiting.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 210);
    }
}
