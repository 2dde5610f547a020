//! Signals, which go to other threads than git's.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Keeps signals away from this thread until it is dropped.
///
/// libgit2 takes an interrupted `poll` for a broken connection, and the kernel hands a signal to any
/// thread that takes it: without this, the `SIGTERM` that begins a replica's grace would end its job.
#[derive(Debug)]
pub(super) struct Quiet {
    before: Option<SigSet>,
}

impl Quiet {
    pub(super) fn begin() -> Self {
        let mut away = SigSet::all();
        // Those a thread brings upon itself, which nobody else can take.
        for fault in
            [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT]
        {
            away.remove(fault);
        }
        Self { before: away.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok() }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = before.thread_set_mask();
        }
    }
}
