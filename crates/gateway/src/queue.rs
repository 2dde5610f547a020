//! Which job is next: the queue of each service, and the turns of shared checkouts and sessions.
//!
//! Callers take turns at the replicas of a service, whoever's last job began longest ago first, so one caller with many jobs
//! does not hold up the others. Of one caller, the first job to come is the first to be served. What a caller's workflows
//! ask for counts as its own.
//!
//! A plain value without clocks or sockets, so that its rules can be tested alone.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use contract::{CallerName, JobId, PerService, Service, Timestamp};
use workspace::Turn;

/// What the queue needs to know about a job.
pub(crate) trait QueueItem {
    fn id(&self) -> JobId;
    /// When it was created: the order of the queue. IDs have no order, because callers may choose them.
    fn created(&self) -> Timestamp;
    fn service(&self) -> Service;
    /// The turns that it has to wait for; not those that the workflow that asks for it has already.
    fn turns(&self) -> &[Turn];
    /// Whose it is.
    fn owner(&self) -> &CallerName;
}

/// The queues of all services.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// In the order in which they were created.
    waiting: Vec<Arc<T>>,
    /// Which job has each turn.
    turns: HashMap<Turn, JobId>,
    /// At which dispatch each caller was last served, while jobs of the service wait.
    served: PerService<HashMap<CallerName, u64>>,
    dispatches: u64,
}

impl<T: QueueItem> Queue<T> {
    pub(crate) fn new() -> Self {
        let served = PerService::default();
        Self { waiting: Vec::new(), turns: HashMap::new(), served, dispatches: 0 }
    }

    /// Puts a job in its place. After a failed dispatch, that is its old one.
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

    /// The jobs of one service, in their order, each with what it has to wait for besides a replica: a job that has a turn
    /// that it needs, or one that came before it and wants that turn too. All turns are taken at once, so no job holds
    /// one while it waits for another.
    pub(crate) fn with_blockers(
        &self,
        service: Service,
    ) -> impl Iterator<Item = (&Arc<T>, Option<(JobId, &Turn)>)> {
        let mut wanted: HashMap<&Turn, JobId> = HashMap::new();
        self.waiting
            .iter()
            .map(move |ticket| {
                let id = ticket.id();
                let blocker = ticket.turns().iter().find_map(|turn| {
                    let holder = self.turns.get(turn).or_else(|| wanted.get(turn)).copied();
                    holder.filter(|holder| *holder != id).map(|holder| (holder, turn))
                });
                for turn in ticket.turns() {
                    wanted.entry(turn).or_insert(id);
                }
                (ticket, blocker)
            })
            .filter(move |(ticket, _)| ticket.service() == service)
    }

    /// The jobs of `service` that wait for nothing but a replica, in their order. Each could start at the same time.
    pub(crate) fn ready(&self, service: Service) -> impl Iterator<Item = &Arc<T>> {
        self.with_blockers(service)
            .filter(|(_, blocker)| blocker.is_none())
            .map(|(ticket, _)| ticket)
    }

