//! Who is next: the queue of each service, first come first served, and the turns of shared checkouts.
//!
//! A plain value without clocks or sockets, so that its rules can be tested as such.

use std::{collections::HashMap, sync::Arc};

use contract::{DirectoryName, JobId, Service};

/// What the queue needs to know of a job. Ids are in order of time.
pub(crate) trait Queued {
    fn id(&self) -> JobId;
    fn service(&self) -> Service;
    fn parent(&self) -> Option<JobId>;
    fn directory(&self) -> Option<&DirectoryName>;
}

/// The queues of all services.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// In order of their ids.
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
        let at = self.waiting.partition_point(|other| other.id() < ticket.id());
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
        if let Some(directory) = ticket.directory() {
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
        let directory = ticket.directory()?;
        if let Some(holder) = self.turns.get(directory) {
            return (Some(*holder) != ticket.parent() && *holder != ticket.id()).then_some(*holder);
        }
        self.waiting
            .iter()
            .take_while(|other| other.id() < ticket.id())
            .find(|other| other.directory() == Some(directory))
            .map(|other| other.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Job {
        id: JobId,
        service: Service,
        parent: Option<JobId>,
        directory: Option<DirectoryName>,
    }

    impl Queued for Job {
        fn id(&self) -> JobId {
            self.id
        }
        fn service(&self) -> Service {
            self.service
        }
        fn parent(&self) -> Option<JobId> {
            self.parent
        }
        fn directory(&self) -> Option<&DirectoryName> {
            self.directory.as_ref()
        }
    }

    fn job(service: Service, directory: Option<&str>, parent: Option<JobId>) -> Arc<Job> {
        let directory = directory.map(|name| DirectoryName::parse(name).unwrap());
        Arc::new(Job { id: JobId::new(), service, parent, directory })
    }

    #[test]
    fn first_come_first_served_within_a_service() {
        let mut queue = Queue::new();
        let jobs: Vec<_> = (0..3).map(|_| job(Service::Workflow, None, None)).collect();
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
        let first = job(Service::Workflow, Some("app"), None);
        let second = job(Service::Workflow, Some("app"), None);
        let other = job(Service::Workflow, Some("lib"), None);
        let free = job(Service::Workflow, None, None);
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
        let workflow = job(Service::Workflow, Some("app"), None);
        queue.insert(Arc::clone(&workflow));
        let later = job(Service::Pull, Some("app"), None);
        queue.insert(Arc::clone(&later));
        // The first to come is the first in every service.
        assert!(queue.next(Service::Pull, |_| true).is_none());
        queue.next(Service::Workflow, |_| true).unwrap();
        let child = job(Service::Pull, Some("app"), Some(workflow.id));
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
    fn a_job_that_comes_back_has_its_old_place_and_no_turn() {
        let mut queue = Queue::new();
        let first = job(Service::Claude, Some("app"), None);
        let second = job(Service::Claude, Some("app"), None);
        queue.insert(Arc::clone(&first));
        queue.insert(Arc::clone(&second));
        let taken = queue.next(Service::Claude, |_| true).unwrap();
        queue.end_turn(taken.id);
        queue.insert(taken);
        assert_eq!(queue.next(Service::Claude, |_| true).unwrap().id, first.id);
    }
}
