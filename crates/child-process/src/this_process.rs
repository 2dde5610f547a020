//! What this process is to others.

use std::io;

/// Makes this process the parent of every process below it whose own parent ends, so that none can
/// leave by forking twice. From then on every child that ends is reaped at once, by a thread of its own.
/// Children do not inherit this.
///
/// A process that does this spawns children with [`Guest`](crate::Guest) alone: the exit status of any other
/// child is lost to whoever waits for it.
///
/// On anything but Linux it does nothing.
///
/// # Errors
/// If the kernel does not know of it (before Linux 3.4), or there are no threads left.
pub fn become_subreaper() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        nix::sys::prctl::set_child_subreaper(true)?;
        crate::reaper::start()?;
        crate::ender::start()?;
    }
    Ok(())
}

/// Hides `/proc/<pid>/environ` and the memory of this process from other processes of the same user,
/// such as an agent that looks for the secrets its own environment does not have.
///
/// The kernel gives this process's files in `/proc` to root thereby, so that, unless it is root, it
/// cannot list its own `/proc/self/fd` any more either. Children begin without this.
///
/// On anything but Linux it does nothing.
///
/// # Errors
/// As documented in `prctl(2)`; no case is known.
pub fn hide_environment() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}
