//! Where each job is in the gateway, and what is known about replicas. All of it can be read back from the volume.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use contract::{CallerName, Code, GatewayId, JobId, JobState, PerService, ReplicaId, Service};
use tokio::{sync::Notify, time::Instant};
use workspace::{IdleReplicas, ReplicaEntry};

use crate::{
    lifecycle::Lifecycle,
    queue::Queue,
    ticket::{QueueStatus, Rejection, Ticket},
};

/// For how long a replica that did not answer is not asked again, if it is still announced.
const AVOID_TIME: Duration = Duration::from_secs(1);

/// What changes while a gateway runs.
#[derive(Debug)]
pub(crate) struct GatewayState {
    queue: Queue<Ticket>,
    /// Jobs that a replica is asked to take, and jobs that are being ended because their wait is over.
    dispatching: HashMap<JobId, Arc<Ticket>>,
    /// Jobs that run and are being watched.
    running: HashMap<JobId, Arc<Ticket>>,
    /// Replicas that are being asked to take a job.
    asked: HashSet<ReplicaId>,
    /// Replicas that did not answer, and until when they are avoided.
    avoided: HashMap<ReplicaId, Instant>,
    /// How many replicas of each service were idle at the last look and had no job to take.
    spare: PerService<usize>,
    /// When each service was last seen to have a replica, idle or at work.
    replicas_seen: PerService<Instant>,
    /// Wakes the dispatchers.
    work: Arc<Notify>,
}

/// A change of a job's place in the gateway.
#[derive(Debug)]
pub(crate) enum Transition<'a> {
    /// It waits: it is new, or was in the queue of a gateway that is gone.
    Queued,
    /// It leaves the queue, because this replica is asked to take it.
    Dispatched(ReplicaId),
    /// No replica has taken it after all, so it has its old place in the queue again.
    Requeued,
    /// It leaves the queue, because its wait is over and it is about to be ended.
    Ending,
    /// A replica runs it: this one, if it is known.
    Running(Option<ReplicaId>),
    /// It has ended without having run. A caller that has heard nothing yet gets this answer.
    Rejected { code: Code, sentence: &'a str, answer: Rejection },
    /// It has ended after it ran. `None`: it is no longer on the volume.
    Ended(Option<JobState>),
}

impl GatewayState {
    pub(crate) fn new(work: Arc<Notify>) -> Self {
        Self {
            queue: Queue::new(),
            dispatching: HashMap::new(),
            running: HashMap::new(),
            asked: HashSet::new(),
            avoided: HashMap::new(),
            spare: PerService::default(),
            replicas_seen: PerService::from_fn(|_| Instant::now()),
            work,
        }
    }

    /// Moves a job to another place, logs that, and wakes the job's callers and the dispatchers. Nothing else changes the
    /// place of a job.
    pub(crate) fn transition(&mut self, ticket: &Arc<Ticket>, to: Transition<'_>) {
        let (id, service) = (ticket.job.id(), ticket.service);
        // A job that is known to run is never queued again, whatever its dispatch led to.
        let to = match to {
            Transition::Queued | Transition::Requeued | Transition::Ending
                if self.is_running(id) =>
            {
                Transition::Running(None)
            }
            to => to,
        };
        match to {
            Transition::Queued => {
                self.queue.insert(Arc::clone(ticket));
                tracing::debug!(%service, job = %id, "queued");
            }
            Transition::Dispatched(replica) => {
                self.queue.remove(id);
                self.queue.note_served(ticket);
                self.queue.take_turns(ticket);
                self.dispatching.insert(id, Arc::clone(ticket));
                self.asked.insert(replica);
                tracing::debug!(%service, job = %id, %replica, "dispatched");
                // No dispatcher waits for this: it makes nothing free.
                return;
            }
            Transition::Requeued => {
                self.dispatching.remove(&id);
                self.queue.release_turns(id);
                self.queue.insert(Arc::clone(ticket));
                tracing::debug!(%service, job = %id, "queued again");
            }
            Transition::Ending => {
                self.queue.remove(id);
                self.dispatching.insert(id, Arc::clone(ticket));
                tracing::debug!(%service, job = %id, "the wait is over");
            }
            Transition::Running(replica) => {
                let waiting = self.queue.remove(id).into_iter();
                for known in waiting.chain(self.dispatching.remove(&id)) {
                    known.set_status(QueueStatus::Taken);
                }
                ticket.set_status(QueueStatus::Taken);
                self.queue.take_turns(ticket);
                if self.running.insert(id, Arc::clone(ticket)).is_none() {
                    let replica = replica.map(tracing::field::display);
                    tracing::info!(%service, job = %id, replica, "running");
                }
            }
            Transition::Rejected { code, sentence, answer } => {
                self.dispatching.remove(&id);
                self.queue.release_turns(id);
                ticket.set_status(QueueStatus::Rejected(answer));
                tracing::info!(%service, job = %id, %code, sentence, "ended without having run");
            }
            Transition::Ended(state) => {
                self.running.remove(&id);
                self.queue.release_turns(id);
                let state = state.map_or("gone", JobState::as_str);
                tracing::info!(%service, job = %id, state, "ended");
            }
        }
        self.work.notify_waiters();
    }

