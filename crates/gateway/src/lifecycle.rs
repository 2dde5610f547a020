//! What a gateway as a whole is doing.

use contract::JobId;
use tokio::sync::watch;

/// What a gateway as a whole is doing. It only ever moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lifecycle {
    /// It accepts jobs.
    Serving,
    /// It accepts and dispatches only the jobs of running workflows.
    Draining,
    /// It closes its connections and exits. Jobs continue without it.
    Stopping,
}

impl Lifecycle {
    /// Whether it accepts and dispatches a job with this parent.
    pub(crate) const fn accepts(self, parent: Option<JobId>) -> bool {
        match self {
            Self::Serving => true,
            Self::Draining => parent.is_some(),
            Self::Stopping => false,
        }
    }
}

/// The lifecycle of one gateway, shared by its tasks.
#[derive(Debug)]
pub(crate) struct CurrentLifecycle(watch::Sender<Lifecycle>);

impl CurrentLifecycle {
    pub(crate) fn new(first: Lifecycle) -> Self {
        Self(watch::Sender::new(first))
    }

    pub(crate) fn get(&self) -> Lifecycle {
        *self.0.borrow()
    }

    /// Moves on to `next`, unless it is past that already.
    pub(crate) fn advance(&self, next: Lifecycle) {
        self.0.send_if_modified(|current| {
            let is_later = next > *current;
            *current = next.max(*current);
            is_later
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_moves_forward() {
        let current = CurrentLifecycle::new(Lifecycle::Serving);
        current.advance(Lifecycle::Stopping);
        current.advance(Lifecycle::Draining);
        assert_eq!(current.get(), Lifecycle::Stopping);
    }

    #[test]
    fn a_gateway_that_drains_accepts_only_the_jobs_of_workflows() {
        let accepts =
            |lifecycle: Lifecycle| (lifecycle.accepts(None), lifecycle.accepts(Some(JobId::new())));
        assert_eq!(accepts(Lifecycle::Serving), (true, true));
        assert_eq!(accepts(Lifecycle::Draining), (false, true));
        assert_eq!(accepts(Lifecycle::Stopping), (false, false));
    }
}
