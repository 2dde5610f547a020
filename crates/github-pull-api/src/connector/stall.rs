//! Whether a transfer still gets anywhere.

use std::time::{Duration, Instant};

/// What has to pass between git and its host, in bytes a second over the whole window.
///
/// Cargo asks for 10 bytes a second over 30 s. A host that prepares a large pack sends a line of
/// progress a second, which is more; the empty packets that keep a connection open are less.
const LEAST_RATE: u64 = 16;

/// Tells when a git host has stalled: for a whole window less than 16 bytes a second passed between it and
/// git, and git had no work of its own to do. So a host that lets bytes trickle cannot hold a pull.
#[derive(Debug)]
pub(crate) struct StallWatch {
    window: Duration,
    since: Instant,
    transferred: u64,
}

impl StallWatch {
    /// The window begins `now`. `transferred` is how many bytes have passed so far.
    pub(crate) fn new(window: Duration, transferred: u64, now: Instant) -> Self {
        Self { window, since: now, transferred }
    }

    /// git did work of this machine's (it resolves deltas, checks what it got, writes files), so the window
    /// begins again.
    pub(crate) fn worked(&mut self, transferred: u64, now: Instant) {
        (self.since, self.transferred) = (now, transferred);
    }

    /// Whether the host has stalled, given how many bytes have passed in all.
    pub(crate) fn is_stalled(&mut self, transferred: u64, now: Instant) -> bool {
        let least = LEAST_RATE.saturating_mul(self.window.as_secs()).max(1);
        if transferred.saturating_sub(self.transferred) >= least {
            self.worked(transferred, now);
        }
        now.saturating_duration_since(self.since) >= self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a host stalls that sends `rate` bytes a second, if it does within ten minutes.
    fn stalls(rate: u64, works_until: u64) -> Option<u64> {
        let start = Instant::now();
        let mut watch = StallWatch::new(Duration::from_secs(60), 0, start);
        (0..600).find(|&second| {
            let now = start + Duration::from_secs(second);
            if second <= works_until {
                watch.worked(rate * second, now);
            }
            watch.is_stalled(rate * second, now)
        })
    }

    #[test]
    fn a_trickle_is_no_progress() {
        assert_eq!(stalls(0, 0), Some(60));
        assert_eq!(stalls(1, 0), Some(60));
        assert_eq!(stalls(15, 0), Some(60));
        assert_eq!(stalls(17, 0), None);
        assert_eq!(stalls(1_000_000, 0), None);
    }

    #[test]
    fn work_on_this_machine_is_progress() {
        assert_eq!(stalls(0, 300), Some(360));
    }
}
