//! Who is next: the queue of each service, first come first served, and the turns of shared checkouts and
//! sessions.
//!
//! A plain value without clocks or sockets, so that its rules can be tested as such.

use std::{collections::HashMap, sync::Arc};

use contract::{JobId, Service, Timestamp};
use workspace::Turn;

/// What the queue needs to know of a job.
pub(crate) trait Queued {
    fn id(&self) -> JobId;
    /// When it was named: the order of the queue. Ids are no order, because callers may choose them.
    fn created(&self) -> Timestamp;
    fn service(&self) -> Service;
    /// What it has to wait for its turn on; not what the workflow that asks for it has already.
    fn turns(&self) -> &[Turn];
}

/// The queues of all services.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// In the order in which they were named.
    waiting: Vec<Arc<T>>,
    /// Whose turn it is.
    turns: HashMap<Turn, JobId>,
}

impl<T: Queued> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { waiting: Vec::new(), turns: HashMap::new() }
    }

    /// Puts a job in its place: a job that comes back after a failed dispatch is not the last.
    pub(crate) fn insert(&mut self, ticket: Arc<T>) {
        let at = self.waiting.partition_point(|other| place(&**other) < place(&*ticket));
        self.waiting.insert(at, ticket);
    }

    /// Takes a job out, if it still waits.
    pub(crate) fn remove(&mut self, id: JobId) -> Option<Arc<T>> {
        let at = self.waiting.iter().position(|ticket| ticket.id() == id)?;
        Some(self.waiting.remove(at))
    }

    pub(crate) fn get(&self, id: JobId) -> Option<&Arc<T>> {
        self.waiting.iter().find(|ticket| ticket.id() == id)
    }

    /// The jobs of one service, in their order.
    pub(crate) fn of(&self, service: Service) -> impl Iterator<Item = &Arc<T>> {
        self.waiting.iter().filter(move |ticket| ticket.service() == service)
    }

    /// Takes the next job of `service` that need not wait for anything but a replica, and gives it its turn;
    /// only one that `may` go.
    pub(crate) fn next(&mut self, service: Service, may: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let at = self.waiting.iter().position(|ticket| {
            ticket.service() == service && may(ticket) && self.blocked_by(ticket).is_none()
        })?;
        let ticket = self.waiting.remove(at);
        self.take_turn(&*ticket);
        Some(ticket)
    }

    /// Notes that the job has its turns now. Those that another has stay with it.
    pub(crate) fn take_turn(&mut self, ticket: &T) {
        for turn in ticket.turns() {
            self.turns.entry(turn.clone()).or_insert_with(|| ticket.id());
        }
    }

    /// Ends a job's turns, if it has any.
    pub(crate) fn end_turn(&mut self, id: JobId) {
        self.turns.retain(|_, holder| *holder != id);
    }

    /// The job that this one has to wait for, and where: one that has the turn, or one that came before it and
    /// wants the same. All turns are taken at once, so none is held by a job that waits for another.
    pub(crate) fn blocked_by<'a>(&self, ticket: &'a T) -> Option<(JobId, &'a Turn)> {
        ticket.turns().iter().find_map(|turn| {
            if let Some(holder) = self.turns.get(turn) {
                return (*holder != ticket.id()).then_some((*holder, turn));
            }
            self.waiting
                .iter()
                .take_while(|other| place(&***other) < place(ticket))
                .find(|other| other.turns().contains(turn))
                .map(|other| (other.id(), turn))
        })
    }
}

/// Where a job stands among others; of two that were named in the same moment the smaller id comes first.
fn place(ticket: &impl Queued) -> (Timestamp, JobId) {
    (ticket.created(), ticket.id())
}

#[cfg(test)]
mod tests {
    use contract::{DirectoryName, SessionId};

    use super::*;

    #[derive(Debug)]
    struct Job {
        id: JobId,
        created: Timestamp,
        service: Service,
        turns: Vec<Turn>,
    }

    impl Queued for Job {
        fn id(&self) -> JobId {
            self.id
        }
        fn service(&self) -> Service {
            self.service
        }
        fn created(&self) -> Timestamp {
            self.created
        }
        fn turns(&self) -> &[Turn] {
            &self.turns
        }
    }

    fn directory(name: &str) -> Turn {
        Turn::Directory(DirectoryName::parse(name).unwrap())
    }

    fn job(service: Service, turns: &[Turn]) -> Arc<Job> {
        Arc::new(Job {
            id: JobId::new(),
            created: Timestamp::now(),
            service,
            turns: turns.to_vec(),
        })
    }