    /// These jobs of `service`, in the order in which they are served. They come in the order of the queue.
    pub(crate) fn fairly<'a, I>(
        &self,
        service: Service,
        jobs: impl Iterator<Item = I>,
        job: impl Fn(&I) -> &'a T,
    ) -> Vec<I>
    where
        T: 'a,
    {
        let mut lanes: Vec<(&CallerName, VecDeque<I>)> = Vec::new();
        let mut lane_of: HashMap<&CallerName, usize> = HashMap::new();
        for item in jobs {
            let owner = job(&item).owner();
            let at = *lane_of.entry(owner).or_insert_with(|| {
                lanes.push((owner, VecDeque::new()));
                lanes.len() - 1
            });
            if let Some((_, lane)) = lanes.get_mut(at) {
                lane.push_back(item);
            }
        }
        // Whose last job began longest ago. Of those that were never served, who came first.
        lanes.sort_by_key(|(owner, _)| self.served[service].get(*owner).copied().unwrap_or(0));
        let mut order = Vec::new();
        while !lanes.is_empty() {
            order.extend(lanes.iter_mut().filter_map(|(_, lane)| lane.pop_front()));
            lanes.retain(|(_, lane)| !lane.is_empty());
        }
        order
    }

    /// Notes that a caller is served now.
    pub(crate) fn note_served(&mut self, ticket: &T) {
        let service = ticket.service();
        self.dispatches += 1;
        self.served[service].insert(ticket.owner().clone(), self.dispatches);
        // Whoever comes to an empty queue has no claim from before.
        if self.of(service).next().is_none() {
            self.served[service].clear();
        }
    }

    /// Notes that the job has its turns now. Those that another job has stay with that one.
    pub(crate) fn take_turns(&mut self, ticket: &T) {
        for turn in ticket.turns() {
            self.turns.entry(turn.clone()).or_insert_with(|| ticket.id());
        }
    }

    /// Releases a job's turns, if it has any.
    pub(crate) fn release_turns(&mut self, id: JobId) {
        self.turns.retain(|_, holder| *holder != id);
    }

    /// The job that this waiting one has to wait for, and the turn.
    pub(crate) fn blocked_by<'a>(&'a self, ticket: &T) -> Option<(JobId, &'a Turn)> {
        let mut waiting = self.with_blockers(ticket.service());
        waiting.find(|(other, _)| other.id() == ticket.id())?.1
    }
}

