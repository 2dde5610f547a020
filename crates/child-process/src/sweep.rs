//! Kills all remaining descendants of this process.
//!
//! Reading `/proc` and killing races against processes that fork. Three facts win the race: a signal to a *group*
//! reaches every member, even one that is being forked; a stopped process cannot respond to another's death by
//! forking; and the children of a process that exits become children of this one, whose list is cheap to read. So the
//! children of this process are killed first, by group. Whatever remains is stopped until two passes over `/proc` in
//! a row find no new process, and then killed while it is stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
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
    JobBounds, cgroup, killer,
    processes::{Life, Process, below, children, processes},
    reaper::{self, has_children},
    registry, reserve,
    survivors::Survivors,
};

/// The time between two passes, unless something is reaped earlier.
const PAUSE: Duration = Duration::from_millis(5);

/// The maximum number of children that an ordinary job leaves. They are killed without reading the whole tree.
const FEW: usize = 32;

/// How often the children are killed before the whole tree is read.
const QUICK_ROUNDS: u32 = 4;

/// How often the children are read after each pass. This is enough to catch a chain in which each process forks the
/// next one and exits, which is too fast for a pass over `/proc`.
const CHASES: u32 = 40;

/// Whether [`kill_adopted`] has left survivors.
static HAS_SURVIVORS: AtomicBool = AtomicBool::new(false);

/// Which processes to kill.
#[derive(Clone, Debug)]
enum Targets {
    /// All descendants of this process except these and their descendants.
    AllBut(Vec<Pid>),
    /// All descendants of this process except its own living children and their descendants.
    Adopted,
}

/// Kills all descendants of this process with SIGKILL, and returns when none is left, not even a zombie. Spares the
/// processes in `except` and their descendants.
///
/// Call [`become_subreaper`](crate::become_subreaper) when the process starts; otherwise, descendants whose parents
/// have exited are not found. Children that have a [`Child`](crate::Child) are killed too, unless excepted;
/// [`wait`](crate::Child::wait) still returns their status.
///
/// Returns the processes still alive at `deadline`. If there is nothing to kill, it returns at once without reading
/// `/proc`.
pub async fn kill_descendants(except: &[Pid], deadline: Instant) -> Survivors {
    let targets = Targets::AllBut(except.to_vec());
    on_killer_thread(targets, deadline).await
}

/// [`kill_descendants`] for a job within `bounds`, which may need fewer steps.
pub async fn end_job(bounds: &Arc<JobBounds>, deadline: Instant) -> Survivors {
    let targets = Targets::AllBut(Vec::new());
    // An ordinary job leaves nothing, so this is free.
    if !has_children() {
        return Survivors::none();
    }
    let (there, bounds) = (targets.clone(), Arc::clone(bounds));
    let work = move || {
        let _released = reserve::release();
        bounds.kill();
        end(&there, deadline)
    };
    match killer::run(work).await {
        Ok(left) => left,
        Err(_) => end(&targets, deadline),
    }
}

/// Kills what exited children left behind: all descendants of this process that do not belong to a living
/// [`Child`](crate::Child). Returns those still alive at `deadline`, and retries them every second.
pub async fn kill_adopted(deadline: Instant) -> Survivors {
    on_killer_thread(Targets::Adopted, deadline).await
}

/// [`kill_descendants`] for code that cannot await: in `drop`, and on a second signal. Blocks until no descendant is
/// left, but at most for `limit`.
pub fn kill_descendants_now(except: &[Pid], limit: Duration) -> Survivors {
    end(&Targets::AllBut(except.to_vec()), Instant::now() + limit)
}

/// Runs on a separate thread, or on the caller's if there is none.
async fn on_killer_thread(targets: Targets, deadline: Instant) -> Survivors {
    let there = targets.clone();
    match killer::run(move || end(&there, deadline)).await {
        Ok(left) => left,
        Err(_) => end(&targets, deadline),
    }
}

/// Whether there are survivors for [`end_survivors`] to retry.
pub(crate) fn has_survivors() -> bool {
    HAS_SURVIVORS.load(Ordering::Relaxed)
}

/// Retries the survivors of [`kill_adopted`].
pub(crate) fn end_survivors() {
    // It stores whether there are any left.
    let _ = end(&Targets::Adopted, Instant::now() + PAUSE);
}

fn end(targets: &Targets, deadline: Instant) -> Survivors {
    let left = {
        // Without a child there is nothing to list, and most jobs leave none.
        let _released = has_children().then(reserve::release);
        end_by(targets, deadline)
    };
    if matches!(targets, Targets::Adopted) {
        HAS_SURVIVORS.store(!left.is_empty(), Ordering::Relaxed);
    }
    left
}

