//! One job's place in the queue, and what its callers see of it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use contract::{JobId, ReplicaId, Service, Timestamp};
use tokio::{sync::watch, time::Instant};
use workspace::{Job, RequestDigest, Turn};

/// Where the caller of a job that waits is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// It has just asked.
    Here,
    /// It was cut off when the gateway ended, and may come back.
    Away,
}

impl Caller {
    /// How long a job may be without anyone who watches it.
    const fn patience(self) -> Duration {
        match self {
            // Only until its caller is counted.
            Self::Here => Duration::from_secs(1),
            Self::Away => Duration::from_secs(15),
        }
    }
}

/// Where a job that this gateway looks after stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stage {
    /// Just named; if a replica is idle, nobody will ever hear that it waited.
    Fresh,
    /// It has to wait.
    Waiting {
        /// From 1.
        position: usize,
        /// What it waits for besides a replica.
        waiting_for: Option<String>,
    },
    /// A replica has taken it: the journal says the rest.
    Taken,
    /// It ended without having been run. The journal has its terminal event; a caller who has heard nothing
    /// yet gets this answer instead.
    Refused(Refused),
}

/// The answer to a job that was refused before it ran.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refused {
    pub(crate) status: http::StatusCode,
    /// JSON, as the replica wrote it.
    pub(crate) body: Bytes,
}

#[derive(Debug)]
struct Viewers {
    count: usize,
    /// When the last one left, if none is there.
    unwatched_since: Instant,
}

/// A job that this gateway looks after until a replica has it.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) job: Job,
    pub(crate) service: Service,
    pub(crate) parent: Option<JobId>,
    /// What it has to wait for its turn on.
    pub(crate) turns: Vec<Turn>,
    /// The gateway that named it; this one, or one that is gone.
    pub(crate) gateway: Option<ReplicaId>,
    /// When it was named, by the gateway's clock: ids may be the callers' own.
    pub(crate) created: Timestamp,
    /// By what the request is known to a replica.
    pub(crate) digest: Option<RequestDigest>,
    /// The body, if it contains credentials: those are on no disk.
    pub(crate) secret_body: Option<Bytes>,
    /// How long it had been queued before this gateway had it.
    waited_before: Duration,
    since: Instant,
    pub(crate) caller: Caller,
    viewers: Mutex<Viewers>,
    stage: watch::Sender<Stage>,
}

impl Ticket {
    pub(crate) fn new(
        job: Job,
        record: &workspace::JobRecord,
        turns: Vec<Turn>,
        secret_body: Option<Bytes>,
        caller: Caller,
    ) -> Self {
        let waited = Timestamp::now().as_millisecond() - record.created.as_millisecond();
        Self {
            job,
            service: record.service,
            parent: record.parent,
            turns,
            gateway: record.gateway,
            created: record.created,
            digest: record.request.digest.clone(),
            secret_body,
            // Negative if the clock that its record was written by is ahead of this one.
            waited_before: Duration::from_millis(u64::try_from(waited).unwrap_or(0)),
            since: Instant::now(),
            caller,
            viewers: Mutex::new(Viewers { count: 0, unwatched_since: Instant::now() }),
            stage: watch::Sender::new(Stage::Fresh),
        }
    }

    pub(crate) fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    pub(crate) fn set(&self, stage: Stage) {
        self.stage.send_if_modified(|current| {
            // What is over stays over.
            let changes = *current != stage && !matches!(current, Stage::Taken | Stage::Refused(_));
            if changes {
                *current = stage;
            }
            changes
        });
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

    /// Whether nobody is left.
    pub(crate) fn viewer_left(&self) -> bool {
        let mut viewers = self.viewers();
        viewers.count -= 1;
        viewers.unwatched_since = Instant::now();
        viewers.count == 0
    }

    fn is_watched(&self) -> bool {
        self.viewers().count > 0
    }

    /// Whether it may be run: one that waited while the gateway was restarted waits for its caller first.
    pub(crate) fn is_wanted(&self) -> bool {
        self.parent.is_some() || self.caller == Caller::Here || self.is_watched()
    }

    /// Whether its caller is not coming any more. The jobs of a workflow need none.
    pub(crate) fn is_forsaken(&self, now: Instant) -> bool {
        let viewers = self.viewers();
        self.parent.is_none()
            && viewers.count == 0
            && now > viewers.unwatched_since + self.caller.patience()
    }
}
