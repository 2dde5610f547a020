//! What the gateway's tasks share, and how they end jobs that no replica has taken.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contract::{CallerName, Code, Ending, GatewayId, JobId, PerService, RequestError, Service};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use workspace::{FileLock, Job, Outcome, Registry, StackSecret, Workspace, blocking};

use crate::{
    Config,
    audit::Audit,
    callers::Callers,
    changes::Looks,
    health::VolumeProbe,
    lifecycle::{CurrentLifecycle, Lifecycle},
    readers::Readers,
    state::{GatewayState, Transition},
    ticket::{Rejection, Ticket},
};

/// The pause before the volume is tried again after an error.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Everything the gateway's tasks share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// The real address of each service's port.
    pub(crate) addresses: PerService<SocketAddr>,
    pub(crate) workspace: Workspace,
    /// What capabilities are made with.
    pub(crate) secret: StackSecret,
    pub(crate) callers: Callers,
    pub(crate) audit: Audit,
    pub(crate) id: GatewayId,
    /// Held as long as this gateway lives.
    _lease: FileLock,
    state: Mutex<GatewayState>,
    pub(crate) lifecycle: CurrentLifecycle,
    pub(crate) volume_probe: VolumeProbe,
    /// Gateways that are gone and whose queues this one has taken over.
    pub(crate) adopted: tokio::sync::Mutex<HashMap<GatewayId, FileLock>>,
    pub(crate) readers: Arc<Readers>,
    pub(crate) looks: Looks,
    /// Wakes the dispatchers.
    pub(crate) work: Arc<Notify>,
    /// Dispatches and watches of running jobs. They end with the process.
    pub(crate) tasks: TaskTracker,
}

impl Shared {
    pub(crate) fn open(
        config: Config,
        addresses: PerService<SocketAddr>,
    ) -> workspace::Result<Self> {
        let workspace = Workspace::open(&config.workspace)?;
        let secret = match &config.secret_file {
            Some(file) => workspace.stack_secret_at(file)?,
            None => workspace.stack_secret()?,
        };
        // Otherwise, there are replicas that do not know the secret, and sign nothing.
        if config.secret_file.is_some() {
            workspace.sign_with(&secret)?;
        }
        let callers =
            Callers::read(&workspace, config.admin_token.as_ref(), config.allow_anonymous)?;
        let id = GatewayId::new();
        let lease = workspace.announce_gateway(id)?;
        let work = Arc::new(Notify::new());
        let lifecycle = CurrentLifecycle::new(if config.drain {
            Lifecycle::Draining
        } else {
            Lifecycle::Serving
        });
        Ok(Self {
            config,
            addresses,
            workspace,
            secret,
            callers,
            audit: Audit::default(),
            id,
            _lease: lease,
            state: Mutex::new(GatewayState::new(Arc::clone(&work))),
            lifecycle,
            volume_probe: VolumeProbe::default(),
            adopted: tokio::sync::Mutex::default(),
            readers: Arc::default(),
            looks: Looks::default(),
            work,
            tasks: TaskTracker::new(),
        })
    }

    /// For tests: a gateway that listens nowhere.
    #[cfg(test)]
    pub(crate) fn of_tests(workspace: &std::path::Path) -> Self {
        let addresses =
            PerService::from_fn(|service| ([127, 0, 0, 1], service.default_port()).into());
        Self::open(Config::on_loopback(workspace), addresses).expect("a workspace")
    }

    /// The replicas of `service`. If the operator has given the stack a secret, only those that know it.
    pub(crate) fn registry(&self, service: Service) -> Registry {
        let secret = self.config.secret_file.is_some().then(|| self.secret.clone());
        Registry::new(&self.workspace, service).only_proven(secret)
    }

