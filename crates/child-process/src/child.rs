//! A running child process.

use std::{io, process::ExitStatus};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use crate::registry;

/// A child process. If it is dropped before it was waited for, its whole process group is killed and it is reaped in
/// the background.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    inner: tokio::process::Child,
    status: Option<ExitStatus>,
}

impl Child {
    /// Registers a child that was just spawned. The caller must have locked the registry before the fork.
    pub(crate) fn register(
        inner: tokio::process::Child,
        registry: &mut registry::Registry,
    ) -> io::Result<Self> {
        let pid = inner.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("a new child has no pid"))?;
        registry.add(pid);
        Ok(Self { pid, inner, status: None })
    }

    /// Its pid, which is also its process group and session. It may be reused once the child was waited for.
    #[must_use]
    pub fn id(&self) -> Pid {
        self.pid
    }

    /// The write end of its standard input, if it is piped and was not taken yet.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.inner.stdin.take()
    }

    /// The read end of its standard output, if it is piped and was not taken yet.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.inner.stdout.take()
    }

    /// The read end of its standard error, if it is piped and was not taken yet.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.inner.stderr.take()
    }

    /// Waits for its exit and reaps it. Cancel-safe, and may be called again after the exit. Closes its standard
    /// input first unless it was taken.
    ///
    /// # Errors
    /// If something outside this crate has reaped it.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let waited = self.inner.wait().await;
        let mut registry = registry::lock();
        // If the reaper was faster, tokio finds no such child.
        let status = registry.status(self.pid).map_or(waited, Ok)?;
        registry.remove(self.pid);
        self.status = Some(status);
        Ok(status)
    }

    /// Sends `signal` to the child only.
    ///
    /// # Errors
    /// `ESRCH` if it was reaped.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.unreaped(|pid| kill(pid, signal))
    }

    /// Sends `signal` to its process group: to the child and to those descendants that have not moved to another
    /// group.
    ///
    /// # Errors
    /// `ESRCH` if it was reaped, because the number may belong to another group by then.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        self.unreaped(|pid| killpg(pid, signal))
    }

    /// Calls `act` only if the child was not reaped, so its pid cannot have been reused: the reaper needs the same
    /// lock.
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
        // An error means that it is already gone. The second signal is for a child that left its group.
        let _ = self.signal_group(Signal::SIGKILL);
        let _ = self.signal(Signal::SIGKILL);
        registry::lock().remove(self.pid);
        // Tokio or the reaper reaps it when it exits.
    }
}
