//! Waiting for a condition, with a deadline that fails loudly.

use std::time::{Duration, Instant};

/// The deadline for everything in a test that has no deadline of its own. It matters only when the
/// test fails.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The time between two calls.
const INTERVAL: Duration = Duration::from_millis(10);

/// Calls `look` every 10 ms until it returns a value, and returns that value.
///
/// # Panics
/// When `deadline` has passed. The message contains `what`.
pub async fn wait_for<T, F>(what: &str, deadline: Duration, mut look: impl FnMut() -> F) -> T
where
    // Not `AsyncFnMut`, whose futures cannot be shown to be `Send` in a spawned task.
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        // The deadline also applies to a call that hangs.
        let left = deadline.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, look()).await {
            Ok(Some(found)) => return found,
            Ok(None) if started.elapsed() < deadline => tokio::time::sleep(INTERVAL).await,
            Ok(None) | Err(_) => panic!("timed out after {deadline:?} waiting for {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_the_value_that_look_found() {
        let looks = std::cell::Cell::new(0);
        let found = wait_for("the third look", Duration::from_secs(5), || async {
            looks.set(looks.get() + 1);
            (looks.get() == 3).then_some(looks.get())
        })
        .await;
        assert_eq!(found, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "waiting for a sign")]
    async fn panics_at_the_deadline() {
        wait_for("a sign", Duration::from_millis(30), || async { None::<()> }).await;
    }

    #[tokio::test]
    #[should_panic(expected = "waiting for an answer")]
    async fn panics_at_the_deadline_if_look_hangs() {
        let hang = || std::future::pending::<Option<()>>();
        wait_for("an answer", Duration::from_millis(30), hang).await;
    }
}
