//! What the gateway knows while it runs; all of it can be read back from the volume.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use contract::{Code, Ending, JobId, PerService, ReplicaId, Service, Timestamp};
use tokio::{sync::Notify, time::Instant};
use tokio_util::task::TaskTracker;
use workspace::{FileLock, Job, Outcome, Turn, Workspace, blocking};

use crate::{
    Config,
    health::VolumeProbe,
    queue::{Queue, Queued},
    ticket::{Refused, Stage, Ticket},
};

/// How long to wait before something is tried again that failed for the volume's sake.
const TRY_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Everything the gateway's tasks share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// Where each service's port really is.
    pub(crate) addresses: PerService<SocketAddr>,
    pub(crate) workspace: Workspace,
    pub(crate) id: ReplicaId,
    /// Held as long as this gateway lives.
    _lease: FileLock,
    books: Mutex<Books>,
    pub(crate) volume_probe: VolumeProbe,
    /// Gateways that are gone, whose queues are this one's now.
    pub(crate) adopted: tokio::sync::Mutex<HashMap<ReplicaId, FileLock>>,
    /// Wakes the dispatchers.
    pub(crate) work: Notify,
    pub(crate) stopping: AtomicBool,
    /// Whether only the jobs of running workflows are still taken and handed out.
    pub(crate) draining: AtomicBool,
    /// Dispatches and job watches under way; they end with the process.
    pub(crate) tasks: TaskTracker,
}

/// What changes.
pub(crate) struct Books {
    pub(crate) queue: Queue<Ticket>,
    /// Jobs that are being handed to a replica.
    pub(crate) dispatching: HashMap<JobId, Arc<Ticket>>,
    /// Replicas that a job is on its way to.
    pub(crate) sent: HashSet<ReplicaId>,
    /// Replicas that did not answer, and until when they are left alone.
    pub(crate) shunned: HashMap<ReplicaId, Instant>,
    /// How many replicas of each service were idle at the last look.
    pub(crate) idle: HashMap<Service, usize>,
    /// When each service was last seen to have a replica, idle or at work.
    pub(crate) replicas_seen: PerService<Instant>,
    /// Jobs that run and are being watched, by service.
    pub(crate) running: HashMap<JobId, Service>,
}

impl Books {
    /// Whether a job waits that the gateway `id` has named.
    pub(crate) fn has_waiting_of(&self, id: ReplicaId) -> bool {
        let queued = Service::ALL.into_iter().flat_map(|service| self.queue.of(service));
        queued.chain(self.dispatching.values()).any(|ticket| ticket.gateway == Some(id))
    }

    /// Whether a replica of `service` has a job, or is about to.
    pub(crate) fn has_work_of(&self, service: Service) -> bool {
        self.running.values().any(|running| *running == service)
            || self.dispatching.values().any(|ticket| ticket.service == service)
    }

    /// Gives a job its old place back that no replica has taken.
    pub(crate) fn put_back(&mut self, ticket: &Arc<Ticket>) {
        self.dispatching.remove(&ticket.job.id());
        self.queue.end_turn(ticket.job.id());
        self.queue.insert(Arc::clone(ticket));
    }
}

