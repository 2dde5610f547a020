//! Requests to end a job, and critical sections that such a request must not interrupt.

use std::sync::Arc;

use contract::Code;
use tokio::sync::watch;

/// Why a running job should end. A later reason in this list overrides an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopReason {
    /// A caller cancelled it, or its parent ended.
    Cancelled,
    /// The job exceeded its time limit.
    Deadline,
    /// The replica was told to stop, and its grace period is over.
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
                "the job exceeded its time limit: request a longer timeoutSeconds, or raise JOB_TIMEOUT_SECONDS"
            }
            Self::Terminated => {
                "the replica was told to stop before the job ended: send the job again"
            }
        }
    }
}

/// A request to end a job, shared by both sides. Cheap to clone.
///
/// Some parts of a job must not be left half done, such as moving the files of a checkout into place. A job enters
/// such a part with [`settle`](Self::settle), which fails after a stop was requested. Checking and entering are one
/// atomic step: if you request a stop and the job is not [settling](Self::is_settling), it never will be, and you may
/// remove what it left.
#[derive(Clone, Debug)]
pub struct Stop {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    reason: Option<StopReason>,
    work: Work,
}

/// Whether the job's work may be interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Work {
    #[default]
    Interruptible,
    /// It must not be interrupted now.
    Settling,
    /// Nothing waits for it any more.
    Abandoned,
}

/// A part of a job that must not be interrupted, until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Settling {
    state: Arc<watch::Sender<State>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }
}

impl Stop {
    /// Requests a stop. Has no effect if a stronger reason was already given.
    pub fn request(&self, reason: StopReason) {
        self.state.send_if_modified(|state| {
            let stronger = state.reason < Some(reason);
            if stronger {
                state.reason = Some(reason);
            }
            stronger
        });
    }

    /// The reason, if the job should end.
    #[must_use]
    pub fn reason(&self) -> Option<StopReason> {
        self.state.borrow().reason
    }

    /// Waits until a stop is requested.
    pub async fn requested(&self) -> StopReason {
        self.wait_for(|state| state.reason).await
    }

    /// Enters a part of the job that must not be interrupted; `None` if a stop was requested or the job was
    /// abandoned.
    pub fn settle(&self) -> Option<Settling> {
        let begun = self.state.send_if_modified(|state| {
            let may_begin = state.reason.is_none() && state.work == Work::Interruptible;
            if may_begin {
                state.work = Work::Settling;
            }
            may_begin
        });
        begun.then(|| Settling { state: Arc::clone(&self.state) })
    }

    /// Whether the job is in a part that must not be interrupted.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        self.state.borrow().work == Work::Settling
    }

    /// Abandons the job's work, whether or not a stop was requested: from now on it cannot settle. Returns `false`
    /// and does nothing if it is settling now.
    #[must_use]
    pub fn abandon(&self) -> bool {
        let mut is_abandoned = false;
        self.state.send_if_modified(|state| {
            is_abandoned = state.work != Work::Settling;
            if is_abandoned {
                state.work = Work::Abandoned;
            }
            is_abandoned
        });
        is_abandoned
    }

    /// Whether the job's work was abandoned.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.state.borrow().work == Work::Abandoned
    }

    /// Waits until the job is not settling.
    pub async fn settled(&self) {
        self.wait_for(|state| (state.work != Work::Settling).then_some(())).await;
    }

    async fn wait_for<T>(&self, find: impl Fn(&State) -> Option<T>) -> T {
        let mut receiver = self.state.subscribe();
        loop {
            if let Some(found) = find(&receiver.borrow_and_update()) {
                return found;
            }
            // The sender lives in `self`, so the channel cannot close while this waits.
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.state.send_modify(|state| state.work = Work::Interruptible);
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

    #[tokio::test]
    async fn a_job_does_not_settle_after_a_stop() {
        let stop = Stop::default();
        let settling = stop.settle().unwrap();
        assert!(stop.settle().is_none(), "one part at a time");
        stop.request(StopReason::Cancelled);
        assert!(stop.is_settling() && !stop.abandon(), "too late to interrupt it");
        let waiting = tokio::spawn({
            let stop = stop.clone();
            async move { stop.settled().await }
        });
        drop(settling);
        waiting.await.unwrap();
        assert!(stop.settle().is_none(), "a stop was requested");
        let given_up = Stop::default();
        assert!(given_up.abandon() && given_up.is_abandoned());
        assert!(given_up.settle().is_none());
    }

    /// Checking and entering were once two steps: staged files were removed while a pull moved them into place.
    #[test]
    fn a_job_either_stops_or_settles() {
        for _ in 0..2000 {
            let stop = Stop::default();
            let worker = std::thread::spawn({
                let stop = stop.clone();
                move || stop.settle().is_some_and(|_settling| true)
            });
            let is_abandoned = stop.abandon();
            let has_settled = worker.join().unwrap();
            // It may have settled before it was abandoned, but not afterwards.
            assert!(has_settled || is_abandoned);
            assert!(!is_abandoned || stop.settle().is_none());
        }
    }
}
