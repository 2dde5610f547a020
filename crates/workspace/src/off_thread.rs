//! File access off the async threads: a network file system may take its time.

/// Runs work that may block, and waits for it. A panic in it is passed on to the caller.
///
/// The work goes on if the caller is dropped meanwhile, and its result is thrown away.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The task is never aborted, so this is its own panic, to be passed on.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down; nobody waits on.
            Err(_) => std::future::pending().await,
        },
    }
}
