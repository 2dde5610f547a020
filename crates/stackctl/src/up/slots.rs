//! All slots of a stack: how many there are, and in which order they go.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use tokio::{sync::watch, task::JoinSet};
use workspace::Workspace;

use super::{
    environment::Environment,
    output::Output,
    roster::Roster,
    slot::{Origin, Phase, Slot},
};
use crate::cli::Part;

/// What every slot needs.
pub(super) struct Supplies {
    pub(super) program: PathBuf,
    pub(super) workspace: Workspace,
    pub(super) environment: Arc<Environment>,
    pub(super) output: Output,
    pub(super) roster: Arc<Roster>,
}

/// The tasks that keep the parts running, in the order in which they are stopped.
pub(super) struct Slots {
    supplies: Supplies,
    workflows: JoinSet<SlotResult>,
    workers: JoinSet<SlotResult>,
    gateway: JoinSet<SlotResult>,
    /// By part's name and number.
    told: BTreeMap<(&'static str, u16), Told>,
    /// What the stack as a whole is doing.
    phase: Phase,
}

type SlotResult = anyhow::Result<(Part, u16)>;
type Ended = Result<SlotResult, tokio::task::JoinError>;

/// What a slot is told.
struct Told {
    phase: watch::Sender<Phase>,
    /// It was scaled away.
    leaving: bool,
}

impl Told {
    /// Phases only ever go forward.
    fn tell(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = next > *phase;
            *phase = next.max(*phase);
            later
        });
    }
}

impl Slots {
    pub(super) fn new(supplies: Supplies) -> Self {
        Self {
            supplies,
            workflows: JoinSet::new(),
            workers: JoinSet::new(),
            gateway: JoinSet::new(),
            told: BTreeMap::new(),
            phase: Phase::Run,
        }
    }

    /// Starts slots of a part, or lets those of the highest numbers go, until there are so many.
    pub(super) fn scale(&mut self, part: Part, count: u16, origin: Origin) {
        let (add, leave) = change(&self.numbers(part), count);
        for number in add {
            self.start(part, number, origin);
        }
        for number in leave {
            if let Some(told) = self.told.get_mut(&(part.name(), number)) {
                told.leaving = true;
                // Past the turn of any part, and short of being killed.
                told.tell(Phase::LeaveGateway);
                self.supplies.roster.leaves(part, number);
            }
        }
    }

    /// The numbers of a part's slots, and which of them are leaving.
    fn numbers(&self, part: Part) -> BTreeMap<u16, bool> {
        let of_part = self.told.iter().filter(|((name, _), _)| *name == part.name());
        of_part.map(|((_, number), told)| (*number, told.leaving)).collect()
    }

    fn start(&mut self, part: Part, number: u16, origin: Origin) {
        let (phase, phases) = watch::channel(self.phase);
        let supplies = &self.supplies;
        supplies.roster.add(part, number);
        let slot = Slot {
            part,
            number,
            origin,
            program: supplies.program.clone(),
            workspace: supplies.workspace.clone(),
            environment: Arc::clone(&supplies.environment),
            output: supplies.output.clone(),
            roster: Arc::clone(&supplies.roster),
            phases,
        };
        self.told.insert((part.name(), number), Told { phase, leaving: false });
        match part {
            Part::Gateway => &mut self.gateway,
            Part::WorkflowApi => &mut self.workflows,
            Part::GithubPullApi | Part::ClaudeCodeApi => &mut self.workers,
        }
        .spawn(slot.run());
    }

    /// Whether a slot that has ended was one that should; it is forgotten then.
    pub(super) fn has_left(&mut self, part: Part, number: u16) -> bool {
        let place = (part.name(), number);
        let left = self.told.get(&place).is_some_and(|told| told.leaving);
        if left {
            self.told.remove(&place);
            self.supplies.roster.remove(part, number);
        }
        left
    }

    /// Tells all of them what the stack is doing now.
    pub(super) fn tell(&mut self, phase: Phase) {
        self.phase = phase;
        for told in self.told.values() {
            told.tell(phase);
        }
    }

    pub(super) async fn ended(&mut self) -> Option<Ended> {
        tokio::select! {
            Some(ended) = self.workflows.join_next() => Some(ended),
            Some(ended) = self.workers.join_next() => Some(ended),
            Some(ended) = self.gateway.join_next() => Some(ended),
            else => None,
        }
    }

    /// Lets every job finish: first the workflows, which need the others; then those; then the gateway,
    /// which hands a workflow's jobs to them.
    pub(super) async fn drain(&mut self) {
        self.tell(Phase::LeaveWorkflows);
        while self.workflows.join_next().await.is_some() {}
        self.tell(Phase::LeaveWorkers);
        while self.workers.join_next().await.is_some() {}
        self.tell(Phase::LeaveGateway);
        while self.gateway.join_next().await.is_some() {}
    }

    pub(super) async fn all_ended(&mut self) {
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