impl Queued for Ticket {
    fn id(&self) -> JobId {
        self.job.id()
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

impl Shared {
    pub(crate) fn open(
        config: Config,
        addresses: PerService<SocketAddr>,
    ) -> workspace::Result<Self> {
        let workspace = Workspace::open(&config.workspace)?;
        let id = ReplicaId::new();
        let lease = workspace.announce_gateway(id)?;
        let books = Books {
            queue: Queue::new(),
            dispatching: HashMap::new(),
            sent: HashSet::new(),
            shunned: HashMap::new(),
            idle: HashMap::new(),
            replicas_seen: PerService::from_fn(|_| Instant::now()),
            running: HashMap::new(),
        };
        let draining = AtomicBool::new(config.drain);
        Ok(Self {
            config,
            addresses,
            workspace,
            id,
            _lease: lease,
            books: Mutex::new(books),
            volume_probe: VolumeProbe::default(),
            adopted: tokio::sync::Mutex::default(),
            work: Notify::new(),
            stopping: AtomicBool::new(false),
            draining,
            tasks: TaskTracker::new(),
        })
    }

    /// The state of a gateway of tests, which listens nowhere.
    #[cfg(test)]
    pub(crate) fn of_tests(workspace: &std::path::Path) -> Self {
        let addresses =
            PerService::from_fn(|service| ([127, 0, 0, 1], service.default_port()).into());
        Self::open(Config::on_loopback(workspace), addresses).expect("a workspace")
    }

    /// The address of the port of `service` for a caller that reached this gateway at `local`.
    pub(crate) fn reached_at(&self, service: Service, local: Option<IpAddr>) -> SocketAddr {
        let mut address = self.addresses[service];
        if address.ip().is_unspecified() {
            address.set_ip(local.unwrap_or(Ipv4Addr::LOCALHOST.into()));
        }
        address
    }

    /// Whether jobs of callers are taken.
    pub(crate) fn takes_jobs(&self) -> bool {
        !self.is_draining() && !self.is_stopping()
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        // Every change is a few assignments; a panic between two of them leaves nothing unusable.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ticket of a job that has not been taken yet.
    pub(crate) fn ticket(&self, id: JobId) -> Option<Arc<Ticket>> {
        let books = self.books();
        books.queue.get(id).or_else(|| books.dispatching.get(&id)).cloned()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Ends a job that waits. Nothing happens if a replica has it, or is about to.
    pub(crate) async fn end_waiting(self: &Arc<Self>, id: JobId, code: Code, sentence: &str) {
        let ticket = {
            let mut books = self.books();
            let Some(ticket) = books.queue.remove(id) else { return };
            // It stays in the books until it has ended.
            books.dispatching.insert(id, Arc::clone(&ticket));
            ticket
        };
        self.work.notify_waiters();
        // In a task of its own: who asks for this may leave, and the ticket is in nobody's hands but these.
        let (shared, sentence) = (Arc::clone(self), sentence.to_owned());
        let ending = self.tasks.spawn(async move { shared.end(&ticket, code, &sentence).await });
        // It panics in a test or never.
        let _ = ending.await;
    }

    /// Ends a job that no replica has taken. If one has after all, it is watched instead.
    pub(crate) async fn end(self: &Arc<Self>, ticket: &Arc<Ticket>, code: Code, sentence: &str) {
        let error = contract::RequestError::new(code, sentence);
        let answer = web::error(&error);
        let body = serde_json::to_vec(&error.body()).unwrap_or_default();
        self.refuse(ticket, code, sentence, Refused { status: answer.status(), body: body.into() })
            .await;
    }

    /// [`end`](Self::end), with the answer for a caller who has heard nothing yet.
    pub(crate) async fn refuse(
        self: &Arc<Self>,
        ticket: &Arc<Ticket>,
        code: Code,
        sentence: &str,
        refused: Refused,
    ) {
        let ending = Ending::failure(ticket.service, ticket.job.id(), code, sentence);
        let (job, by) = (ticket.job.clone(), format!("gateway {}", self.id));
        match blocking(move || job.end_unclaimed(&by, ending)).await {
            Ok(Some(_)) => {
                tracing::info!(job = %ticket.job.id(), %code, sentence, "ends without having run");
                {
                    let mut books = self.books();
                    books.dispatching.remove(&ticket.job.id());
                    books.queue.end_turn(ticket.job.id());
                }
                ticket.set(Stage::Refused(refused));
                self.work.notify_waiters();
            }
            Ok(None) => self.taken(ticket),
            Err(error) => {
                tracing::error!(job = %ticket.job.id(), error = &error as &dyn std::error::Error, "cannot end a job");
                // It waits on, and is tried again; not at once, or a volume that cannot be used is asked for ever.
                tokio::time::sleep(TRY_AGAIN).await;
                self.books().put_back(ticket);
            }
        }
    }

    /// A replica has the job: its callers read the journal now, and this gateway sees that it ends.
    pub(crate) fn taken(self: &Arc<Self>, ticket: &Arc<Ticket>) {
        self.look_after(ticket.job.clone(), ticket.service);
        self.books().dispatching.remove(&ticket.job.id());
        ticket.set(Stage::Taken);
    }

    /// Watches a job that runs until it has ended, however it ends; then its turn is over.
    pub(crate) fn look_after(self: &Arc<Self>, job: Job, service: Service) {
        if self.books().running.insert(job.id(), service).is_some() {
            return;
        }
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            let id = job.id();
            let outcome = ended(job).await;
            let state = outcome.as_ref().map_or("gone", |outcome| outcome.state.as_str());
            tracing::info!(%service, job = %id, state, "ended");
            {
                let mut books = shared.books();
                books.running.remove(&id);
                books.queue.end_turn(id);
            }
            shared.work.notify_waiters();
        });
    }
}

/// Waits until a job that has been claimed is over; ends it if its process is gone. `None` if the job is not there any
/// more.
async fn ended(job: Job) -> Option<Outcome> {
    let mut watch = job.workspace().watcher().watch(&job.directory());
    let mut settle = Instant::now();
    loop {
        let look = job.clone();
        // A busy journal wakes this often; its process is looked after only now and then.
        let probe = settle <= Instant::now();
        if probe {
            settle = Instant::now() + std::time::Duration::from_millis(500);
        }
        let looked = blocking(move || {
            let outcome = if probe { look.settle()? } else { look.outcome()? };
            let is_there = outcome.is_some() || Job::open(look.workspace(), look.id())?.is_some();
            Ok::<_, workspace::Error>((outcome, is_there))
        });
        match looked.await {
            Ok((Some(outcome), _)) => return Some(outcome),
            Ok((None, false)) => return None,
            Ok((None, true)) => {}
            Err(error) => {
                // Not every time: its files may be out of reach for long.
                job.workspace().report_once(&job.directory(), &error);
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
        watch.changed().await;
    }
}
