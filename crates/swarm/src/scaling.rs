//! Whether a service has as many replicas as were asked for.

use std::collections::BTreeSet;

use bollard::models::{Task, TaskState};

use crate::task::{is_present, is_wanted, slot, state};

/// The wait for the replicas of one service. They come and go with their jobs, so all of them may never run at the
/// same moment: each slot has to be seen running once.
#[derive(Clone, Debug)]
pub struct Scaling {
    pub(crate) service: String,
    replicas: usize,
    seen: BTreeSet<u64>,
}

/// How far a service has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaleProgress {
    /// How many replicas have been running.
    pub running: usize,
    /// How many there are beyond those that were asked for.
    pub surplus: usize,
    /// How many finish a job before they leave.
    pub leaving: usize,
    /// Why one of them does not start, if the engine says so.
    pub stuck: Option<String>,
}

impl Scaling {
    pub(crate) fn new(service: String, replicas: u16) -> Self {
        Self { service, replicas: replicas.into(), seen: BTreeSet::new() }
    }

    /// Takes note of the tasks of the service.
    pub(crate) fn look(&mut self, tasks: &[&Task]) -> ScaleProgress {
        let runs = |task: &Task| state(task) == Some(TaskState::RUNNING);
        let wanted = || tasks.iter().filter(|task| is_wanted(task));
        let slots: BTreeSet<u64> = wanted().map(|task| slot(task)).collect();
        self.seen.extend(wanted().filter(|task| runs(task)).map(|task| slot(task)));
        let leaving =
            tasks.iter().filter(|task| is_present(task) && !slots.contains(&slot(task))).count();
        let mut waiting = wanted().filter(|task| !runs(task));
        let stuck = waiting.find_map(|task| task.status.as_ref()?.err.as_deref());
        ScaleProgress {
            running: self.seen.intersection(&slots).count(),
            surplus: slots.len().saturating_sub(self.replicas),
            leaving,
            stuck: stuck.map(|why| transcript::one_line(why, 160)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::TaskStatus;

    use super::*;

    fn task(number: i64, state: TaskState, desired: TaskState) -> Task {
        Task {
            slot: Some(number),
            desired_state: Some(desired),
            status: Some(TaskStatus { state: Some(state), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn slots_are_seen_one_after_the_other() {
        use TaskState::{COMPLETE, READY, RUNNING, SHUTDOWN, STARTING};
        let mut scaling = Scaling::new("w".into(), 2);
        let mut look = |tasks: &[Task]| {
            let progress = scaling.look(&tasks.iter().collect::<Vec<_>>());
            [progress.running, progress.surplus, progress.leaving]
        };
        assert_eq!(look(&[]), [0, 0, 0]);
        assert_eq!(look(&[task(1, RUNNING, RUNNING), task(2, STARTING, RUNNING)]), [1, 0, 0]);
        // The first has done its job meanwhile, and its successor is about to start.
        let second =
            [task(1, COMPLETE, SHUTDOWN), task(1, READY, RUNNING), task(2, RUNNING, RUNNING)];
        assert_eq!(look(&second), [2, 0, 0]);
        let three =
            |last| [task(1, RUNNING, RUNNING), task(2, RUNNING, RUNNING), task(3, RUNNING, last)];
        assert_eq!(look(&three(SHUTDOWN)), [2, 0, 1]);
        assert_eq!(look(&three(RUNNING)), [3, 1, 0], "it has not been told yet");
    }

    #[test]
    fn why_a_replica_does_not_come() {
        let mut waiting = task(1, TaskState::PENDING, TaskState::RUNNING);
        let status = waiting.status.as_mut().unwrap();
        status.err = Some("no suitable node\n(insufficient resources on 1 node)".into());
        let stuck = Scaling::new("p".into(), 1).look(&[&waiting]).stuck;
        assert_eq!(stuck.unwrap(), "no suitable node (insufficient resources on 1 node)");
    }
}
