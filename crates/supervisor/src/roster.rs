//! The state of each slot.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use contract::{ReplicaId, Service, Timestamp};
use workspace::{Registry, Workspace};

use crate::{
    Part, SlotId,
    control::{FailureView, SlotState, SlotView},
};

const HOUR: i64 = 3_600_000;
/// How many starts of a slot are remembered. A slot that starts more often per hour is broken.
const STARTS: usize = 20_000;

/// All slots of a stack.
#[derive(Debug)]
pub(crate) struct Roster {
    workspace: Workspace,
    slots: Mutex<BTreeMap<SlotId, Record>>,
}

/// The state of one slot.
#[derive(Debug, Default)]
struct Record {
    process: Option<Process>,
    /// When the last process was started.
    started: Option<Timestamp>,
    /// When the last process ended.
    ended: Option<Timestamp>,
    /// All starts except the first.
    restarts: VecDeque<Timestamp>,
    /// When it started to leave.
    leaving: Option<Timestamp>,
    failure: Option<FailureView>,
    /// Whether a replica in it was idle, or has run a job.
    proven: bool,
}

#[derive(Clone, Copy, Debug)]
struct Process {
    pid: i32,
    replica: ReplicaId,
}

impl Roster {
    pub(crate) fn new(workspace: &Workspace) -> Self {
        Self { workspace: workspace.clone(), slots: Mutex::default() }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<SlotId, Record>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, slot: SlotId, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.slots().get_mut(&slot) {
            change(record);
        }
    }

    /// Adds a slot.
    pub(crate) fn add(&self, slot: SlotId) {
        self.slots().insert(slot, Record::default());
    }

    /// Records that a process was started in it.
    pub(crate) fn started(&self, slot: SlotId, pid: i32, replica: ReplicaId) {
        self.change(slot, |record| {
            let now = Timestamp::now();
            if record.started.replace(now).is_some() {
                if record.restarts.len() == STARTS {
                    record.restarts.pop_front();
                }
                record.restarts.push_back(now);
            }
            record.process = Some(Process { pid, replica });
        });
    }

    /// Records that its process has exited, with `failure` if that was unexpected.
    pub(crate) fn ended(&self, slot: SlotId, failure: Option<String>) {
        self.change(slot, |record| {
            (record.process, record.ended) = (None, Some(Timestamp::now()));
            match failure {
                Some(what) => {
                    record.failure = Some(FailureView { at: Timestamp::now(), what });
                }
                None => record.proven = true,
            }
        });
    }

    /// Records that it will exit when idle.
    pub(crate) fn leaves(&self, slot: SlotId) {
        self.change(slot, |record| record.leaving = Some(Timestamp::now()));
    }

    /// Removes a slot.
    pub(crate) fn remove(&self, slot: SlotId) {
        self.slots().remove(&slot);
    }

    /// How many replicas of a service are known to work: each was idle, or has run a job.
    pub(crate) fn proven(&self, service: Service) -> usize {
        let idle = Registry::new(&self.workspace, service);
        let mut slots = self.slots();
        let of_service = slots.iter_mut().filter(|(slot, _)| slot.part == Part::Replica(service));
        let mut proven = 0;
        for (_, record) in of_service {
            record.proven |= record
                .process
                // After an error, it is just not known to be idle.
                .is_some_and(|it| idle.contains(it.replica).is_ok_and(|is_idle| is_idle));
            proven += usize::from(record.proven);
        }
        proven
    }

    /// The state of all slots. Blocks briefly.
    pub(crate) fn view(&self) -> Vec<SlotView> {
        let hour_ago = Timestamp::now().as_millisecond() - HOUR;
        // When each idle replica became idle. After an error, it is just not known to be idle.
        let idle: HashMap<ReplicaId, Timestamp> = Service::ALL
            .into_iter()
            .filter_map(|service| Registry::new(&self.workspace, service).idle().ok())
            .flatten()
            .map(|replica| (replica.id, replica.ready))
            .collect();
        let view = |(slot, record): (&SlotId, &Record)| {
            let ready = record.process.and_then(|it| idle.get(&it.replica).copied());
            let (state, since) = match (record.process, ready) {
                (None, _) => (SlotState::Down, record.ended),
                (Some(_), Some(ready)) => (SlotState::Idle, Some(ready)),
                (Some(_), None) => (SlotState::Up, record.started),
            };
            let recent = |at: &&Timestamp| at.as_millisecond() > hour_ago;
            SlotView {
                part: slot.part.name().to_owned(),
                number: slot.number,
                state,
                since: record.leaving.or(since),
                pid: record.process.map(|it| it.pid),
                replica: record.process.map(|it| it.replica),
                started: record.started,
                restarts: u64::try_from(record.restarts.iter().filter(recent).count())
                    .unwrap_or(u64::MAX),
                leaving: record.leaving.is_some(),
                failure: record.failure.clone(),
            }
        };
        self.slots().iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use workspace::Registration;

    use super::*;

    const SLOT: SlotId = SlotId { part: Part::Replica(Service::Pull), number: 1 };

    #[test]
    fn each_state_has_its_own_age() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(directory.path()).unwrap();
        let roster = Roster::new(&workspace);
        let only = || roster.view().pop().unwrap();
        roster.add(SLOT);
        assert_eq!((only().state, only().since), (SlotState::Down, None));
        let id = ReplicaId::new();
        roster.started(SLOT, 1, id);
        assert_eq!((only().state, only().since), (SlotState::Up, only().started));
        assert_eq!(roster.proven(Service::Pull), 0);
        let address = "127.0.0.1:4000".parse().unwrap();
        let mut entry =
            Registration::announce(&workspace, Service::Pull, id, address, None).unwrap();
        let ready = Registry::new(&workspace, Service::Pull).idle().unwrap()[0].ready;
        assert_eq!((only().state, only().since), (SlotState::Idle, Some(ready)));
        assert_eq!(roster.proven(Service::Pull), 1);
        entry.mark_busy();
        assert_eq!(only().state, SlotState::Up);
        assert_eq!(roster.proven(Service::Pull), 1, "it was idle, and may be busy now");
        roster.leaves(SLOT);
        assert!(only().leaving && only().since >= only().started);
        roster.ended(SLOT, Some("signal: 9".into()));
        assert_eq!(only().failure.unwrap().what, "signal: 9");
        roster.remove(SLOT);
        assert!(roster.view().is_empty());
    }

    #[test]
    fn a_replica_that_ran_a_job_works_and_one_that_failed_may_not() {
        let directory = tempfile::tempdir().unwrap();
        let roster = Roster::new(&Workspace::open(directory.path()).unwrap());
        roster.add(SLOT);
        roster.started(SLOT, 1, ReplicaId::new());
        roster.ended(SLOT, Some("exit status: 70".into()));
        assert_eq!(roster.proven(Service::Pull), 0);
        roster.started(SLOT, 2, ReplicaId::new());
        roster.ended(SLOT, None);
        assert_eq!(roster.proven(Service::Pull), 1);
        assert_eq!(roster.view()[0].restarts, 1);
    }
}
