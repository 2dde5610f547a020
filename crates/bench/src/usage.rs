//! What processes use, as `/proc` reports it.
//!
//! When a process is reaped, the kernel adds its processor time and its calls to those of its parent's ended children,
//! so the figures of `up` contain those of every replica that has exited, exactly and without sampling.

use child_process::Pid;
use procfs::process::{Process, Stat};

use crate::{Result, statistics::count};

/// Processor time in microseconds, and calls to read or write.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) micros: f64,
    /// `None` if the process does not let this user see it.
    pub(crate) calls: Option<f64>,
}

impl Usage {
    /// Of a process, without its children.
    pub(crate) fn of(pid: Pid) -> Result<Self> {
        Self::read(pid, |stat| stat.utime + stat.stime)
    }

    /// Of a process and its children that have ended.
    pub(crate) fn with_ended_children(pid: Pid) -> Result<Self> {
        Self::read(pid, |stat| {
            let ended = u64::try_from(stat.cutime + stat.cstime).unwrap_or_default();
            stat.utime + stat.stime + ended
        })
    }

    fn read(pid: Pid, ticks: impl Fn(&Stat) -> u64) -> Result<Self> {
        let process = Process::new(pid.as_raw())?;
        let ticks = ticks(&process.stat()?);
        let micros = count(ticks) / count(procfs::ticks_per_second()) * 1e6;
        let calls = process.io().ok().map(|io| count(io.syscr + io.syscw));
        Ok(Self { micros, calls })
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        self.with(other, |one, other| one + other)
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        self.with(other, |one, other| one - other)
    }

    fn with(self, other: Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            micros: combine(self.micros, other.micros),
            calls: self.calls.zip(other.calls).map(|(one, other)| combine(one, other)),
        }
    }
}

/// The memory of a process in bytes: its own pages, and its share of those that it shares with others. `None` if it
/// does not let this user see that.
pub(crate) fn proportional_memory(pid: Pid) -> Option<f64> {
    let rollup = Process::new(pid.as_raw()).ok()?.smaps_rollup().ok()?;
    let pss = rollup.memory_map_rollup.iter().find_map(|map| map.extension.map.get("Pss").copied());
    pss.map(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_process() {
        let pid = Pid::this();
        let usage = Usage::of(pid).unwrap();
        assert!(usage.calls.unwrap() > 0.0);
        assert!(Usage::with_ended_children(pid).unwrap().micros >= usage.micros);
        assert!(proportional_memory(pid).unwrap() > 1e5);
    }

    #[test]
    fn arithmetic() {
        let usage = |micros, calls| Usage { micros, calls };
        assert_eq!(usage(3.0, Some(4.0)).minus(usage(1.0, Some(1.0))), usage(2.0, Some(3.0)));
        assert_eq!(usage(3.0, Some(4.0)).plus(usage(1.0, None)), usage(4.0, None));
    }
}