fn end_by(targets: &Targets, deadline: Instant) -> Survivors {
    if matches!(targets, Targets::Adopted) {
        cgroup::end_orphaned();
    }
    // A chain that no pass catches must not delay killing the rest.
    let begun = Instant::now();
    let kill_anyway_at = begun + deadline.saturating_duration_since(begun) / 2;
    for _ in 0..QUICK_ROUNDS {
        if !has_children() {
            return Survivors::none();
        }
        match signal_children(targets, Signal::SIGKILL).map(|found| found.len()) {
            // A list that changes while it is read may miss a child, so read it twice.
            Some(0)
                if signal_children(targets, Signal::SIGKILL).is_some_and(|it| it.is_empty()) =>
            {
                return Survivors::none();
            }
            Some(..=FEW) => registry::wait_for_reaping(PAUSE),
            // Too many for an ordinary job, or unknown: each death could make room for another fork.
            Some(_) | None => break,
        }
    }
    let mut stopped = BTreeSet::new();
    let mut quiet = 0;
    loop {
        let (snapshot, now) = (Snapshot::now(targets), Instant::now());
        let snapshot = match snapshot {
            Ok(snapshot) => snapshot,
            // Without a child, this process has no descendants.
            Err(_) if !has_children() => return Survivors::none(),
            Err(error) if now >= deadline => {
                return Survivors { pids: Vec::new(), unknown: Some(error) };
            }
            Err(_) => {
                registry::wait_for_reaping(PAUSE);
                continue;
            }
        };
        if snapshot.is_over() {
            return Survivors::none();
        }
        if now >= deadline {
            let pids = snapshot.living.iter().map(|process| process.pid).collect();
            return Survivors { pids, unknown: None };
        }
        let new: Vec<Process> = snapshot
            .living
            .iter()
            .filter(|process| stopped.insert((process.pid, process.started)))
            .copied()
            .collect();
        quiet = if new.is_empty() { quiet + 1 } else { 0 };
        if quiet >= 2 || now >= kill_anyway_at {
            snapshot.signal(&snapshot.living, Signal::SIGKILL);
            registry::wait_for_reaping(PAUSE);
        } else {
            snapshot.signal(&new, Signal::SIGSTOP);
        }
        if !new.is_empty() {
            chase(targets);
        }
    }
}

/// Stops children that come and go faster than a pass over `/proc`. Stopped processes are not killed yet, because
/// each death would make room for another fork.
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

/// Signals those children of this process that are targets, and their groups if these contain only targets. Returns
/// them, including zombies; `None` if the kernel has no list of children, or it cannot be read.
fn signal_children(targets: &Targets, signal: Signal) -> Option<Vec<Pid>> {
    // The lock excludes a child that is in the list but not registered yet.
    let registry = registry::lock();
    let own = registry.unreaped();
    let is_target = |pid: &Pid| match targets {
        Targets::AllBut(except) => !except.contains(pid),
        Targets::Adopted => !own.contains(pid),
    };
    let found: Vec<Pid> = children()?.into_iter().filter(is_target).collect();
    let session = getsid(None).ok();
    // A session other than this process's was created by a descendant, so its groups contain only descendants. They
    // may still contain processes to be spared.
    let may_signal_groups = matches!(targets, Targets::AllBut(except) if except.is_empty());
    let mut groups = BTreeSet::new();
    for &pid in &found {
        // An error means that it is gone, or belongs to another user and survives.
        let _ = kill(pid, signal);
        if may_signal_groups
            && getsid(Some(pid)).is_ok_and(|its| Some(its) != session)
            && let Ok(group) = getpgid(Some(pid))
            && groups.insert(group)
        {
            let _ = killpg(group, signal);
        }
    }
    Some(found)
}

/// A snapshot of all processes.
struct Snapshot {
    living: Vec<Process>,
    /// Zombies that this process is about to reap.
    dying: usize,
    /// The groups whose living members are all targets.
    groups: BTreeSet<Pid>,
}

impl Snapshot {
    fn now(targets: &Targets) -> io::Result<Self> {
        let this = getpid();
        let all = processes()?;
        // After the listing, so every child in it is registered.
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
        let all_members = members(&all);
        let targets = members(&living).into_iter();
        let groups = targets.filter(|(group, count)| all_members.get(group) == Some(count));
        Ok(Self { dying, groups: groups.map(|(group, _)| group).collect(), living })
    }

    fn is_over(&self) -> bool {
        self.living.is_empty() && self.dying == 0
    }

    /// Signals these processes, by group if that is safe.
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

/// The number of living processes in each group.
fn members(processes: &[Process]) -> BTreeMap<Pid, usize> {
    let mut members = BTreeMap::new();
    for process in processes.iter().filter(|process| process.life == Life::Alive) {
        *members.entry(process.group).or_default() += 1;
    }
    members
}
