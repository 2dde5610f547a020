//! The thread that kills leftover processes.
//!
//! It reads many files, which must not block a task. It starts before the first job, because a fork bomb may leave no
//! room for another thread.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        OnceLock,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::sweep;

type Task = Box<dyn FnOnce() + Send>;

/// How long the thread waits for a task before it tries to kill survivors again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Sends tasks to the thread. It is never dropped, so the thread never exits.
static KILLER: OnceLock<mpsc::Sender<Task>> = OnceLock::new();

/// Starts the thread unless it is running.
pub(crate) fn start() -> io::Result<&'static mpsc::Sender<Task>> {
    if let Some(sender) = KILLER.get() {
        return Ok(sender);
    }
    let (sender, receiver) = mpsc::channel::<Task>();
    // It runs as long as the process and is never joined.
    thread::Builder::new().name("killer".into()).spawn(move || {
        raise_priority();
        loop {
            let task = if sweep::has_survivors() {
                receiver.recv_timeout(RETRY_INTERVAL)
            } else {
                receiver.recv().map_err(RecvTimeoutError::from)
            };
            // The caller that waits for the task notices the panic.
            let _ = match task {
                Ok(task) => catch_unwind(AssertUnwindSafe(task)),
                Err(RecvTimeoutError::Timeout) => catch_unwind(sweep::end_survivors),
                Err(RecvTimeoutError::Disconnected) => return,
            };
        }
    })?;
    // If two threads were started at the same time, one gets no task and exits when its sender is dropped.
    Ok(KILLER.get_or_init(|| sender))
}

/// Runs `work` on the thread, after all earlier tasks. Continues even if the caller is dropped.
///
/// # Errors
/// If the thread does not exist and cannot be started.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    let task = Box::new(move || drop(sender.send(work())));
    start()?.send(task).map_err(|_| io::Error::other("the thread that kills processes is gone"))?;
    receiver.await.map_err(|_| io::Error::other("the thread that kills processes did not answer"))
}

/// Raises the thread's priority, because hundreds of runnable processes leave it little CPU time. Only works in a
/// privileged process; otherwise nothing changes.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no dependency wraps this system call")]
fn raise_priority() {
    use nix::libc::{PRIO_PROCESS, setpriority};
    // SAFETY: a system call with plain numbers. On Linux it applies to the calling thread only.
    let _ = unsafe { setpriority(PRIO_PROCESS, 0, -20) };
}

#[cfg(not(target_os = "linux"))]
fn raise_priority() {}
