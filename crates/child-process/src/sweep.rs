//! Ending whatever is left below this process.
//!
//! A walk over `/proc` and a kill race against processes that fork. Three things win that race: a signal to a
//! *group* reaches every member, one that is just being forked too; a process that is stopped cannot answer a
//! death with a fork; and a process that ends hands its children to this one, at whose list one look is cheap.
//! So the end begins with the children of this process, by group. What is still there then is stopped first, until
//! two walks in a row meet nobody new, and killed while it stands still.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, getpgid, getpid, getsid},
};

use crate::{
    JobBounds, cgroup, ender,
    processes::{Life, Process, below, children, processes},
    reaper::{self, has_children},
    registry,
};

/// Between two looks, unless something is reaped before.
const PAUSE: Duration = Duration::from_millis(5);

/// How many children an ordinary job leaves at most. They are killed without a look at the whole tree.
const FEW: usize = 32;

/// How often the children are killed before the whole tree is walked.
const QUICK_ROUNDS: u32 = 4;

/// How often the children are looked at beside one walk: enough to meet a chain of processes, each of which forks
/// the next one and ends, which no walk is fast enough for.
const CHASES: u32 = 40;

/// Whether [`kill_adopted`] has left somebody.
static HAS_SURVIVORS: AtomicBool = AtomicBool::new(false);

/// Whom to end.
#[derive(Clone, Debug)]
enum Targets {
    /// Everything below this process but these and what is below them.
    AllBut(Vec<Pid>),
    /// Everything below this process but its own living children and what is below them.
    Adopted,
}

/// Kills every process below this one with SIGKILL, and returns when none is left, zombies included. The
/// processes of `except` are spared, with everything below them.
///
/// Call [`become_subreaper`](crate::become_subreaper) at the start of the process, or those whose
/// parents have ended are not found. Children that a [`Child`](crate::Child) stands for are killed too,
/// unless excepted; [`wait`](crate::Child::wait) still gives their status.
///
/// Returns those that still live at `deadline`: in an uninterruptible system call, or run by another
/// user. Where nothing is left to end it returns at once and looks at no other process.
#[must_use = "some may have survived"]
pub async fn kill_descendants(except: &[Pid], deadline: Instant) -> Vec<Pid> {
    let targets = Targets::AllBut(except.to_vec());
    off_thread(targets, deadline).await
}

/// [`kill_descendants`] for a job within `bounds`, which can end it in fewer steps.
#[must_use = "some may have survived"]
pub async fn end_job(bounds: &Arc<JobBounds>, deadline: Instant) -> Vec<Pid> {
    let targets = Targets::AllBut(Vec::new());
    // An ordinary job leaves nothing, and costs nothing here.
    if !has_children() {
        return Vec::new();
    }
    let (there, bounds) = (targets.clone(), Arc::clone(bounds));
    let work = move || {
        bounds.kill();
        end(&there, deadline)
    };
    match ender::run(work).await {
        Ok(left) => left,
        Err(_) => end(&targets, deadline),
    }
}

/// Kills what ended children have left behind: every process below this one that is not below a living
/// [`Child`](crate::Child). Returns those that still live at `deadline`; they are tried again every second.
#[must_use = "some may have survived"]
pub async fn kill_adopted(deadline: Instant) -> Vec<Pid> {
    off_thread(Targets::Adopted, deadline).await
}

/// [`kill_descendants`] for where nothing can be awaited: in `drop`, and on a second signal. It blocks
/// until none is left, but not longer than `limit`.
#[must_use = "some may have survived"]
pub fn kill_descendants_now(except: &[Pid], limit: Duration) -> Vec<Pid> {
    end(&Targets::AllBut(except.to_vec()), Instant::now() + limit)
}

/// Not on the caller's thread, unless there is no other to be had.
async fn off_thread(targets: Targets, deadline: Instant) -> Vec<Pid> {
    let there = targets.clone();
    match ender::run(move || end(&there, deadline)).await {
        Ok(left) => left,
        Err(_) => end(&targets, deadline),
    }
}

/// Whether somebody is left whom [`end_survivors`] can try again.
pub(crate) fn has_survivors() -> bool {
    HAS_SURVIVORS.load(Ordering::Relaxed)
}

/// Tries to end whomever [`kill_adopted`] has left.
pub(crate) fn end_survivors() {
    end(&Targets::Adopted, Instant::now() + PAUSE);
}

fn end(targets: &Targets, deadline: Instant) -> Vec<Pid> {
    let left = end_by(targets, deadline);
    if matches!(targets, Targets::Adopted) {
        HAS_SURVIVORS.store(!left.is_empty(), Ordering::Relaxed);
    }
    left
}