    /// The jobs that wait.
    pub(crate) fn queue(&self) -> &Queue<Ticket> {
        &self.queue
    }

    /// The ticket of a job that no replica has taken yet.
    pub(crate) fn ticket(&self, id: JobId) -> Option<&Arc<Ticket>> {
        self.queue.get(id).or_else(|| self.dispatching.get(&id))
    }

    /// The owner of a job that waits or runs.
    pub(crate) fn owner_of(&self, id: JobId) -> Option<CallerName> {
        self.ticket(id).or_else(|| self.running.get(&id)).map(|ticket| ticket.owner.clone())
    }

    pub(crate) fn is_running(&self, id: JobId) -> bool {
        self.running.contains_key(&id)
    }

    /// Whether a job waits that was created by the gateway `id`.
    pub(crate) fn has_waiting_of(&self, id: GatewayId) -> bool {
        let queued = Service::ALL.into_iter().flat_map(|service| self.queue.of(service));
        queued.chain(self.dispatching.values()).any(|ticket| ticket.gateway == Some(id))
    }

    /// How many jobs of `service` this gateway knows to run, or is handing to a replica.
    pub(crate) fn busy(&self, service: Service) -> usize {
        let tickets = self.running.values().chain(self.dispatching.values());
        tickets.filter(|ticket| ticket.service == service).count()
    }

    /// How many jobs of a caller run, or are being handed to a replica, without those that its workflows have asked for.
    fn running_of(&self, owner: &CallerName) -> usize {
        let tickets = self.running.values().chain(self.dispatching.values());
        tickets.filter(|ticket| ticket.parent.is_none() && ticket.owner == *owner).count()
    }

    /// Whether this replica is being asked to take a job.
    pub(crate) fn is_asked(&self, id: ReplicaId) -> bool {
        self.asked.contains(&id)
    }

    /// Notes that a replica has answered.
    pub(crate) fn answered(&mut self, id: ReplicaId) {
        self.asked.remove(&id);
    }

    /// Notes that a replica did not answer, or is not the one that was asked: it is avoided for a moment.
    pub(crate) fn avoid(&mut self, id: ReplicaId) {
        self.asked.remove(&id);
        self.avoided.insert(id, Instant::now() + AVOID_TIME);
    }

    /// Pairs the idle replicas of `service` with the jobs that are next, until there are no more of one or the other.
    /// Each job of a pair is dispatched, and each that is left has its position in the queue.
    pub(crate) fn assign(
        &mut self,
        service: Service,
        idle: &IdleReplicas,
        lifecycle: Lifecycle,
        limit_of: impl Fn(&CallerName) -> Option<u32>,
    ) -> Vec<(Arc<Ticket>, ReplicaEntry)> {
        let now = Instant::now();
        self.avoided.retain(|_, until| *until > now);
        let is_free = |replica: &ReplicaEntry| {
            !self.asked.contains(&replica.id) && !self.avoided.contains_key(&replica.id)
        };
        let idle = || idle.iter().filter(|replica| is_free(replica));
        let may_run = |ticket: &&Arc<Ticket>| ticket.may_run() && lifecycle.accepts(ticket.parent);
        // How many more jobs each caller may have running.
        let mut left: HashMap<CallerName, usize> = HashMap::new();
        let is_within_limit = |ticket: &&Arc<Ticket>| {
            // A workflow would wait for itself.
            if ticket.parent.is_some() {
                return true;
            }
            let left = left.entry(ticket.owner.clone()).or_insert_with(|| {
                let limit =
                    limit_of(&ticket.owner).map(|it| usize::try_from(it).unwrap_or(usize::MAX));
                limit.map_or(usize::MAX, |limit| {
                    limit.saturating_sub(self.running_of(&ticket.owner))
                })
            });
            let is_within = *left > 0;
            *left = left.saturating_sub(1);
            is_within
        };
        let next = self.queue.ready(service).filter(may_run).filter(is_within_limit);
        let next = self.queue.fairly(service, next, |ticket| ticket);
        let pairs: Vec<_> = next.into_iter().cloned().zip(idle().cloned()).collect();
        self.spare[service] = idle().count() - pairs.len();
        for (ticket, replica) in &pairs {
            self.transition(ticket, Transition::Dispatched(replica.id));
        }
        let waiting = self.queue.with_blockers(service);
        let waiting = self.queue.fairly(service, waiting, |(ticket, _)| ticket);
        for (index, (ticket, blocker)) in waiting.into_iter().enumerate() {
            let waiting_for =
                blocker.map(|(holder, turn)| format!("job {holder} to be done in {turn}"));
            ticket.set_status(QueueStatus::Waiting { position: index + 1, waiting_for });
        }
        pairs
    }

