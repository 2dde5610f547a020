//! The thread that reaps.
//!
//! A subreaper becomes the parent of whatever its descendants leave behind. One thread waits for the next child
//! to end, whoever it is, and reaps it at once: zombies hold pids, and a job that forks without end would leave
//! none for anybody. It sleeps in the kernel, so it costs nothing while nothing ends, and needs no signal.

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

/// How long to wait after an error of `waitid` that no manual page explains.
const PAUSE: Duration = Duration::from_millis(100);

static STARTED: OnceLock<()> = OnceLock::new();

/// Starts the thread, the first time.
pub(crate) fn start() -> io::Result<()> {
    if STARTED.get().is_none() {
        // Of two that start at the same moment each reaps, and neither harms the other. The owner of both is the
        // process: they are never joined.
        thread::Builder::new().name("reaper".into()).spawn(run)?;
        let _ = STARTED.set(());
    }
    Ok(())
}

/// Whether zombies of this process are reaped by the thread.
pub(crate) fn is_running() -> bool {
    STARTED.get().is_some()
}

fn run() {
    loop {
        let spawned = registry::lock().spawned();
        match ended(Wait::Block) {
            Ok(Some(pid)) => reap(pid),
            Ok(None) | Err(Errno::EINTR) => {}
            // Without a child there is no descendant either, and nothing to adopt.
            Err(Errno::ECHILD) => registry::wait_for_spawn(spawned),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Whether this process has any child, dead or alive. Without one it has no descendant.
pub(crate) fn has_children() -> bool {
    ended(Wait::Look) != Err(Errno::ECHILD)
}

enum Wait {
    Block,
    Look,
}

/// A child that has ended and was not reaped; it stays as it is.
#[expect(unsafe_code, reason = "nix loses the pid of a child that a real-time signal killed")]
fn ended(wait: Wait) -> Result<Option<Pid>, Errno> {
    let flags = libc::WEXITED | libc::WNOWAIT;
    let flags = match wait {
        Wait::Block => flags,
        Wait::Look => flags | libc::WNOHANG,
    };
    // SAFETY: all zeros is a value of this plain structure, and `waitid` writes to it alone. `si_pid` reads the
    // field that `waitid` fills in, or the zero from before.
    let pid = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        Errno::result(libc::waitid(libc::P_ALL, 0, &raw mut info, flags))?;
        info.si_pid()
    };
    Ok((pid != 0).then(|| Pid::from_raw(pid)))
}

#[expect(unsafe_code, reason = "nix has no status for a child that a real-time signal killed")]
fn reap(pid: Pid) {
    let mut registry = registry::lock();
    let mut status: c_int = 0;
    // SAFETY: `waitpid` writes to `status` alone.
    let reaped = unsafe { libc::waitpid(pid.as_raw(), &raw mut status, libc::WNOHANG) };
    // Otherwise tokio was faster, for a child of its own.
    if reaped == pid.as_raw() {
        registry.reaped(pid, ExitStatus::from_raw(status));
    }
}