/// A job's place among the others. Of two that were created in the same moment, the one with the smaller ID is first.
fn place(ticket: &impl QueueItem) -> (Timestamp, JobId) {
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
        owner: CallerName,
    }

    impl QueueItem for Job {
        fn owner(&self) -> &CallerName {
            &self.owner
        }
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
            owner: CallerName::anonymous(),
        })
    }

    fn job_of(owner: &str) -> Arc<Job> {
        let job = Arc::into_inner(job(Service::Pull, &[])).unwrap();
        Arc::new(Job { owner: owner.parse().unwrap(), ..job })
    }

    /// Takes the next job out of the queue and gives it its turns.
    fn take(queue: &mut Queue<Job>, service: Service) -> Option<Arc<Job>> {
        let ready: Vec<_> = queue.ready(service).cloned().collect();
        let job = queue.fairly(service, ready.iter(), |job| job).into_iter().next().cloned()?;
        queue.remove(job.id);
        queue.note_served(&*job);
        queue.take_turns(&*job);
        Some(job)
    }

    /// Takes all jobs, and says whose they were.
    fn owners(queue: &mut Queue<Job>, count: usize) -> String {
        let taken = (0..count).map(|_| take(queue, Service::Pull).unwrap().owner.to_string());
        taken.collect()
    }

    #[test]
    fn callers_take_turns() {
        let mut queue = Queue::new();
        for owner in ["a", "a", "a", "a", "a", "b", "c", "b"] {
            queue.insert(job_of(owner));
        }
        let all: Vec<_> = queue.of(Service::Pull).cloned().collect();
        let order = queue.fairly(Service::Pull, all.iter(), |job| job);
        assert_eq!(order.iter().map(|job| job.owner.as_str()).collect::<String>(), "abcabaaa");
        assert_eq!(owners(&mut queue, 4), "abca");
        // One who comes later is next, and then takes its turn like the others.
        queue.insert(job_of("d"));
        queue.insert(job_of("d"));
        assert_eq!(owners(&mut queue, 6), "dbadaa");
    }

    /// Whoever asks again as soon as it was served must not keep the others out.
    #[test]
    fn a_caller_with_one_job_at_a_time_is_not_always_first() {
        let mut queue = Queue::new();
        for _ in 0..4 {
            queue.insert(job_of("many"));
        }
        let mut served = String::new();
        for _ in 0..6 {
            queue.insert(job_of("1"));
            served.push_str(&owners(&mut queue, 1));
            while queue.of(Service::Pull).filter(|job| job.owner.as_str() == "1").count() > 1 {
                let again = queue.of(Service::Pull).find(|job| job.owner.as_str() == "1");
                let again = again.unwrap().id;
                queue.remove(again);
            }
        }
        assert_eq!(served, "many1many1many1");
    }

    #[test]
    fn nothing_is_remembered_of_an_empty_queue() {
        let mut queue = Queue::new();
        for n in 0..100 {
            queue.insert(job_of(&format!("c{n}")));
            owners(&mut queue, 1);
        }
        assert!(queue.served[Service::Pull].is_empty());
    }

    #[test]
    fn first_come_first_served_within_a_service() {
        let mut queue = Queue::new();
        let jobs: Vec<_> = (0..3).map(|_| job(Service::Workflow, &[])).collect();
        for job in [&jobs[2], &jobs[0], &jobs[1]] {
            queue.insert(Arc::clone(job));
        }
        assert!(take(&mut queue, Service::Pull).is_none());
        for job in &jobs {
            assert_eq!(take(&mut queue, Service::Workflow).unwrap().id, job.id);
        }
        assert!(take(&mut queue, Service::Workflow).is_none());
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
        assert_eq!(take(&mut queue, Service::Workflow).unwrap().id, first.id);
        assert_eq!(take(&mut queue, Service::Workflow).unwrap().id, other.id);
        assert_eq!(take(&mut queue, Service::Workflow).unwrap().id, free.id);
        assert!(take(&mut queue, Service::Workflow).is_none());
        assert_eq!(queue.blocked_by(&second), Some((first.id, &directory("app"))));
        queue.release_turns(first.id);
        assert_eq!(take(&mut queue, Service::Workflow).unwrap().id, second.id);
    }

    #[test]
    fn the_jobs_of_the_workflow_that_has_the_turn_pass() {
        let mut queue = Queue::new();
        let workflow = job(Service::Workflow, &[directory("app")]);
        queue.insert(Arc::clone(&workflow));
        let later = job(Service::Pull, &[directory("app")]);
        queue.insert(Arc::clone(&later));
        // The first to come is the first in every service.
        assert!(take(&mut queue, Service::Pull).is_none());
        take(&mut queue, Service::Workflow).unwrap();
        let child = job(Service::Pull, &[]);
        queue.insert(Arc::clone(&child));
        assert_eq!(take(&mut queue, Service::Pull).unwrap().id, child.id);
        assert!(take(&mut queue, Service::Pull).is_none());
        queue.release_turns(child.id);
        assert!(take(&mut queue, Service::Pull).is_none(), "the child's end is not the workflow's");
        queue.release_turns(workflow.id);
        assert_eq!(take(&mut queue, Service::Pull).unwrap().id, later.id);
    }

    #[test]
    fn an_id_that_a_caller_chose_does_not_overtake() {
        let mut queue = Queue::new();
        let first = job(Service::Pull, &[]);
        queue.insert(Arc::clone(&first));
        let id = "00000000-0000-7000-8000-000000000001".parse().unwrap();
        let created = Timestamp::from_millisecond(first.created.as_millisecond() + 1);
        let service = Service::Pull;
        let job = Job { id, created, service, turns: Vec::new(), owner: CallerName::anonymous() };
        queue.insert(Arc::new(job));
        assert_eq!(take(&mut queue, Service::Pull).unwrap().id, first.id);
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
        assert_eq!(take(&mut queue, Service::Claude).unwrap().id, in_session.id);
        assert_eq!(queue.blocked_by(&both), Some((in_session.id, &session)));
        assert_eq!(queue.blocked_by(&later), Some((both.id, &directory("app"))), "it came first");
        assert_eq!(take(&mut queue, Service::Claude).unwrap().id, free.id);
        queue.release_turns(in_session.id);
        assert_eq!(take(&mut queue, Service::Claude).unwrap().id, both.id);
        assert!(take(&mut queue, Service::Claude).is_none());
        queue.release_turns(both.id);
        assert_eq!(take(&mut queue, Service::Claude).unwrap().id, later.id);
    }

    #[test]
    fn a_job_that_comes_back_has_its_old_place_and_no_turn() {
        let mut queue = Queue::new();
        let first = job(Service::Claude, &[directory("app")]);
        let second = job(Service::Claude, &[directory("app")]);
        queue.insert(Arc::clone(&first));
        queue.insert(Arc::clone(&second));
        let taken = take(&mut queue, Service::Claude).unwrap();
        queue.release_turns(taken.id);
        queue.insert(taken);
        assert_eq!(take(&mut queue, Service::Claude).unwrap().id, first.id);
    }
}
