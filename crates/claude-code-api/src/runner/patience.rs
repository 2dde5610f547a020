//! How long each thing may take.

use std::time::Duration;

/// How long each step of an agent's life may take before the next one is forced. The defaults are for
/// production; tests shorten them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Without a byte of output.
    pub silence: Duration,
    /// From the `result`, or a line after it, until the CLI says that it is idle. The CLI goes on after a
    /// `result` only for background tasks, which are switched off.
    pub idle: Duration,
    /// From closing standard input until the exit. Measured: 0.1 s.
    pub exit: Duration,
    /// From the message `interrupt` until the `result`. Measured: 0.14 s.
    pub interrupt: Duration,
    /// From closing standard input until the exit, in a hurry.
    pub leave: Duration,
    /// From SIGTERM until the exit.
    pub terminate: Duration,
    /// From the exit, or from SIGKILL, until nothing is left and all pipes are at their end.
    pub remains: Duration,
}

impl Default for Patience {
    /// From a request to stop to the end at most 5 s: `interrupt`, `leave`, `terminate` and `remains` in a row.
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(900),
            idle: Duration::from_secs(5),
            exit: Duration::from_secs(10),
            interrupt: Duration::from_millis(1500),
            leave: Duration::from_millis(700),
            terminate: Duration::from_secs(1),
            remains: Duration::from_millis(1500),
        }
    }
}
