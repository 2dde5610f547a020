//! One job in the gateway, and what its callers see of it until it runs.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use contract::{CallerName, GatewayId, JobId, RequestError, Service, Timestamp};
use http::StatusCode;
use tokio::{sync::watch, time::Instant};
use workspace::{Job, RequestDigest, Turn};

use crate::queue::QueueItem;

/// Whether the caller that asked for a job is connected to this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallerState {
    /// It has just asked.
    Connected,
    /// It was cut off when an earlier gateway ended, and may reconnect.
    CutOff,
}

impl CallerState {
    /// How long a job may be queued without a viewer.
    const fn patience(self) -> Duration {
        match self {
            // Its caller is a viewer from the start.
            Self::Connected => Duration::ZERO,
            Self::CutOff => Duration::from_secs(15),
        }
    }
}

/// What a job's callers know about its wait.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum QueueStatus {
    /// Nothing yet. If a replica is idle, they never hear of a queue.
    New,
    /// The job has to wait.
    Waiting {
        /// From 1.
        position: usize,
        /// What it waits for besides a replica.
        waiting_for: Option<String>,
    },
    /// A replica has taken it: the rest is in its journal.
    Taken,
    /// It ended without having run. The terminal event is in its journal; a caller that has heard nothing yet gets this
    /// answer instead.
    Rejected(Rejection),
}

/// The answer to the request for a job that ended before it ran.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rejection {
    pub(crate) status: StatusCode,
    /// JSON, as the replica wrote it.
    pub(crate) body: Bytes,
}

impl Rejection {
    /// The answer to a request that failed with `error`.
    pub(crate) fn new(error: &RequestError) -> Self {
        let body = serde_json::to_vec(&error.body()).unwrap_or_default();
        Self { status: web::error(error).status(), body: body.into() }
    }
}

#[derive(Debug)]
struct Viewers {
    count: usize,
    /// When the last one left, if there are none.
    unwatched_since: Instant,
}

/// A job that this gateway looks after.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) job: Job,
    pub(crate) service: Service,
    /// The job path of the service to which its request is sent.
    pub(crate) path: String,
    /// Whose it is.
    pub(crate) owner: CallerName,
    pub(crate) parent: Option<JobId>,
    /// The turns that it has to wait for.
    pub(crate) turns: Vec<Turn>,
    /// The gateway that created it: this one, or one that is gone.
    pub(crate) gateway: Option<GatewayId>,
    /// When it was created, by the clock of its gateway. Callers may choose IDs, so these have no order.
    pub(crate) created: Timestamp,
    /// How a replica recognizes the request.
    pub(crate) digest: Option<RequestDigest>,
    /// The body, if it contains credentials, which are never written to disk. Dropped once it is no longer needed.
    secret_body: Mutex<Option<Bytes>>,
    /// How long it had been queued before this gateway had it.
    waited_before: Duration,
    since: Instant,
    pub(crate) caller: CallerState,
    viewers: Mutex<Viewers>,
    status: watch::Sender<QueueStatus>,
}

impl Ticket {
    pub(crate) fn new(
        job: Job,
        record: &workspace::JobRecord,
        turns: Vec<Turn>,
        secret_body: Option<Bytes>,
        caller: CallerState,
    ) -> Self {
        let waited = Timestamp::now().as_millisecond() - record.created.as_millisecond();
        Self {
            job,
            service: record.service,
            path: record.path().to_owned(),
            owner: record.caller.clone(),
            parent: record.parent,
            turns,
            gateway: record.gateway,
            created: record.created,
            digest: record.request.digest.clone(),
            secret_body: Mutex::new(secret_body),
            // Negative if the clock that its record was written by is ahead of this one.
            waited_before: Duration::from_millis(u64::try_from(waited).unwrap_or(0)),
            since: Instant::now(),
            caller,
            viewers: Mutex::new(Viewers { count: 0, unwatched_since: Instant::now() }),
            status: watch::Sender::new(QueueStatus::New),
        }
    }

    pub(crate) fn status(&self) -> watch::Receiver<QueueStatus> {
        self.status.subscribe()
    }

    /// Tells the callers. What is over stays over.
    pub(crate) fn set_status(&self, status: QueueStatus) {
        let is_final =
            |status: &QueueStatus| matches!(status, QueueStatus::Taken | QueueStatus::Rejected(_));
        if is_final(&status) {
            self.secret_body.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        self.status.send_if_modified(|current| {
            let changes = *current != status && !is_final(current);
            if changes {
                *current = status;
            }
            changes
        });
    }

    /// The body with credentials, as long as no replica has taken the job.
    pub(crate) fn secret_body(&self) -> Option<Bytes> {
        self.secret_body.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long it has been queued, in all gateways that had it.
    pub(crate) fn waited(&self) -> Duration {
        self.waited_before + self.since.elapsed()
    }

    fn viewers(&self) -> MutexGuard<'_, Viewers> {
        self.viewers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn viewer_came(&self) {
        self.viewers().count += 1;
    }

    /// Returns whether no viewer is left.
    pub(crate) fn viewer_left(&self) -> bool {
        let mut viewers = self.viewers();
        viewers.count -= 1;
        viewers.unwatched_since = Instant::now();
        viewers.count == 0
    }

    fn is_watched(&self) -> bool {
        self.viewers().count > 0
    }

    /// Whether it may be dispatched: a job that was queued when its gateway ended waits for its caller first.
    pub(crate) fn may_run(&self) -> bool {
        self.parent.is_some() || self.caller == CallerState::Connected || self.is_watched()
    }

    /// Whether its caller is gone for good. The jobs of a workflow need no caller.
    pub(crate) fn is_abandoned(&self) -> bool {
        let viewers = self.viewers();
        self.parent.is_none()
            && viewers.count == 0
            && viewers.unwatched_since.elapsed() > self.caller.patience()
    }
}

impl QueueItem for Ticket {
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
    fn owner(&self) -> &CallerName {
        &self.owner
    }
}
