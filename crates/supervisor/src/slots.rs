//! All slots of a stack: how many there are, and in which order they go.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

use tokio::{sync::watch, task};
use workspace::Workspace;

use crate::{
    Error, Part, SlotId,
    environment::Environment,
    output::Output,
    roster::Roster,
    slot::{FirstStart, Slot},
};

/// What the stack as a whole is doing. Only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StackPhase {
    /// Taking jobs.
    Run,
    /// Services whose jobs ask others for jobs finish theirs.
    DrainCallers,
    /// The other services do.
    DrainWorkers,
    /// The gateway leaves, through which callers ask workers.
    DrainGateway,
    /// Jobs that still run are ended, with a terminal event.
    EndJobs,
    /// Everything is killed.
    Kill,
}

impl StackPhase {
    /// The phase at which this part is not started again.
    pub(crate) fn leaves(part: Part) -> Self {
        match part {
            Part::Gateway => Self::DrainGateway,
            Part::Replica(service) if service.spec().asks.is_empty() => Self::DrainWorkers,
            Part::Replica(_) => Self::DrainCallers,
        }
    }
}

/// What every slot needs.
pub(crate) struct Supplies {
    pub(crate) program: PathBuf,
    pub(crate) workspace: Workspace,
    pub(crate) environment: Arc<Environment>,
    pub(crate) output: Output,
    pub(crate) roster: Arc<Roster>,
}

/// The tasks that keep the parts running.
pub(crate) struct Slots {
    supplies: Supplies,
    tasks: task::JoinSet<Result<(), Error>>,
    ids: HashMap<task::Id, SlotId>,
    handles: BTreeMap<SlotId, Handle>,
    phase: StackPhase,
}

/// A slot whose task has ended.
pub(crate) struct Ended {
    pub(crate) result: Result<(), Error>,
    /// It had been scaled away.
    pub(crate) was_leaving: bool,
}

/// What a slot is told.
struct Handle {
    phase: watch::Sender<StackPhase>,
    /// It was scaled away.
    leaving: bool,
}

impl Handle {
    /// Phases only ever go forward.
    fn tell(&self, next: StackPhase) {
        self.phase.send_if_modified(|phase| {
            let later = next > *phase;
            *phase = next.max(*phase);
            later
        });
    }
}

impl Slots {
    pub(crate) fn new(supplies: Supplies) -> Self {
        Self {
            supplies,
            tasks: task::JoinSet::new(),
            ids: HashMap::new(),
            handles: BTreeMap::new(),
            phase: StackPhase::Run,
        }
    }

    /// Starts slots of a part, or stops those with the highest numbers, until there are `count`.
    pub(crate) fn scale(&mut self, part: Part, count: u16, first_start: FirstStart) {
        let (add, leave) = change(&self.numbers(part), count);
        for number in add {
            self.start(SlotId { part, number }, first_start);
        }
        for number in leave {
            let id = SlotId { part, number };
            if let Some(handle) = self.handles.get_mut(&id) {
                handle.leaving = true;
                // Late enough for any part to leave, and too early for its job to be ended.
                handle.tell(StackPhase::DrainGateway);
                self.supplies.roster.leaves(id);
            }
        }
    }

    /// The numbers of a part's slots, and which of them are leaving.
    fn numbers(&self, part: Part) -> BTreeMap<u16, bool> {
        let of_part = self.handles.iter().filter(|(id, _)| id.part == part);
        of_part.map(|(id, handle)| (id.number, handle.leaving)).collect()
    }

    fn start(&mut self, id: SlotId, first_start: FirstStart) {
        let (phase, phases) = watch::channel(self.phase);
        let supplies = &self.supplies;
        supplies.roster.add(id);
        let slot = Slot {
            id,
            first_start,
            program: supplies.program.clone(),
            workspace: supplies.workspace.clone(),
            environment: Arc::clone(&supplies.environment),
            output: supplies.output.clone(),
            roster: Arc::clone(&supplies.roster),
            phases,
        };
        self.handles.insert(id, Handle { phase, leaving: false });
        self.ids.insert(self.tasks.spawn(slot.run()).id(), id);
    }

    /// Tells all of them what the stack is doing now.
    pub(crate) fn tell(&mut self, phase: StackPhase) {
        self.phase = self.phase.max(phase);
        for handle in self.handles.values() {
            handle.tell(phase);
        }
    }

    /// The next slot to end, which is forgotten; `None` if there are none. Cancel safe.
    pub(crate) async fn ended(&mut self) -> Option<Ended> {
        let (task, result) = match self.tasks.join_next_with_id().await? {
            Ok((task, result)) => (task, result),
            Err(error) => (error.id(), Err(Error::Task)),
        };
        let id = self.ids.remove(&task);
        let handle = id.and_then(|id| {
            self.supplies.roster.remove(id);
            self.handles.remove(&id)
        });
        Some(Ended { result, was_leaving: handle.is_some_and(|handle| handle.leaving) })
    }

    /// Lets every job finish: first those of services that start jobs of others, then those others' jobs. The gateway,
    /// which hands the jobs of the former to the latter, leaves last. Cancel-safe.
    pub(crate) async fn drain(&mut self) {
        for phase in [StackPhase::DrainCallers, StackPhase::DrainWorkers, StackPhase::DrainGateway]
        {
            self.tell(phase);
            while self.handles.keys().any(|id| StackPhase::leaves(id.part) <= phase) {
                if self.ended().await.is_none() {
                    return;
                }
            }
        }
    }

    /// Ends the jobs of all replicas. The gateway goes on for now: callers hear from it how their jobs ended.
    pub(crate) fn end_jobs(&self) {
        for (id, handle) in &self.handles {
            if id.part != Part::Gateway {
                handle.tell(StackPhase::EndJobs);
            }
        }
    }

    /// Waits until no slot is left.
    pub(crate) async fn all_ended(&mut self) {
        while self.ended().await.is_some() {}
    }
}

/// Which slots to start and which to let go, so that there are `count` that stay. `numbers` says of each slot
/// whether it is leaving already: its number is taken until it has left.
fn change(numbers: &BTreeMap<u16, bool>, count: u16) -> (Vec<u16>, Vec<u16>) {
    let staying: Vec<u16> =
        numbers.iter().filter(|(_, leaving)| !**leaving).map(|(number, _)| *number).collect();
    let count = usize::from(count);
    let free = (1..=u16::MAX).filter(|number| !numbers.contains_key(number));
    let add = free.take(count.saturating_sub(staying.len())).collect();
    let surplus = staying.len().saturating_sub(count);
    (add, staying.into_iter().rev().take(surplus).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_and_who_goes() {
        let numbers = |staying: &[u16], leaving: &[u16]| {
            let staying = staying.iter().map(|number| (*number, false));
            staying.chain(leaving.iter().map(|number| (*number, true))).collect()
        };
        for (staying, leaving, count, add, leave) in [
            (&[][..], &[][..], 3, &[1, 2, 3][..], &[][..]),
            (&[1, 2], &[], 2, &[], &[]),
            (&[1, 2, 3], &[], 1, &[], &[3, 2]),
            (&[1, 2, 3], &[], 0, &[], &[3, 2, 1]),
            // Those that leave keep their numbers, and do not count.
            (&[1], &[2, 3], 2, &[4], &[]),
            (&[1, 4], &[2], 1, &[], &[4]),
        ] {
            let changed = change(&numbers(staying, leaving), count);
            assert_eq!(changed, (add.to_vec(), leave.to_vec()), "{staying:?} {leaving:?} {count}");
        }
    }
}
