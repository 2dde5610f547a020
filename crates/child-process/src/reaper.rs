//! The thread that reaps children.
//!
//! A subreaper becomes the parent of its orphaned descendants. One thread waits for any child to exit and reaps it at
//! once: zombies hold pids, and a fork bomb's zombies would use up all of them. The thread sleeps in the kernel, so
//! it costs nothing while no child exits, and it needs no signal.

use std::{
    io, os::unix::process::ExitStatusExt as _, process::ExitStatus, sync::OnceLock, thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    libc::{self, c_int},
    unistd::Pid,
};

use crate::registry;

/// How long to wait after an undocumented error of `waitid`.
const PAUSE: Duration = Duration::from_millis(100);

static STARTED: OnceLock<()> = OnceLock::new();

/// Starts the thread unless it is running.
pub(crate) fn start() -> io::Result<()> {
    if STARTED.get().is_none() {
        // If two threads start at the same time, both reap, which is harmless. They run as long as the process and
        // are never joined.
        thread::Builder::new().name("reaper".into()).spawn(run)?;
        let _ = STARTED.set(());
    }
    Ok(())
}

/// Whether the thread reaps this process's zombies.
pub(crate) fn is_running() -> bool {
    STARTED.get().is_some()
}

fn run() {
    loop {
        let spawned = registry::lock().spawned();
        match ended(Wait::Block) {
            Ok(Some(pid)) => reap(pid),
            Ok(None) | Err(Errno::EINTR) => {}
            // Without a child there is no descendant, and nothing to adopt.
            Err(Errno::ECHILD) => registry::wait_for_spawn(spawned),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Whether this process has any child, dead or alive. Without one, it has no descendants.
pub(crate) fn has_children() -> bool {
    ended(Wait::Snapshot) != Err(Errno::ECHILD)
}

enum Wait {
    Block,
    Snapshot,
}

/// A child that has exited and was not reaped. Does not reap it.
#[expect(unsafe_code, reason = "nix loses the pid of a child killed by a real-time signal")]
fn ended(wait: Wait) -> Result<Option<Pid>, Errno> {
    let flags = libc::WEXITED | libc::WNOWAIT;
    let flags = match wait {
        Wait::Block => flags,
        Wait::Snapshot => flags | libc::WNOHANG,
    };
    // SAFETY: all zeros is a valid value of this plain structure, and `waitid` writes only to it. `si_pid` reads the
    // field that `waitid` filled in, or the initial zero.
    let pid = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        Errno::result(libc::waitid(libc::P_ALL, 0, &raw mut info, flags))?;
        info.si_pid()
    };
    Ok((pid != 0).then(|| Pid::from_raw(pid)))
}

#[expect(unsafe_code, reason = "nix has no status for a child killed by a real-time signal")]
fn reap(pid: Pid) {
    let mut registry = registry::lock();
    let mut status: c_int = 0;
    // SAFETY: `waitpid` writes only to `status`.
    let reaped = unsafe { libc::waitpid(pid.as_raw(), &raw mut status, libc::WNOHANG) };
    // Otherwise tokio reaped one of its own children first.
    if reaped == pid.as_raw() {
        registry.reaped(pid, ExitStatus::from_raw(status));
    }
}
