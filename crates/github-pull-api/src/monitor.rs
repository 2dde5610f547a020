//! What every step of a pull has at hand: the way to its caller, and whether it is to stop.

use oneshot::{Settling, Stop};

use crate::{
    failure::{Failure, Result},
    report::Reporter,
};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Monitor {
    pub(crate) reporter: Reporter,
    pub(crate) stop: Stop,
}

impl Monitor {
    /// Whether the pull is to stop: it was asked to, or nobody reads what it says any more.
    pub(crate) fn should_stop(&self) -> bool {
        self.stop.reason().is_some() || self.stop.is_abandoned() || self.reporter.is_abandoned()
    }

    /// # Errors
    /// If the pull is to stop.
    pub(crate) fn check_stop(&self) -> Result<()> {
        if self.should_stop() { Err(Failure::Stopped) } else { Ok(()) }
    }

    /// Begins a part of the pull that is either finished or undone, but not abandoned.
    ///
    /// # Errors
    /// If the pull is to stop.
    pub(crate) fn settle(&self) -> Result<Settling> {
        self.check_stop()?;
        self.stop.settle().ok_or(Failure::Stopped)
    }

    /// Sends `text` to the caller.
    pub(crate) fn message(&self, text: impl Into<String>) {
        self.reporter.message(text);
    }
}
