//! Properties of this process that matter to others.

use std::io;

/// Makes this process the new parent of every orphaned descendant, so that none can escape by forking twice. From
/// then on, a thread reaps every child as soon as it exits, and three file descriptors are kept, so that descendants can
/// be found when no others are left. Children do not inherit this.
///
/// Such a process must spawn children only with [`Guest`](crate::Guest): the exit status of any other child is lost.
///
/// Does nothing on systems other than Linux.
///
/// # Errors
/// If the kernel does not support it (before Linux 3.4), or no threads are left.
pub fn become_subreaper() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        nix::sys::prctl::set_child_subreaper(true)?;
        crate::reaper::start()?;
        crate::killer::start()?;
        crate::reserve::fill();
    }
    Ok(())
}

/// Hides this process's `/proc/<pid>/environ` and memory from other processes of the same user, such as an agent that
/// looks for secrets.
///
/// The kernel gives this process's files in `/proc` to root. So, unless it runs as root, it can no longer list its
/// own `/proc/self/fd` either. Children do not inherit this.
///
/// Does nothing on systems other than Linux.
///
/// # Errors
/// As documented in `prctl(2)`; no case is known.
pub fn hide_environment() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}
