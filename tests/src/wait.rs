//! Waiting for a condition, with a deadline that fails loudly.

use std::time::{Duration, Instant};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks every 10 ms until `look` returns something, and returns that.
///
/// # Panics
/// When `deadline` has passed, naming `what` it waited for.
pub async fn wait_for<T, F>(what: &str, deadline: Duration, mut look: impl FnMut() -> F) -> T
where
    // Not `AsyncFnMut`, whose futures cannot be shown to be `Send` in a spawned task.
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        // The look itself is bounded too: one that hangs must not outlive the deadline.
        let left = deadline.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, look()).await {
            Ok(Some(found)) => return found,
            Ok(None) if started.elapsed() < deadline => tokio::time::sleep(INTERVAL).await,
            Ok(None) | Err(_) => panic!("waited {deadline:?} in vain for {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_what_the_look_found() {
        let looks = std::cell::Cell::new(0);
        let found = wait_for("the third look", Duration::from_secs(5), || async {
            looks.set(looks.get() + 1);
            (looks.get() == 3).then_some(looks.get())
        })
        .await;
        assert_eq!(found, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for a sign")]
    async fn panics_at_the_deadline() {
        wait_for("a sign", Duration::from_millis(30), || async { None::<()> }).await;
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for an answer")]
    async fn a_look_that_hangs_is_cut_off() {
        let hang = || std::future::pending::<Option<()>>();
        wait_for("an answer", Duration::from_millis(30), hang).await;
    }
}
