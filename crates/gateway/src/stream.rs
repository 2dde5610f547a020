//! What a caller reads: its place in the queue, then the journal.

use std::{io, sync::Arc};

use bytes::Bytes;
use contract::{Code, EventLine, QueuedEvent, Timestamp};
use futures_util::{Stream, StreamExt, TryStreamExt};
use web::Ids;
use workspace::{CancelOnDisconnect, Job, blocking};

use crate::{
    state::Shared,
    ticket::{Caller, Stage, Ticket},
};

/// What is said of a job whose last caller left before it began.
pub(crate) const CALLER_LEFT: &str = "the caller left before a replica was free";

/// Somebody who watches a job that has not been taken. When the last one leaves, so does the job.
pub(crate) struct Viewer {
    shared: Arc<Shared>,
    ticket: Arc<Ticket>,
}

impl Viewer {
    pub(crate) fn new(shared: &Arc<Shared>, ticket: &Arc<Ticket>) -> Self {
        ticket.viewer_came();
        if ticket.caller == Caller::Away {
            // It has waited for this.
            shared.work.notify_waiters();
        }
        Self { shared: Arc::clone(shared), ticket: Arc::clone(ticket) }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        // The jobs of a workflow end with it. A gateway that stops has sent its callers away itself.
        if !self.ticket.viewer_left() || self.ticket.parent.is_some() || self.shared.is_stopping() {
            return;
        }
        // Who looked in may not have been the one who is to come back; the dispatcher counts the time.
        if self.ticket.caller == Caller::Away {
            return;
        }
        let (shared, id) = (Arc::clone(&self.shared), self.ticket.job.id());
        if matches!(*self.ticket.stage().borrow(), Stage::Fresh | Stage::Waiting { .. }) {
            self.shared.tasks.spawn(async move {
                shared.end_waiting(id, Code::CallerLeft, CALLER_LEFT).await;
            });
        }
    }
}

/// The events of a job that this gateway has no ticket of. If it waits elsewhere, it may come to wait here: then
/// this reader counts as somebody who watches it.
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
            // One that cannot be read says so when it is followed.
            if !blocking(move || look.claimed()).await.is_ok_and(|claim| claim.is_none()) {
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

/// The events of a job that may still wait: its place whenever it changes, then the journal.
pub(crate) fn from_queue(
    ticket: Arc<Ticket>,
    viewer: Viewer,
    after: u64,
    ids: Ids,
    guard: CancelOnDisconnect,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    async_stream::stream! {
        let mut stage = ticket.stage();
        loop {
            let now = stage.borrow_and_update().clone();
            match now {
                Stage::Fresh => {}
                Stage::Waiting { position, waiting_for } => {
                    let queued =
                        QueuedEvent { service: ticket.service, position, waiting_for, timestamp: Timestamp::now() };
                    // In no journal, so it has no id to come back to.
                    yield Ok(web::frame(None, EventLine::encode(&queued).as_bytes()));
                }
                Stage::Taken | Stage::Refused(_) => break,
            }
            if stage.changed().await.is_err() {
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
    web::frames(guard.follow(job, after).map_ok(|event| (event.id, event.json)), ids)
}
