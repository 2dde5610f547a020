//! Jobs that no gateway looks after: what a gateway finds on the volume when it starts, and what one leaves
//! behind that dies while this one lives.

use std::{sync::Arc, time::Duration};

use contract::{Code, ReplicaId};
use tokio::time::Instant;
use workspace::{Job, JobRecord, Turn, blocking};

use crate::{
    state::Shared,
    ticket::{Caller, Ticket},
};

/// How often to look for gateways that are gone: nothing tells when a lock falls free.
const LOOK: Duration = Duration::from_secs(2);
/// How often to remove what killed processes have left in the making.
const TIDY: Duration = Duration::from_secs(600);

/// Takes up the jobs that no gateway looks after: those that run are watched, those that wait are queued
/// again, in their old order.
pub(crate) async fn at_start(shared: &Arc<Shared>) -> workspace::Result<()> {
    adopt(shared).await?;
    take_up(shared, |_| true).await.map(drop)
}

/// Goes on doing so for gateways that die. Never returns.
pub(crate) async fn forever(shared: Arc<Shared>) {
    // Adopted, and not all of their jobs could be looked at.
    let mut unfinished = Vec::new();
    let mut tidied: Option<Instant> = None;
    loop {
        if tidied.is_none_or(|last| last.elapsed() >= TIDY) {
            tidied = Some(Instant::now());
            let workspace = shared.workspace.clone();
            match blocking(move || workspace.tidy()).await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "removed what was left in the making"),
                Err(error) => warn(&error),
            }
        }
        tokio::time::sleep(LOOK).await;
        // One that takes no jobs any more leaves them to others.
        if shared.is_draining() || shared.is_stopping() {
            continue;
        }
        match adopt(&shared).await {
            Ok(adopted) => unfinished.extend(adopted),
            Err(error) => warn(&error),
        }
        if !unfinished.is_empty() {
            let of = unfinished.clone();
            match take_up(&shared, move |record| record.gateway.is_some_and(|id| of.contains(&id)))
                .await
            {
                Ok(Scan::Whole) => unfinished.clear(),
                Ok(Scan::Partly) => {}
                Err(error) => warn(&error),
            }
        }
        forget(&shared, &unfinished).await;
    }
}

fn warn(error: &workspace::Error) {
    tracing::error!(error = error as &dyn std::error::Error, "cannot look after what others left");
}

/// How much a look through all jobs saw of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scan {
    /// All.
    Whole,
    /// Some could not be read now.
    Partly,
}

/// Takes over from gateways that are gone, and returns which.
async fn adopt(shared: &Arc<Shared>) -> workspace::Result<Vec<ReplicaId>> {
    let mut adopted = shared.adopted.lock().await;
    let known: Vec<_> = adopted.keys().copied().chain([shared.id]).collect();
    let workspace = shared.workspace.clone();
    let found = blocking(move || workspace.adopt_gateways(&known)).await?;
    let ids = found.iter().map(|(id, _)| *id).collect();
    adopted.extend(found);
    Ok(ids)
}

/// Removes what is left of adopted gateways of whose jobs none waits any more, but of those `unfinished`.
async fn forget(shared: &Arc<Shared>, unfinished: &[ReplicaId]) {
    let mut adopted = shared.adopted.lock().await;
    let done: Vec<_> = {
        let books = shared.books();
        let waits = |id: &ReplicaId| books.has_waiting_of(*id) || unfinished.contains(id);
        adopted.keys().copied().filter(|id| !waits(id)).collect()
    };
    for id in done {
        if let Some(lease) = adopted.remove(&id) {
            let workspace = shared.workspace.clone();
            blocking(move || workspace.forget_gateway(id, lease)).await;
        }
    }
}

struct Found {
    job: Job,
    record: JobRecord,
    is_taken: bool,
    turns: Vec<Turn>,
}

/// Looks through all jobs for those of them that have not ended.
async fn take_up(
    shared: &Arc<Shared>,
    wanted: impl Fn(&JobRecord) -> bool + Send + 'static,
) -> workspace::Result<Scan> {
    let workspace = shared.workspace.clone();
    let (unfinished, mut scan) = blocking(move || {
        let (mut unfinished, mut scan) = (Vec::new(), Scan::Whole);
        for id in Job::list(&workspace)? {
            // One unreadable job must not keep all others from being served.
            match Job::open(&workspace, id).and_then(|job| job.map_or(Ok(None), look)) {
                Ok(Some(found)) if wanted(&found.record) => unfinished.push(found),
                Ok(_) => {}
                Err(error) => {
                    // What is damaged will never be read.
                    if !error.is_damage() {
                        scan = Scan::Partly;
                    }
                    workspace.report_once(id.to_string().as_ref(), &error);
                }
            }
        }
        Ok::<_, workspace::Error>((unfinished, scan))
    })
    .await?;
    let (mut running, mut waiting) = (0, 0);
    for Found { job, record, is_taken, turns } in unfinished {
        let id = job.id();
        let ticket = Arc::new(Ticket::new(job.clone(), &record, turns, None, Caller::Away));
        if is_taken {
            running += 1;
            shared.books().queue.take_turn(&ticket);
            shared.look_after(job, record.service);
            continue;
        }
        // It waits in this queue already, or in that of another gateway that lives.
        if shared.ticket(id).is_some() {
            continue;
        }
        match is_ours(shared, record.gateway).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                warn(&error);
                scan = Scan::Partly;
                continue;
            }
        }
        waiting += 1;
        if record.request.credentials_withheld {
            let sentence = "the gateway restarted while this job waited, and the credentials in its URL are never \
                            written down: send it again";
            shared.end(&ticket, Code::AuthenticationFailed, sentence).await;
        } else {
            shared.books().queue.insert(ticket);
        }
    }
    if running + waiting > 0 {
        tracing::info!(running, waiting, "took up jobs from before");
        shared.work.notify_waiters();
    }
    Ok(scan)
}

/// Whether a job that waits is this gateway's to look after. One that no gateway has named was named by a
/// replica that died with it.
async fn is_ours(shared: &Arc<Shared>, gateway: Option<ReplicaId>) -> workspace::Result<bool> {
    let Some(id) = gateway else { return Ok(true) };
    let mut adopted = shared.adopted.lock().await;
    if adopted.contains_key(&id) {
        return Ok(true);
    }
    // Its file may have been removed: whoever makes a new one, locked, has it.
    let workspace = shared.workspace.clone();
    let lease = blocking(move || workspace.adopt_gateway(id)).await?;
    Ok(lease.map(|lease| adopted.insert(id, lease)).is_some())
}

fn look(job: Job) -> workspace::Result<Option<Found>> {
    match job.outcome() {
        Ok(None) => {}
        // A job that has ended, and does not say how, is ended once more.
        Err(error) if error.is_damage() => return job.settle().map(|_| None),
        outcome => return outcome.map(|_| None),
    }
    let record = match job.record() {
        Err(error) if error.is_damage() => {
            if let Some(aside) = job.set_aside()? {
                tracing::error!(job = %job.id(), aside = %aside.display(), "a job whose record is damaged is set aside");
            }
            return Err(error);
        }
        record => record?,
    };
    let is_taken = job.claimed()?.is_some();
    let turns = record.turns(job.workspace())?.own;
    Ok(Some(Found { job, record, is_taken, turns }))
}
