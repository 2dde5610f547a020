//! Ending whatever is left below this process.
//!
//! Every child of this process that was not spawned through [`Guest`](crate::Guest) is taken for an
//! adopted one, and reaped here.

use std::{
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::{Pid, getpid},
};

use crate::{
    descendants::{Life, below, processes},
    owned,
};

/// Between two looks. Nothing announces the end of a process that is not one's own child.
const PAUSE: Duration = Duration::from_millis(5);

/// What a look at the processes below is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Kill,
    /// Kill, but spare the living children and everything below them.
    KillAdopted,
    Reap,
}

/// Kills every process below this one with SIGKILL, and reaps the adopted ones, until none is left.
/// The processes of `except` are spared, with everything below them.
///
/// Call [`become_subreaper`](crate::become_subreaper) at the start of the process, or those whose
/// parents have ended are not found. Children that a [`Child`](crate::Child) stands for are killed too,
/// unless excepted; whoever has the `Child` still waits for it.
///
/// Returns those that still live at `deadline`: in an uninterruptible system call, or run by another
/// user.
#[must_use = "some may have survived"]
pub async fn kill_descendants(except: &[Pid], deadline: Instant) -> Vec<Pid> {
    loop {
        let left = look(Purpose::Kill, except);
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Kills what ended children have left behind: every process below this one that is not below a living
/// [`Child`](crate::Child). Returns those that still live at `deadline`.
#[must_use = "some may have survived"]
pub async fn kill_adopted(deadline: Instant) -> Vec<Pid> {
    loop {
        let left = look(Purpose::KillAdopted, &[]);
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// [`kill_descendants`] for where nothing can be awaited: in `drop`, and on a second signal. It blocks
/// until none is left, but not longer than `limit`.
#[must_use = "some may have survived"]
pub fn kill_descendants_now(except: &[Pid], limit: Duration) -> Vec<Pid> {
    let deadline = Instant::now() + limit;
    loop {
        let left = look(Purpose::Kill, except);
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        thread::sleep(PAUSE);
    }
}

/// Reaps the adopted children that have ended. A subreaper calls it from time to time while its guests
/// run, or the zombies they leave use up pids.
pub fn reap_adopted() {
    look(Purpose::Reap, &[]);
}

/// Looks at every process below once. Returns those that live.
fn look(purpose: Purpose, except: &[Pid]) -> Vec<Pid> {
    let this = getpid();
    let owned = owned::lock();
    // Under the lock, so that a child spawned meanwhile is not taken for an orphan.
    let children: Vec<Pid> = owned.iter().copied().collect();
    let except = if purpose == Purpose::KillAdopted { &children } else { except };
    let mut left = Vec::new();
    for process in below(&processes(), this, except) {
        match process.life {
            Life::Zombie if process.parent == this && !owned.contains(&process.pid) => {
                // An error means that it has been reaped.
                let _ = waitpid(process.pid, Some(WaitPidFlag::WNOHANG));
            }
            // Tokio's, or its parent's as long as that lives.
            Life::Zombie => {}
            Life::Alive => {
                if purpose != Purpose::Reap {
                    // An error means that it is gone, or another user's and thus a survivor.
                    let _ = kill(process.pid, Signal::SIGKILL);
                }
                left.push(process.pid);
            }
        }
    }
    left
}
