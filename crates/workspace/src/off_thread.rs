//! Runs file access off the async threads, because a network file system may be slow.

/// Runs blocking work and waits for it. A panic in it is passed on to the caller.
///
/// If the caller is dropped meanwhile, the work continues and its result is discarded.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The task is never aborted, so this is a panic.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, so the result is not needed.
            Err(_) => std::future::pending().await,
        },
    }
}