    #[test]
    fn first_come_first_served_within_a_service() {
        let mut queue = Queue::new();
        let jobs: Vec<_> = (0..3).map(|_| job(Service::Workflow, &[])).collect();
        for job in [&jobs[2], &jobs[0], &jobs[1]] {
            queue.insert(Arc::clone(job));
        }
        assert!(queue.next(Service::Pull, |_| true).is_none());
        for job in &jobs {
            assert_eq!(queue.next(Service::Workflow, |_| true).unwrap().id, job.id);
        }
        assert!(queue.next(Service::Workflow, |_| true).is_none());
    }

    #[test]
    fn jobs_on_one_directory_take_turns_and_others_pass() {
        let mut queue = Queue::new();
        let first = job(Service::Workflow, &[directory("app")]);
        let second = job(Service::Workflow, &[directory("app")]);
        let other = job(Service::Workflow, &[directory("lib")]);
        let free = job(Service::Workflow, &[]);
        for job in [&first, &second, &other, &free] {
            queue.insert(Arc::clone(job));
        }
        assert_eq!(queue.next(Service::Workflow, |_| true).unwrap().id, first.id);
        assert_eq!(queue.next(Service::Workflow, |_| true).unwrap().id, other.id);
        assert_eq!(queue.next(Service::Workflow, |_| true).unwrap().id, free.id);
        assert!(queue.next(Service::Workflow, |_| true).is_none());
        assert_eq!(queue.blocked_by(&second), Some((first.id, &directory("app"))));
        queue.end_turn(first.id);
        assert_eq!(queue.next(Service::Workflow, |_| true).unwrap().id, second.id);
    }

    #[test]
    fn the_jobs_of_the_workflow_that_has_the_turn_pass() {
        let mut queue = Queue::new();
        let workflow = job(Service::Workflow, &[directory("app")]);
        queue.insert(Arc::clone(&workflow));
        let later = job(Service::Pull, &[directory("app")]);
        queue.insert(Arc::clone(&later));
        // The first to come is the first in every service.
        assert!(queue.next(Service::Pull, |_| true).is_none());
        queue.next(Service::Workflow, |_| true).unwrap();
        let child = job(Service::Pull, &[]);
        queue.insert(Arc::clone(&child));
        assert_eq!(queue.next(Service::Pull, |_| true).unwrap().id, child.id);
        assert!(queue.next(Service::Pull, |_| true).is_none());
        queue.end_turn(child.id);
        assert!(
            queue.next(Service::Pull, |_| true).is_none(),
            "the child's end is not the workflow's"
        );
        queue.end_turn(workflow.id);
        assert_eq!(queue.next(Service::Pull, |_| true).unwrap().id, later.id);
    }

    #[test]
    fn an_id_that_a_caller_chose_does_not_overtake() {
        let mut queue = Queue::new();
        let first = job(Service::Pull, &[]);
        queue.insert(Arc::clone(&first));
        let id = "00000000-0000-7000-8000-000000000001".parse().unwrap();
        let created = Timestamp::from_millisecond(first.created.as_millisecond() + 1);
        let service = Service::Pull;
        queue.insert(Arc::new(Job { id, created, service, turns: Vec::new() }));
        assert_eq!(queue.next(Service::Pull, |_| true).unwrap().id, first.id);
    }

    #[test]
    fn a_job_that_needs_two_turns_holds_neither_while_it_waits_for_one() {
        let session = Turn::Session(SessionId::new());
        let mut queue = Queue::new();
        let in_session = job(Service::Claude, std::slice::from_ref(&session));
        let both = job(Service::Claude, &[session.clone(), directory("app")]);
        let later = job(Service::Claude, &[directory("app")]);
        let free = job(Service::Claude, &[directory("lib")]);
        for job in [&in_session, &both, &later, &free] {
            queue.insert(Arc::clone(job));
        }
        assert_eq!(queue.next(Service::Claude, |_| true).unwrap().id, in_session.id);
        assert_eq!(queue.blocked_by(&both), Some((in_session.id, &session)));
        assert_eq!(queue.blocked_by(&later), Some((both.id, &directory("app"))), "it came first");
        assert_eq!(queue.next(Service::Claude, |_| true).unwrap().id, free.id);
        queue.end_turn(in_session.id);
        assert_eq!(queue.next(Service::Claude, |_| true).unwrap().id, both.id);
        assert!(queue.next(Service::Claude, |_| true).is_none());
        queue.end_turn(both.id);
        assert_eq!(queue.next(Service::Claude, |_| true).unwrap().id, later.id);
    }

    #[test]
    fn a_job_that_comes_back_has_its_old_place_and_no_turn() {
        let mut queue = Queue::new();
        let first = job(Service::Claude, &[directory("app")]);
        let second = job(Service::Claude, &[directory("app")]);
        queue.insert(Arc::clone(&first));
        queue.insert(Arc::clone(&second));
        let taken = queue.next(Service::Claude, |_| true).unwrap();
        queue.end_turn(taken.id);
        queue.insert(taken);
        assert_eq!(queue.next(Service::Claude, |_| true).unwrap().id, first.id);
    }
}
