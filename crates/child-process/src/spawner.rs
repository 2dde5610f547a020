//! The thread that forks.
//!
//! A parent-death signal is sent when the *thread* that forked ends, not its process. A worker thread of the runtime
//! or its blocking pool may end long before the process; this thread does not.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{OnceLock, mpsc},
    thread,
};

use tokio::{process::Command, runtime::Handle, sync::oneshot};

use crate::{Child, registry};

type Task = Box<dyn FnOnce() + Send>;

/// Sends tasks to the thread. It is never dropped, so the thread never exits.
static SPAWNER: OnceLock<mpsc::Sender<Task>> = OnceLock::new();

/// Spawns `command` from the thread, which lives as long as the process. The child's pipes belong to the caller's
/// runtime.
pub(crate) async fn spawn(mut command: Command) -> io::Result<Child> {
    let runtime = Handle::current();
    let (sender, receiver) = oneshot::channel();
    let task = move || {
        let _context = runtime.enter();
        let mut registry = registry::lock();
        let spawned = command.spawn().and_then(|child| Child::register(child, &mut registry));
        // Unlock before the child may be dropped, which takes the lock.
        drop(registry);
        // If the caller is gone, the child is dropped here and thereby killed.
        let _ = sender.send(spawned);
    };
    let gone = |_| io::Error::other("the spawning thread did not answer");
    thread()?.send(Box::new(task)).map_err(|_| io::Error::other("the spawning thread is gone"))?;
    receiver.await.map_err(gone)?
}

fn thread() -> io::Result<&'static mpsc::Sender<Task>> {
    if let Some(sender) = SPAWNER.get() {
        return Ok(sender);
    }
    let (sender, receiver) = mpsc::channel::<Task>();
    // It runs as long as the process and is never joined.
    thread::Builder::new().name("spawner".into()).spawn(move || {
        for task in receiver {
            // A panic (for example, without an I/O driver) must not end the thread: all its children would die.
            let _ = catch_unwind(AssertUnwindSafe(task));
        }
    })?;
    // If two threads were started at the same time, one gets no task and exits when its sender is dropped.
    Ok(SPAWNER.get_or_init(|| sender))
}
