//! A time limit that can be paused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

/// A time limit that is suspended while a [`Pause`] exists. Cheap to clone.
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

/// Suspends a [`Deadline`] until it is dropped.
#[derive(Debug)]
pub struct Pause {
    inner: Arc<DeadlineInner>,
}

impl Deadline {
    /// A time limit that starts when [`passed`](Self::passed) is called.
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
            // Register before reading the count, so that no change is missed.
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
