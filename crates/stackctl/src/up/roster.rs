//! What each slot is doing, for whoever asks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use contract::{ReplicaId, Timestamp};
use workspace::{Replicas, Workspace};

use super::control::{FailureView, SlotState, SlotView};
use crate::cli::Part;

const HOUR: i64 = 3_600_000;
/// How many starts of a slot are remembered: one that starts more often an hour is broken.
const STARTS: usize = 20_000;

/// A place in the stack.
pub(crate) type Place = (u8, u16);

/// All slots of a stack.
#[derive(Debug)]
pub(crate) struct Roster {
    workspace: Workspace,
    seats: Mutex<BTreeMap<Place, Seat>>,
}

#[derive(Debug)]
struct Seat {
    part: Part,
    pid: Option<i32>,
    replica: Option<ReplicaId>,
    started: Option<Timestamp>,
    /// All but the first.
    restarts: VecDeque<Timestamp>,
    leaving: bool,
    failure: Option<FailureView>,
}

impl Roster {
    pub(crate) fn new(workspace: &Workspace) -> Self {
        Self { workspace: workspace.clone(), seats: Mutex::default() }
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<Place, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is such a slot from now on.
    pub(crate) fn add(&self, part: Part, number: u16) {
        let seat = Seat {
            part,
            pid: None,
            replica: None,
            started: None,
            restarts: VecDeque::new(),
            leaving: false,
            failure: None,
        };
        self.seats().insert(place(part, number), seat);
    }

    /// A process runs in it.
    pub(crate) fn started(&self, part: Part, number: u16, pid: i32, replica: ReplicaId) {
        if let Some(seat) = self.seats().get_mut(&place(part, number)) {
            let now = Timestamp::now();
            if seat.started.replace(now).is_some() {
                if seat.restarts.len() == STARTS {
                    seat.restarts.pop_front();
                }
                seat.restarts.push_back(now);
            }
            (seat.pid, seat.replica) = (Some(pid), Some(replica));
        }
    }

    /// It has ended; with `failure` if it should not have, or not so.
    pub(crate) fn ended(&self, part: Part, number: u16, failure: Option<String>) {
        if let Some(seat) = self.seats().get_mut(&place(part, number)) {
            (seat.pid, seat.replica) = (None, None);
            if let Some(what) = failure {
                seat.failure = Some(FailureView { at: Timestamp::now(), what });
            }
        }
    }

    /// It goes when it is idle.
    pub(crate) fn leaves(&self, part: Part, number: u16) {
        if let Some(seat) = self.seats().get_mut(&place(part, number)) {
            seat.leaving = true;
        }
    }

    /// There is no such slot any more.
    pub(crate) fn remove(&self, part: Part, number: u16) {
        self.seats().remove(&place(part, number));
    }

    /// How all of them are.
    pub(crate) fn view(&self) -> Vec<SlotView> {
        let hour_ago = Timestamp::now().as_millisecond() - HOUR;
        let view = |(place, seat): (&Place, &Seat)| {
            let idle = || {
                let replicas = Replicas::new(&self.workspace, seat.part.service()?);
                Some(replicas.contains(seat.replica?))
            };
            let state = match seat.pid {
                None => SlotState::Down,
                Some(_) if idle() == Some(true) => SlotState::Idle,
                Some(_) => SlotState::Up,
            };
            let recent = |at: &&Timestamp| at.as_millisecond() > hour_ago;
            SlotView {
                part: seat.part.name().to_owned(),
                number: place.1,
                state,
                pid: seat.pid,
                replica: seat.replica,
                started: seat.started,
                restarts: u64::try_from(seat.restarts.iter().filter(recent).count())
                    .unwrap_or(u64::MAX),
                leaving: seat.leaving,
                failure: seat.failure.clone(),
            }
        };
        self.seats().iter().map(view).collect()
    }
}

fn place(part: Part, number: u16) -> Place {
    let order = match part {
        Part::Gateway => 0,
        Part::WorkflowApi => 1,
        Part::GithubPullApi => 2,
        Part::ClaudeCodeApi => 3,
    };
    (order, number)
}