    /// How many replicas a look at the registry should find, at most: enough for the jobs that wait, even if some are not
    /// to be asked now.
    pub(crate) fn wanted(&self, service: Service) -> usize {
        match self.queue.of(service).count() {
            0 => 0,
            waiting => waiting + self.asked.len() + self.avoided.len(),
        }
    }

    /// Whether `limit` jobs of callers wait. Those that a spare replica can take do not wait.
    pub(crate) fn is_full(&self, service: Service, limit: usize) -> bool {
        let waiting = self.queue.of(service).filter(|ticket| ticket.parent.is_none()).count();
        waiting >= limit.saturating_add(self.spare[service])
    }

    /// Whether `limit` jobs of one caller wait. Those that a spare replica can take do not wait.
    pub(crate) fn is_full_for(&self, service: Service, owner: &CallerName, limit: u32) -> bool {
        let queued = Service::ALL.into_iter().flat_map(|service| self.queue.of(service));
        let waiting = queued.filter(|it| it.parent.is_none() && it.owner == *owner).count();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        waiting >= limit.saturating_add(self.spare[service])
    }

    /// Notes that there is a replica of `service`.
    pub(crate) fn replica_seen(&mut self, service: Service) {
        self.replicas_seen[service] = Instant::now();
    }

    /// When each service was last seen to have a replica.
    pub(crate) fn replicas_seen(&self) -> &PerService<Instant> {
        &self.replicas_seen
    }
}

#[cfg(test)]
mod tests {
    use contract::{JobRequest as _, Policy, PullRequest};
    use workspace::{Job, JobRecord, NewJob, RequestDigest, Workspace};

    use super::*;
    use crate::ticket::CallerState;

    fn ticket(workspace: &Workspace) -> Arc<Ticket> {
        let body = br#"{"repoUrl":"https://user:secret@h/r.git"}"#;
        let request = PullRequest::parse(body, "/w", &Policy::default()).unwrap();
        let digest = RequestDigest::of(&request, body, None);
        let record = JobRecord::of(workspace, &request, digest, JobId::new(), None).unwrap();
        let NewJob::Created(job) = Job::create(workspace, &record).unwrap() else { unreachable!() };
        let turns = record.turns(workspace).unwrap().own;
        let secret = Some(bytes::Bytes::from_static(body));
        Arc::new(Ticket::new(job, &record, turns, secret, CallerState::Connected))
    }

    #[test]
    fn a_job_goes_from_the_queue_to_a_replica_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let mut state = GatewayState::new(Arc::default());
        let (first, second) = (ticket(&workspace), ticket(&workspace));
        for job in [&first, &second] {
            state.transition(job, Transition::Queued);
        }
        let next = |state: &GatewayState| {
            state.queue().ready(Service::Pull).next().map(|ticket| ticket.job.id())
        };
        let replica = ReplicaId::new();
        state.transition(&first, Transition::Dispatched(replica));
        assert!(state.is_asked(replica) && state.ticket(first.job.id()).is_some());
        assert_eq!(next(&state), None, "the first has the turn that the second needs");
        state.transition(&first, Transition::Requeued);
        assert_eq!(next(&state), Some(first.job.id()), "it has its old place again");
        state.transition(&first, Transition::Running(None));
        assert_eq!((*first.status().borrow()).clone(), QueueStatus::Taken);
        assert!(first.secret_body().is_none() && second.secret_body().is_some());
        // Whatever a late dispatch says.
        state.transition(&first, Transition::Requeued);
        assert_eq!((next(&state), state.busy(Service::Pull)), (None, 1));
        state.transition(&first, Transition::Ended(Some(JobState::Succeeded)));
        assert_eq!((next(&state), state.busy(Service::Pull)), (Some(second.job.id()), 0));
    }
}
