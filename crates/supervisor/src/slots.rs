//! All slots of a stack: their number, and the order in which they exit.

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

/// The phase of the whole stack. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StackPhase {
    /// Accepting jobs.
    Run,
    /// Services whose jobs start other jobs finish theirs.
    DrainCallers,
    /// The other services finish their jobs.
    DrainWorkers,
    /// The gateway exits. Until then, callers use it to reach workers.
    DrainGateway,
    /// Jobs that are still running are ended with a terminal event.
    EndJobs,
    /// Everything is killed.
    Kill,
}

impl StackPhase {
    /// The phase in which this part is not restarted any more.
    pub(crate) fn leaves(part: Part) -> Self {
        match part {
            Part::Gateway => Self::DrainGateway,
            Part::Replica(service) if service.spec().asks.is_empty() => Self::DrainWorkers,
            Part::Replica(_) => Self::DrainCallers,
        }
    }
}

/// The resources that every slot needs.
pub(crate) struct SlotContext {
    pub(crate) program: PathBuf,
    pub(crate) workspace: Workspace,
    pub(crate) environment: Arc<Environment>,
    pub(crate) output: Output,
    pub(crate) roster: Arc<Roster>,
}

/// The tasks that keep the parts running.
pub(crate) struct Slots {
    context: SlotContext,
    tasks: task::JoinSet<Result<(), Error>>,
    ids: HashMap<task::Id, SlotId>,
    handles: BTreeMap<SlotId, Handle>,
    phase: StackPhase,
}

/// A slot whose task has ended.
pub(crate) struct Ended {
    pub(crate) result: Result<(), Error>,
    /// Whether it was scaled away.
    pub(crate) was_leaving: bool,
}

/// The control of a slot.
struct Handle {
    phase: watch::Sender<StackPhase>,
    /// Whether it was scaled away.
    leaving: bool,
}

impl Handle {
    /// Moves to a later phase. Earlier phases are ignored.
    fn tell(&self, next: StackPhase) {
        self.phase.send_if_modified(|phase| {
            let later = next > *phase;
            *phase = next.max(*phase);
            later
        });
    }
}

impl Slots {
    pub(crate) fn new(context: SlotContext) -> Self {
        Self {
            context,
            tasks: task::JoinSet::new(),
            ids: HashMap::new(),
            handles: BTreeMap::new(),
            phase: StackPhase::Run,
        }
    }

    /// Starts slots of a part, or lets those with the highest numbers exit, to reach this number.
    pub(crate) fn scale(&mut self, part: Part, count: u16, first_start: FirstStart) {
        let (add, leave) = slots_to_change(&self.numbers(part), count);
        for number in add {
            self.start(SlotId { part, number }, first_start);
        }
        for number in leave {
            let id = SlotId { part, number };
            if let Some(handle) = self.handles.get_mut(&id) {
                handle.leaving = true;
                // Past the exit phase of any part, but before jobs are ended.
                handle.tell(StackPhase::DrainGateway);
                self.context.roster.leaves(id);
            }
        }
    }

    /// The numbers of a part's slots, and whether each is leaving.
    fn numbers(&self, part: Part) -> BTreeMap<u16, bool> {
        let of_part = self.handles.iter().filter(|(id, _)| id.part == part);
        of_part.map(|(id, handle)| (id.number, handle.leaving)).collect()
    }

    fn start(&mut self, id: SlotId, first_start: FirstStart) {
        let (phase, phases) = watch::channel(self.phase);
        let context = &self.context;
        context.roster.add(id);
        let slot = Slot {
            id,
            first_start,
            program: context.program.clone(),
            workspace: context.workspace.clone(),
            environment: Arc::clone(&context.environment),
            output: context.output.clone(),
            roster: Arc::clone(&context.roster),
            phases,
        };
        self.handles.insert(id, Handle { phase, leaving: false });
        self.ids.insert(self.tasks.spawn(slot.run()).id(), id);
    }

    /// Moves all slots to this phase.
    pub(crate) fn tell(&mut self, phase: StackPhase) {
        self.phase = self.phase.max(phase);
        for handle in self.handles.values() {
            handle.tell(phase);
        }
    }

    /// The next slot that ends, which is removed; `None` if there are none. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> Option<Ended> {
        let (task, result) = match self.tasks.join_next_with_id().await? {
            Ok((task, result)) => (task, result),
            Err(error) => (error.id(), Err(Error::Task)),
        };
        let id = self.ids.remove(&task);
        let handle = id.and_then(|id| {
            self.context.roster.remove(id);
            self.handles.remove(&id)
        });
        Some(Ended { result, was_leaving: handle.is_some_and(|handle| handle.leaving) })
    }

    /// Lets every job finish: first those of services that start other jobs, then those of the other services. The
    /// gateway, which connects the two, exits last. Cancel-safe.
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

    /// Ends the jobs of all replicas. The gateway stays for now, because it tells callers how their jobs ended.
    pub(crate) fn end_jobs(&self) {
        for (id, handle) in &self.handles {
            if id.part != Part::Gateway {
                handle.tell(StackPhase::EndJobs);
            }
        }
    }

    /// Waits until all slots have ended.
    pub(crate) async fn all_ended(&mut self) {
        while self.ended().await.is_some() {}
    }
}

/// Which slots to start and which to let exit, so that `count` remain. `numbers` says for each slot whether it is
/// leaving: its number is taken until it has exited.
fn slots_to_change(numbers: &BTreeMap<u16, bool>, count: u16) -> (Vec<u16>, Vec<u16>) {
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
    fn slots_to_start_and_to_remove() {
        let numbers = |staying: &[u16], leaving: &[u16]| {
            let staying = staying.iter().map(|number| (*number, false));
            staying.chain(leaving.iter().map(|number| (*number, true))).collect()
        };
        for (staying, leaving, count, add, leave) in [
            (&[][..], &[][..], 3, &[1, 2, 3][..], &[][..]),
            (&[1, 2], &[], 2, &[], &[]),
            (&[1, 2, 3], &[], 1, &[], &[3, 2]),
            (&[1, 2, 3], &[], 0, &[], &[3, 2, 1]),
            // Leaving slots keep their numbers, but do not count.
            (&[1], &[2, 3], 2, &[4], &[]),
            (&[1, 4], &[2], 1, &[], &[4]),
        ] {
            let changed = slots_to_change(&numbers(staying, leaving), count);
            assert_eq!(changed, (add.to_vec(), leave.to_vec()), "{staying:?} {leaving:?} {count}");
        }
    }
}
