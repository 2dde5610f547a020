//! How often a job's journal is written to.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::run::BATCH;

/// The average time between two small writes in a flood.
const INTERVAL: Duration = Duration::from_millis(1);

/// How far ahead of that average the writes may be: 16 of them follow each other without a pause.
const BURST: Duration = Duration::from_millis(16);

/// Limits the rate of writes, so that a flood of events is written in batches, each of which costs one write here and one
/// wake-up of each reader. Events that come at a lower rate are not delayed.
///
/// This is the generic cell rate algorithm (ITU-T I.371).
#[derive(Debug)]
pub(crate) struct Pace {
    /// When the next write would be due at the average rate.
    due: Instant,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { due: Instant::now() }
    }

    /// Waits until the next write is allowed.
    pub(crate) async fn wait(&self) {
        let ahead = self.due.saturating_duration_since(Instant::now());
        if ahead > BURST {
            sleep_until(self.due - BURST).await;
        }
    }

    /// Counts a write of so many bytes. If it was a full batch, there is more, and nothing to wait for.
    pub(crate) fn wrote(&mut self, size: usize) {
        if size < BATCH {
            self.due = self.due.max(Instant::now()) + INTERVAL;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_flood_is_slowed_down() {
        let mut pace = Pace::new();
        let start = Instant::now();
        for _ in 0..17 {
            pace.wait().await;
            pace.wrote(1);
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..1000 {
            pace.wait().await;
            pace.wrote(1);
        }
        assert_eq!(start.elapsed(), 1000 * INTERVAL);
        let sparse = Instant::now();
        for _ in 0..100 {
            tokio::time::sleep(2 * INTERVAL).await;
            pace.wait().await;
            pace.wrote(1);
        }
        assert_eq!(sparse.elapsed(), 200 * INTERVAL);
        let full = Instant::now();
        for _ in 0..100 {
            pace.wait().await;
            pace.wrote(BATCH);
        }
        assert_eq!(full.elapsed(), Duration::ZERO);
    }
}
