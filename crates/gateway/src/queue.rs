//! Who is next: the queue of each service, first come first served, and the turns of shared checkouts.
//!
//! A plain value without clocks or sockets, so that its rules can be tested as such.

use std::{collections::HashMap, sync::Arc};

use contract::{DirectoryName, JobId, Service, Timestamp};

/// What the queue needs to know of a job.
pub(crate) trait Queued {
    fn id(&self) -> JobId;
    /// When it was named: the order of the queue. Ids are no order, because callers may choose them.
    fn created(&self) -> Timestamp;
    fn service(&self) -> Service;
    fn directory(&self) -> Option<&DirectoryName>;
    /// Whether the workflow that asks for it has the turn on `directory`.
    fn in_parents_turn(&self) -> bool;
}

/// The queues of all services.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// In the order in which they were named.
    waiting: Vec<Arc<T>>,
    /// Whose turn it is on each shared checkout.
    turns: HashMap<DirectoryName, JobId>,
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

    /// Notes that the job works in its shared checkout, unless its workflow has the turn already.
    pub(crate) fn take_turn(&mut self, ticket: &T) {
        if let Some(directory) = ticket.directory().filter(|_| !ticket.in_parents_turn()) {
            self.turns.entry(directory.clone()).or_insert_with(|| ticket.id());
        }
    }

    /// Ends a job's turn, if it has one.
    pub(crate) fn end_turn(&mut self, id: JobId) {
        self.turns.retain(|_, holder| *holder != id);
    }

    /// The job that this one has to wait for: the one that works in its shared checkout, or one that came
    /// before it and wants the same.
    pub(crate) fn blocked_by(&self, ticket: &T) -> Option<JobId> {
        // Its workflow holds the turn, perhaps outside this gateway's books.
        if ticket.in_parents_turn() {
            return None;
        }
        let directory = ticket.directory()?;
        if let Some(holder) = self.turns.get(directory) {
            return (*holder != ticket.id()).then_some(*holder);
        }
        self.waiting
            .iter()
            .take_while(|other| place(&***other) < place(ticket))
            .find(|other| other.directory() == Some(directory))
            .map(|other| other.id())
    }
}

/// Where a job stands among others; of two that were named in the same moment the smaller id comes first.
fn place(ticket: &impl Queued) -> (Timestamp, JobId) {
    (ticket.created(), ticket.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Job {
        id: JobId,
        created: Timestamp,
        service: Service,
        in_parents_turn: bool,
        directory: Option<DirectoryName>,
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
        fn in_parents_turn(&self) -> bool {
            self.in_parents_turn
        }
        fn directory(&self) -> Option<&DirectoryName> {
            self.directory.as_ref()
        }
    }

    fn job(service: Service, directory: Option<&str>, in_parents_turn: bool) -> Arc<Job> {
        let directory = directory.map(|name| DirectoryName::parse(name).unwrap());
        Arc::new(Job {
            id: JobId::new(),
            created: Timestamp::now(),
            service,
            in_parents_turn,
            directory,
        })
    }

    #[test]
    fn first_come_first_served_within_a_service() {
        let mut queue = Queue::new();
        let jobs: Vec<_> = (0..3).map(|_| job(Service::Workflow, None, false)).collect();
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
        let first = job(Service::Workflow, Some("app"), false);
        let second = job(Service::Workflow, Some("app"), false);
        let other = job(Service::Workflow, Some("lib"), false);
        let free = job(Service::Workflow, None, false);
        for job in [&first, &second, &other, &free] {
            queue.insert(Arc::clone(job));
        }
        assert_eq!(queue.next(Service::Workflow, |_| true).unwrap().id, first.id);
        assert_eq!(queue.next(Service::Workflow, |_| true).unwrap().id, other.id);
        assert_eq!(queue.next(Service::Workflow, |_| true).unwrap().id, free.id);
        assert!(queue.next(Service::Workflow, |_| true).is_none());
        assert_eq!(queue.blocked_by(&second), Some(first.id));
        queue.end_turn(first.id);
        assert_eq!(queue.next(Service::Workflow, |_| true).unwrap().id, second.id);
    }

    #[test]
    fn the_jobs_of_the_workflow_that_has_the_turn_pass() {
        let mut queue = Queue::new();
        let workflow = job(Service::Workflow, Some("app"), false);
        queue.insert(Arc::clone(&workflow));
        let later = job(Service::Pull, Some("app"), false);
        queue.insert(Arc::clone(&later));
        // The first to come is the first in every service.
        assert!(queue.next(Service::Pull, |_| true).is_none());
        queue.next(Service::Workflow, |_| true).unwrap();
        let child = job(Service::Pull, Some("app"), true);
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
        let first = job(Service::Pull, None, false);
        queue.insert(Arc::clone(&first));
        let id = "00000000-0000-7000-8000-000000000001".parse().unwrap();
        let created = Timestamp::from_millisecond(first.created.as_millisecond() + 1);
        let service = Service::Pull;
        queue.insert(Arc::new(Job {
            id,
            created,
            service,
            in_parents_turn: false,
            directory: None,
        }));
        assert_eq!(queue.next(Service::Pull, |_| true).unwrap().id, first.id);
    }

    /// A workflow may have its turn from another gateway; a job of this one that waits for the same checkout
    /// must not hold up the workflow's own.
    #[test]
    fn a_job_in_its_parents_turn_never_waits_for_one() {
        let mut queue = Queue::new();
        let waiting = job(Service::Claude, Some("app"), false);
        queue.insert(Arc::clone(&waiting));
        queue.take_turn(&*waiting);
        let child = job(Service::Claude, Some("app"), true);
        queue.insert(Arc::clone(&child));
        assert_eq!(queue.blocked_by(&child), None);
    }

    #[test]
    fn a_job_that_comes_back_has_its_old_place_and_no_turn() {
        let mut queue = Queue::new();
        let first = job(Service::Claude, Some("app"), false);
        let second = job(Service::Claude, Some("app"), false);
        queue.insert(Arc::clone(&first));
        queue.insert(Arc::clone(&second));
        let taken = queue.next(Service::Claude, |_| true).unwrap();
        queue.end_turn(taken.id);
        queue.insert(taken);
        assert_eq!(queue.next(Service::Claude, |_| true).unwrap().id, first.id);
    }
}