    /// The address of the port of `service` for a caller that reached this gateway at `local`.
    pub(crate) fn reached_at(&self, service: Service, local: Option<IpAddr>) -> SocketAddr {
        let mut address = self.addresses[service];
        if address.ip().is_unspecified() {
            address.set_ip(local.unwrap_or(Ipv4Addr::LOCALHOST.into()));
        }
        address
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, GatewayState> {
        // Every change is a few assignments. A panic between two of them leaves nothing unusable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ticket of a job that no replica has taken yet.
    pub(crate) fn ticket(&self, id: JobId) -> Option<Arc<Ticket>> {
        self.state().ticket(id).cloned()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.lifecycle.get() == Lifecycle::Stopping
    }

    /// Ends a job that is queued. Nothing happens if a replica has it, or is being asked to take it.
    pub(crate) async fn end_queued(self: &Arc<Self>, id: JobId, code: Code, sentence: &str) {
        let ticket = {
            let mut state = self.state();
            let Some(ticket) = state.queue().get(id).cloned() else { return };
            state.transition(&ticket, Transition::Ending);
            ticket
        };
        // In a task of its own: whoever asks for this may disconnect, and nobody else has the ticket now.
        let (shared, sentence) = (Arc::clone(self), sentence.to_owned());
        let ending = self.tasks.spawn(async move { shared.end(&ticket, code, &sentence).await });
        // Fails only if the task panicked, which the panic hook has logged.
        let _ = ending.await;
    }

    /// Ends a job that no replica has taken. If one has after all, its end is awaited instead.
    pub(crate) async fn end(self: &Arc<Self>, ticket: &Arc<Ticket>, code: Code, sentence: &str) {
        self.reject(ticket, code, sentence, Rejection::new(&RequestError::new(code, sentence)))
            .await;
    }

    /// The same with an answer of its own for a caller that has heard nothing yet.
    pub(crate) async fn reject(
        self: &Arc<Self>,
        ticket: &Arc<Ticket>,
        code: Code,
        sentence: &str,
        answer: Rejection,
    ) {
        let ending = Ending::failure(ticket.service, ticket.job.id(), code, sentence);
        let (job, by) = (ticket.job.clone(), self.claimant());
        match blocking(move || job.end_unclaimed(&by, ending)).await {
            Ok(Some(_)) => {
                let rejected = Transition::Rejected { code, sentence, answer };
                self.state().transition(ticket, rejected);
            }
            Ok(None) => self.watch_running(ticket, None),
            Err(error) => {
                tracing::error!(job = %ticket.job.id(), error = &error as &dyn std::error::Error, "cannot end a job");
                // It stays queued and is tried again, but not at once, because the volume may be unusable for long.
                tokio::time::sleep(TRY_AGAIN).await;
                self.state().transition(ticket, Transition::Requeued);
            }
        }
    }

    /// Checks whether the jobs of a caller that ended today have cost less than its budget, if it has one.
    ///
    /// # Errors
    /// If they have not, or the volume cannot be read.
    pub(crate) async fn check_budget(
        self: &Arc<Self>,
        name: &CallerName,
    ) -> Result<(), RequestError> {
        let Some(budget) = self.callers.limits_of(name).budget_usd_per_day else { return Ok(()) };
        let (shared, name) = (Arc::clone(self), name.clone());
        blocking(move || shared.callers.check_budget(&shared.workspace, &name, budget)).await
    }

    /// Notes what a job has cost at once, if its caller has a budget: it may have other jobs that are about to begin.
    async fn note_cost(&self, ticket: &Ticket) {
        if self.callers.limits_of(&ticket.owner).budget_usd_per_day.is_none() {
            return;
        }
        let (workspace, job) = (self.workspace.clone(), ticket.job.clone());
        if let Err(error) = blocking(move || workspace.note_cost(&job)).await {
            // It is noted when the job is indexed.
            tracing::warn!(job = %ticket.job.id(), error = &error as &dyn std::error::Error, "cannot note what a job has cost");
        }
    }

    /// How this gateway claims the jobs that it ends.
    pub(crate) fn claimant(&self) -> String {
        format!("gateway {}", self.id)
    }

    /// A job runs, at this replica if it is known: its callers read the journal from now on. Watches it until it has
    /// ended, however it ends, and then releases its turns.
    pub(crate) fn watch_running(
        self: &Arc<Self>,
        ticket: &Arc<Ticket>,
        replica: Option<contract::ReplicaId>,
    ) {
        let is_watched = {
            let mut state = self.state();
            let is_watched = state.is_running(ticket.job.id());
            state.transition(ticket, Transition::Running(replica));
            is_watched
        };
        if is_watched {
            return;
        }
        let (shared, ticket) = (Arc::clone(self), Arc::clone(ticket));
        self.tasks.spawn(async move {
            let outcome = end_of(&ticket.job).await;
            shared.note_cost(&ticket).await;
            let ended = Transition::Ended(outcome.map(|outcome| outcome.state));
            shared.state().transition(&ticket, ended);
        });
    }
}

/// Waits until a claimed job has ended, and ends it if its process is gone. `None` if the job is no longer there.
pub(crate) async fn end_of(job: &Job) -> Option<Outcome> {
    let (mut watch, mut liveness) = (job.watch_outcome(), job.watch_liveness());
    loop {
        let look = job.clone();
        let looked = blocking(move || {
            let outcome = look.settle()?;
            let is_there = outcome.is_some() || Job::open(look.workspace(), look.id())?.is_some();
            Ok::<_, workspace::Error>((outcome, is_there))
        });
        match looked.await {
            Ok((Some(outcome), _)) => return Some(outcome),
            Ok((None, false)) => return None,
            Ok((None, true)) => {}
            Err(error) => {
                // Logged once: its files may be unreadable for long.
                job.workspace().report_once(&job.directory(), &error);
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
        tokio::select! {
            () = watch.reported() => {}
            () = liveness.found() => {}
        }
    }
}
