//! The thread that ends what is left.
//!
//! It looks at many files, which must hold up no task. It is there before the first job begins: a job that forks
//! without end may leave no room for another thread.

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

/// After this time without a task the thread tries again what has survived.
const AGAIN: Duration = Duration::from_secs(1);

/// The way to the thread. It is never closed, so the thread never ends.
static ENDER: OnceLock<mpsc::Sender<Task>> = OnceLock::new();

/// Starts the thread, the first time.
pub(crate) fn start() -> io::Result<&'static mpsc::Sender<Task>> {
    if let Some(sender) = ENDER.get() {
        return Ok(sender);
    }
    let (sender, receiver) = mpsc::channel::<Task>();
    // Its owner is the process: it is meant never to be joined.
    thread::Builder::new().name("ender".into()).spawn(move || {
        go_first();
        loop {
            let task = if sweep::has_survivors() {
                receiver.recv_timeout(AGAIN)
            } else {
                receiver.recv().map_err(RecvTimeoutError::from)
            };
            // Whoever waits for a task hears of its panic.
            let _ = match task {
                Ok(task) => catch_unwind(AssertUnwindSafe(task)),
                Err(RecvTimeoutError::Timeout) => catch_unwind(sweep::end_survivors),
                Err(RecvTimeoutError::Disconnected) => return,
            };
        }
    })?;
    // Of two threads made at the same moment one is never given a task, and ends as its sender drops.
    Ok(ENDER.get_or_init(|| sender))
}

/// Does `work` on the thread, after what it was given before. Goes on if the caller is dropped meanwhile.
///
/// # Errors
/// If there is no such thread and none can be made.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    let task = Box::new(move || drop(sender.send(work())));
    start()?.send(task).map_err(|_| io::Error::other("the ending thread is gone"))?;
    receiver.await.map_err(|_| io::Error::other("the ending thread gave no answer"))
}

/// Hundreds of processes that want to run leave little time to whoever ends them. Only a privileged process may put
/// itself before them; for others nothing changes.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate at hand has this system call")]
fn go_first() {
    use nix::libc::{PRIO_PROCESS, setpriority};
    // SAFETY: a system call on plain numbers. On Linux it is about the calling thread alone.
    let _ = unsafe { setpriority(PRIO_PROCESS, 0, -20) };
}

#[cfg(not(target_os = "linux"))]
fn go_first() {}
