//! A child process that runs.

use std::{io, process::ExitStatus};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use crate::registry;

/// A child process. When it is dropped before it was waited for, it is killed with its whole group,
/// and reaped in the background.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    inner: tokio::process::Child,
    status: Option<ExitStatus>,
}

impl Child {
    /// Registers a child that was just spawned. The caller holds the registry's lock since before the fork.
    pub(crate) fn register(
        inner: tokio::process::Child,
        registry: &mut registry::Registry,
    ) -> io::Result<Self> {
        let pid = inner.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("a new child has no pid"))?;
        registry.add(pid);
        Ok(Self { pid, inner, status: None })
    }

    /// Its process id, which is its group's and its session's too. Another process may have it once this one
    /// is waited for.
    #[must_use]
    pub fn id(&self) -> Pid {
        self.pid
    }

    /// The write end of its standard input, the first time, if it is piped.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.inner.stdin.take()
    }

    /// The read end of its standard output, the first time, if it is piped.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.inner.stdout.take()
    }

    /// The read end of its standard error, the first time, if it is piped.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.inner.stderr.take()
    }

    /// Waits until it has ended, and reaps it. May be dropped and called again, also after the end. Its
    /// standard input is closed first, unless it was taken.
    ///
    /// # Errors
    /// If something outside this crate has reaped it.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let waited = self.inner.wait().await;
        let mut registry = registry::lock();
        // Where the reaper was faster, tokio finds no such child.
        let status = registry.status(self.pid).map_or(waited, Ok)?;
        registry.remove(self.pid);
        self.status = Some(status);
        Ok(status)
    }

    /// Sends `signal` to it alone.
    ///
    /// # Errors
    /// `ESRCH` if it was reaped.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.unreaped(|pid| kill(pid, signal))
    }

    /// Sends `signal` to its process group: to it and to those of its descendants that have not moved to
    /// a group of their own.
    ///
    /// # Errors
    /// `ESRCH` if it was reaped: the number of the group may be another's by then.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        self.unreaped(|pid| killpg(pid, signal))
    }

    /// Until it is reaped nobody else can have its pid, and the reaper needs the lock for that.
    fn unreaped(&self, act: impl FnOnce(Pid) -> nix::Result<()>) -> io::Result<()> {
        let registry = registry::lock();
        let is_reaped = self.inner.id().is_none() || registry.status(self.pid).is_some();
        if is_reaped || !registry.contains(self.pid) {
            return Err(Errno::ESRCH.into());
        }
        Ok(act(self.pid)?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // An error means that it is gone already. The second is for one that has left its group.
        let _ = self.signal_group(Signal::SIGKILL);
        let _ = self.signal(Signal::SIGKILL);
        registry::lock().remove(self.pid);
        // Tokio reaps it when it hears of its end, unless the reaper is faster.
    }
}
