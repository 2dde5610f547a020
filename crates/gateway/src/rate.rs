//! How many requests a caller may send in a minute.

use std::collections::HashMap;

use contract::CallerName;
use http::{HeaderMap, HeaderValue, header};
use std::time::Duration;
use tokio::time::Instant;

/// The time in which requests are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The requests of the callers that have a limit.
#[derive(Debug, Default)]
pub(crate) struct Rates(HashMap<CallerName, Window>);

#[derive(Debug)]
struct Window {
    began: Instant,
    count: u32,
}

/// Where a caller stands after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    limit: u32,
    remaining: u32,
    /// When it may send its whole number again, in seconds.
    reset: u64,
    pub(crate) is_exceeded: bool,
}

impl Rates {
    /// Counts a request. A window begins with the first request after the one before.
    pub(crate) fn count(&mut self, name: &CallerName, limit: u32) -> Rate {
        let now = Instant::now();
        if !self.0.contains_key(name) {
            // Callers that have sent nothing for a while are forgotten.
            self.0.retain(|_, window| now.duration_since(window.began) < WINDOW);
        }
        let window = self.0.entry(name.clone()).or_insert(Window { began: now, count: 0 });
        if now.duration_since(window.began) >= WINDOW {
            *window = Window { began: now, count: 0 };
        }
        let is_exceeded = window.count >= limit;
        if !is_exceeded {
            window.count += 1;
        }
        let left = WINDOW.saturating_sub(now.duration_since(window.began));
        let reset = left.as_millis().div_ceil(1000).try_into().unwrap_or(WINDOW.as_secs());
        Rate { limit, remaining: limit - window.count.min(limit), reset, is_exceeded }
    }
}

impl Rate {
    /// Tells the caller.
    pub(crate) fn add_to(self, headers: &mut HeaderMap) {
        headers.insert("ratelimit-limit", self.limit.into());
        headers.insert("ratelimit-remaining", self.remaining.into());
        headers.insert("ratelimit-reset", HeaderValue::from(self.reset));
        if self.is_exceeded {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.reset));
        }
    }

    pub(crate) fn sentence(self) -> String {
        format!(
            "this caller may send {} requests in a minute: send the request again in {} s",
            self.limit, self.reset
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_in_a_minute_and_then_again() {
        let mut rates = Rates::default();
        let (a, b): (CallerName, CallerName) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert_eq!(
            rates.count(&a, 2),
            Rate { limit: 2, remaining: 1, reset: 60, is_exceeded: false }
        );
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!rates.count(&a, 2).is_exceeded);
        let refused = rates.count(&a, 2);
        assert_eq!(refused, Rate { limit: 2, remaining: 0, reset: 50, is_exceeded: true });
        assert!(!rates.count(&b, 2).is_exceeded, "another caller");
        tokio::time::advance(Duration::from_secs(50)).await;
        assert!(!rates.count(&a, 2).is_exceeded);
        tokio::time::advance(WINDOW).await;
        rates.count(&"c".parse().unwrap(), 1);
        assert_eq!(rates.0.len(), 1, "the others are forgotten");
        let mut headers = HeaderMap::new();
        refused.add_to(&mut headers);
        assert_eq!(headers["retry-after"], "50");
        assert_eq!(headers["ratelimit-remaining"], "0");
    }
}
