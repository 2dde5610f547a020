//! What a caller reads: the job's position in the queue, then its journal.

use std::{io, sync::Arc};

use bytes::Bytes;
use contract::{Code, EventLine, QueuedEvent, Timestamp};
use futures_util::{Stream, StreamExt};
use web::Ids;
use workspace::{CancelOnDisconnect, Job, blocking};

use crate::{
    shared::Shared,
    ticket::{CallerState, QueueStatus, Ticket},
};

/// Why a queued job ends whose last caller has disconnected.
pub(crate) const CALLER_LEFT: &str = "the caller disconnected before a replica was free";

/// A caller that reads the events of a queued job. When the last one disconnects, the job ends.
pub(crate) struct Viewer {
    shared: Arc<Shared>,
    ticket: Arc<Ticket>,
}

impl Viewer {
    pub(crate) fn new(shared: &Arc<Shared>, ticket: &Arc<Ticket>) -> Self {
        ticket.viewer_came();
        if ticket.caller == CallerState::CutOff {
            // The job has waited for this.
            shared.work.notify_waiters();
        }
        Self { shared: Arc::clone(shared), ticket: Arc::clone(ticket) }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        // The jobs of a workflow end with it. A gateway that stops cuts its callers off itself.
        if !self.ticket.viewer_left() || self.ticket.parent.is_some() || self.shared.is_stopping() {
            return;
        }
        // This may not have been the caller that was cut off. The dispatcher gives that one time to reconnect.
        if self.ticket.caller == CallerState::CutOff {
            return;
        }
        let (shared, id) = (Arc::clone(&self.shared), self.ticket.job.id());
        let status = self.ticket.status();
        if matches!(*status.borrow(), QueueStatus::New | QueueStatus::Waiting { .. }) {
            self.shared.tasks.spawn(async move {
                shared.end_queued(id, Code::CallerLeft, CALLER_LEFT).await;
            });
        }
    }
}

/// The events of a job that this gateway has no ticket for. If the job is in the queue of another gateway, this one may
/// take it over; then this reader is one of its viewers.
pub(crate) fn from_elsewhere(
    shared: Arc<Shared>,
    job: Job,
    after: u64,
    ids: Ids,
    guard: CancelOnDisconnect,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    async_stream::stream! {
        let mut watch = job.workspace().watcher().watch(&job.directory());
        loop {
            if let Some(ticket) = shared.ticket(job.id()) {
                let viewer = Viewer::new(&shared, &ticket);
                let mut events = Box::pin(from_queue(ticket, viewer, after, ids, guard));
                while let Some(event) = events.next().await {
                    yield event;
                }
                return;
            }
            let look = job.clone();
            // If it cannot be read, or has been deleted, following it says so.
            let waits = blocking(move || {
                let is_there = Job::open(look.workspace(), look.id())?.is_some();
                Ok::<_, workspace::Error>(is_there && look.claimed()?.is_none())
            });
            if !waits.await.unwrap_or(false) {
                break;
            }
            watch.changed().await;
        }
        drop(watch);
        let mut events = Box::pin(journal(job, after, ids, guard));
        while let Some(event) = events.next().await {
            yield event;
        }
    }
}

/// The events of a job that may be queued: its position whenever that changes, then the journal.
pub(crate) fn from_queue(
    ticket: Arc<Ticket>,
    viewer: Viewer,
    after: u64,
    ids: Ids,
    guard: CancelOnDisconnect,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    async_stream::stream! {
        let mut status = ticket.status();
        loop {
            let now = status.borrow_and_update().clone();
            match now {
                QueueStatus::New => {}
                QueueStatus::Waiting { position, waiting_for } => {
                    let queued =
                        QueuedEvent { service: ticket.service, position, waiting_for, timestamp: Timestamp::now() };
                    // It is in no journal, so it has no ID to resume after.
                    yield Ok(web::frame(None, EventLine::encode(&queued).as_bytes()));
                }
                QueueStatus::Taken | QueueStatus::Rejected(_) => break,
            }
            if status.changed().await.is_err() {
                break;
            }
        }
        drop(viewer);
        let mut events = Box::pin(journal(ticket.job.clone(), after, ids, guard));
        while let Some(event) = events.next().await {
            yield event;
        }
    }
}

/// The events in a job's journal, to its end.
fn journal(
    job: Job,
    after: u64,
    ids: Ids,
    guard: CancelOnDisconnect,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    web::frames(guard.follow(job, after), ids)
}
