//! Time limits of a run.

use std::time::Duration;

/// How long each step of a run may take before the next one is forced. The defaults are for production; tests use
/// shorter ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimits {
    /// Without any output.
    pub silence: Duration,
    /// From the `result`, or a later line, until the CLI reports that it is idle. After a `result`, the CLI only
    /// continues for background tasks, which are disabled.
    pub idle: Duration,
    /// From closing standard input until the exit. Measured: 0.1 s.
    pub exit: Duration,
    /// From the `interrupt` message until the `result`. Measured: 0.14 s.
    pub interrupt: Duration,
    /// From closing standard input until the exit, when stopping.
    pub leave: Duration,
    /// From SIGTERM until the exit.
    pub terminate: Duration,
    /// From the exit or SIGKILL until all descendants are gone and all pipes are closed.
    pub cleanup: Duration,
}

impl Default for TimeLimits {
    /// A stop takes at most 5 s: the sum of `interrupt`, `leave`, `terminate` and `cleanup`.
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(900),
            idle: Duration::from_secs(5),
            exit: Duration::from_secs(10),
            interrupt: Duration::from_millis(1500),
            leave: Duration::from_millis(700),
            terminate: Duration::from_secs(1),
            cleanup: Duration::from_millis(1500),
        }
    }
}
