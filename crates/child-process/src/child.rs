//! A child process that runs.

use std::{io, process::ExitStatus};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use crate::owned;

/// A child process. When it is dropped before it was waited for, it is killed with its whole group,
/// and reaped in the background.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    /// Taken out only by `drop`.
    inner: Option<tokio::process::Child>,
}

impl Child {
    pub(crate) fn new(inner: tokio::process::Child) -> io::Result<Self> {
        let pid = inner.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("a new child has no pid"))?;
        Ok(Self { pid, inner: Some(inner) })
    }

    /// Its process id, which is its group's too. Another process may have it once this one is waited for.
    #[must_use]
    pub fn id(&self) -> Pid {
        self.pid
    }

    /// The write end of its standard input, the first time, if it is piped.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.inner.as_mut()?.stdin.take()
    }

    /// The read end of its standard output, the first time, if it is piped.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.inner.as_mut()?.stdout.take()
    }

    /// The read end of its standard error, the first time, if it is piped.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.inner.as_mut()?.stderr.take()
    }

    /// Waits until it has ended, and reaps it. May be dropped and called again, also after the end. Its
    /// standard input is closed first, unless it was taken.
    ///
    /// # Errors
    /// If somebody else has reaped it.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let Some(inner) = &mut self.inner else { return Err(Errno::ECHILD.into()) };
        let status = inner.wait().await?;
        owned::lock().remove(&self.pid);
        Ok(status)
    }

    /// Sends `signal` to it alone.
    ///
    /// # Errors
    /// `ESRCH` if it was waited for.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(self.unreaped()?, signal)?)
    }

    /// Sends `signal` to its process group: to it and to those of its descendants that have not moved to
    /// a group of their own.
    ///
    /// # Errors
    /// `ESRCH` if it was waited for: the number of the group may be another's by then.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        Ok(killpg(self.unreaped()?, signal)?)
    }

    /// Until it is reaped nobody else can have its pid.
    fn unreaped(&self) -> Result<Pid, Errno> {
        let inner = self.inner.as_ref().ok_or(Errno::ESRCH)?;
        inner.id().map(|_| self.pid).ok_or(Errno::ESRCH)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.signal_group(Signal::SIGKILL);
        // Tokio kills the child itself once more, and reaps it when it hears of its end. A sweep that
        // reaps it before does no harm: tokio then finds that there is no such child, and forgets it.
        drop(self.inner.take());
        owned::lock().remove(&self.pid);
    }
}