fn end_by(targets: &Targets, deadline: Instant) -> Vec<Pid> {
    if matches!(targets, Targets::Adopted) {
        cgroup::end_orphaned();
    }
    // A chain that no walk meets must not hold off the kill of what was met.
    let begun = Instant::now();
    let enough = begun + deadline.saturating_duration_since(begun) / 2;
    for _ in 0..QUICK_ROUNDS {
        if !has_children() {
            return Vec::new();
        }
        match signal_children(targets, Signal::SIGKILL).map(|found| found.len()) {
            // A list that is read while it changes may miss one, so it is read twice.
            Some(0)
                if signal_children(targets, Signal::SIGKILL).is_some_and(|it| it.is_empty()) =>
            {
                return Vec::new();
            }
            Some(..=FEW) => registry::wait_for_reaping(PAUSE),
            // Too many for an ordinary job, or unknown: each death could make room for another fork.
            Some(_) | None => break,
        }
    }
    let mut stopped = BTreeSet::new();
    let mut quiet = 0;
    loop {
        let look = Look::now(targets);
        if look.is_over() {
            return Vec::new();
        }
        let now = Instant::now();
        if now >= deadline {
            return look.living.iter().map(|process| process.pid).collect();
        }
        let new: Vec<Process> = look
            .living
            .iter()
            .filter(|process| stopped.insert((process.pid, process.started)))
            .copied()
            .collect();
        quiet = if new.is_empty() { quiet + 1 } else { 0 };
        if quiet >= 2 || now >= enough {
            look.signal(&look.living, Signal::SIGKILL);
            registry::wait_for_reaping(PAUSE);
        } else {
            look.signal(&new, Signal::SIGSTOP);
        }
        if !new.is_empty() {
            chase(targets);
        }
    }
}

/// Stops children that come and go faster than a walk meets them. Those that stand still are not killed yet: each
/// death would make room for another fork.
fn chase(targets: &Targets) {
    let mut met = BTreeSet::new();
    for _ in 0..CHASES {
        let Some(children) = signal_children(targets, Signal::SIGSTOP) else { return };
        let before = met.len();
        met.extend(children);
        if met.len() == before {
            return;
        }
    }
}

/// Signals the children of this process that are among the targets, with their groups where a group cannot
/// hold anybody else. Returns them, zombies included; `None` where there is no such list.
fn signal_children(targets: &Targets, signal: Signal) -> Option<Vec<Pid>> {
    // A child that is being spawned is in the list before it is registered, unless this waits.
    let registry = registry::lock();
    let own = registry.unreaped();
    let is_target = |pid: &Pid| match targets {
        Targets::AllBut(except) => !except.contains(pid),
        Targets::Adopted => !own.contains(pid),
    };
    let found: Vec<Pid> = children()?.into_iter().filter(is_target).collect();
    let session = getsid(None).ok();
    // A session that is not this process's was begun below it, so nobody else can be in its groups. But those
    // who are to be spared can.
    let is_free = matches!(targets, Targets::AllBut(except) if except.is_empty());
    let mut groups = BTreeSet::new();
    for &pid in &found {
        // An error means that it is gone, or another user's and thus a survivor.
        let _ = kill(pid, signal);
        if is_free
            && getsid(Some(pid)).is_ok_and(|its| Some(its) != session)
            && let Ok(group) = getpgid(Some(pid))
            && groups.insert(group)
        {
            let _ = killpg(group, signal);
        }
    }
    Some(found)
}

/// One look at every process.
struct Look {
    living: Vec<Process>,
    /// Zombies that this process is about to reap.
    dying: usize,
    /// The groups that hold living targets and nobody else.
    groups: BTreeSet<Pid>,
}

impl Look {
    fn now(targets: &Targets) -> Self {
        let this = getpid();
        let all = processes();
        // After the look: whoever was being spawned meanwhile is registered by now, and no orphan.
        let own = registry::lock().unreaped();
        let except = match targets {
            Targets::AllBut(except) => except,
            Targets::Adopted => &own,
        };
        let found = below(&all, this, except);
        let is_dying = |it: &&Process| it.parent == this && it.life == Life::Zombie;
        let dying = if reaper::is_running() { found.iter().filter(is_dying).count() } else { 0 };
        let living: Vec<Process> =
            found.into_iter().filter(|process| process.life == Life::Alive).collect();
        let everybody = members(&all);
        let targets = members(&living).into_iter();
        let groups = targets.filter(|(group, count)| everybody.get(group) == Some(count));
        Self { dying, groups: groups.map(|(group, _)| group).collect(), living }
    }

    fn is_over(&self) -> bool {
        self.living.is_empty() && self.dying == 0
    }

    /// Signals these processes of this look, by group where that is safe.
    fn signal(&self, processes: &[Process], signal: Signal) {
        let groups: BTreeSet<Pid> = processes.iter().map(|process| process.group).collect();
        for group in groups.intersection(&self.groups) {
            let _ = killpg(*group, signal);
        }
        for process in processes {
            let _ = kill(process.pid, signal);
        }
    }
}

/// How many of these live in each group.
fn members(processes: &[Process]) -> BTreeMap<Pid, usize> {
    let mut members = BTreeMap::new();
    for process in processes.iter().filter(|process| process.life == Life::Alive) {
        *members.entry(process.group).or_default() += 1;
    }
    members
}
