//! What happens to a job when its caller disconnects.

use contract::EventPart;
use futures_util::{Stream, StreamExt};

use crate::{Job, Result, follow_parts};

/// Cancels a job when it is dropped, unless the job's end was read first. It lives as long as the stream of the
/// caller that requested this.
pub struct CancelOnDisconnect(Option<Armed>);

struct Armed {
    job: Job,
    /// Whether this process, and not the caller, closes the connection.
    is_stopping: Box<dyn Fn() -> bool + Send>,
}

impl CancelOnDisconnect {
    /// A guard that does nothing: the job continues.
    #[must_use]
    pub const fn disarmed() -> Self {
        Self(None)
    }

    /// A guard that cancels `job`, unless this process closes the connection because it `is_stopping`.
    #[must_use]
    pub fn armed(job: &Job, is_stopping: impl Fn() -> bool + Send + 'static) -> Self {
        Self(Some(Armed { job: job.clone(), is_stopping: Box::new(is_stopping) }))
    }

    fn disarm(&mut self) {
        self.0 = None;
    }

    /// [`follow_parts`] with the guard inside: dropping the stream before its end counts as a disconnect.
    pub fn follow(
        mut self,
        job: Job,
        after: u64,
    ) -> impl Stream<Item = Result<EventPart>> + Send + 'static {
        follow_parts(job, after).inspect(move |part| {
            if matches!(part, Ok(EventPart::Terminal { .. })) {
                self.disarm();
            }
        })
    }
}

impl std::fmt::Debug for CancelOnDisconnect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CancelOnDisconnect").field(&self.0.is_some()).finish()
    }
}

impl Drop for CancelOnDisconnect {
    fn drop(&mut self) {
        let Some(Armed { job, is_stopping }) = self.0.take() else { return };
        if is_stopping() {
            return;
        }
        // Without a runtime, this process is about to exit, and the job ends with it or after it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn_blocking(move || {
            let cancelled = job.outcome().and_then(|outcome| match outcome {
                Some(_) => Ok(()),
                None => {
                    tracing::info!(job = %job.id(), "the caller disconnected: cancelling its job");
                    job.request_cancel()
                }
            });
            if let Err(error) = cancelled {
                tracing::error!(job = %job.id(), error = &error as &dyn std::error::Error, "failed to cancel a job");
            }
        });
    }
}
