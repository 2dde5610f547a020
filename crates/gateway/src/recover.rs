//! Jobs that no gateway looks after: those that a gateway finds on the volume when it starts, and those of a gateway
//! that dies while this one runs.

use std::{sync::Arc, time::Duration};

use contract::{Code, GatewayId};
use tokio::time::Instant;
use workspace::{Job, JobRecord, Turn, blocking};

use crate::{
    lifecycle::Lifecycle,
    shared::{Shared, end_of},
    state::Transition,
    ticket::{CallerState, Ticket},
};

/// How often to look for gateways that are gone. Nothing tells when a lock is released.
const LOOK: Duration = Duration::from_secs(2);
/// How often to remove the unfinished files of killed processes.
const TIDY: Duration = Duration::from_secs(600);

/// Takes over the jobs that no gateway looks after: those that run are watched, and those that wait are queued again in
/// their old order.
pub(crate) async fn at_start(shared: &Arc<Shared>) -> workspace::Result<()> {
    adopt(shared).await?;
    take_over(shared, |_| true).await.map(drop)
}

/// Does the same for gateways that die later. Never returns.
pub(crate) async fn run(shared: Arc<Shared>) {
    // Adopted gateways of whose jobs some could not be read yet.
    let mut unfinished = Vec::new();
    let mut tidied: Option<Instant> = None;
    loop {
        if tidied.is_none_or(|last| last.elapsed() >= TIDY) {
            tidied = Some(Instant::now());
            let workspace = shared.workspace.clone();
            match blocking(move || workspace.tidy()).await {
                Ok(0) => {}
                Ok(removed) => {
                    tracing::info!(removed, "removed unfinished files of killed processes")
                }
                Err(error) => warn(&error),
            }
        }
        tokio::time::sleep(LOOK).await;
        let workspace = shared.workspace.clone();
        if let Err(error) = blocking(move || workspace.index_ended()).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot index the jobs that have ended"
            );
        }
        // A gateway that accepts no more jobs leaves them to others.
        if shared.lifecycle.get() != Lifecycle::Serving {
            continue;
        }
        match adopt(&shared).await {
            Ok(adopted) => unfinished.extend(adopted),
            Err(error) => warn(&error),
        }
        if !unfinished.is_empty() {
            let of = unfinished.clone();
            match take_over(&shared, move |record| {
                record.gateway.is_some_and(|id| of.contains(&id))
            })
            .await
            {
                Ok(Scan::Complete) => unfinished.clear(),
                Ok(Scan::Partial) => {}
                Err(error) => warn(&error),
            }
        }
        forget(&shared, &unfinished).await;
    }
}

fn warn(error: &workspace::Error) {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "cannot take over the jobs of gateways that are gone"
    );
}

/// Whether all jobs could be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scan {
    /// All could.
    Complete,
    /// Some could not be read now.
    Partial,
}

/// Takes over from gateways that are gone, and returns which.
async fn adopt(shared: &Arc<Shared>) -> workspace::Result<Vec<GatewayId>> {
    let mut adopted = shared.adopted.lock().await;
    let known: Vec<_> = adopted.keys().copied().chain([shared.id]).collect();
    let workspace = shared.workspace.clone();
    let found = blocking(move || workspace.adopt_gateways(&known)).await?;
    let ids = found.iter().map(|(id, _)| *id).collect();
    adopted.extend(found);
    Ok(ids)
}

/// Removes the files of adopted gateways that have no more waiting jobs, except those in `unfinished`.
async fn forget(shared: &Arc<Shared>, unfinished: &[GatewayId]) {
    let mut adopted = shared.adopted.lock().await;
    let done: Vec<_> = {
        let state = shared.state();
        let waits = |id: &GatewayId| state.has_waiting_of(*id) || unfinished.contains(id);
        adopted.keys().copied().filter(|id| !waits(id)).collect()
    };
    for id in done {
        if let Some(lease) = adopted.remove(&id) {
            let workspace = shared.workspace.clone();
            blocking(move || workspace.forget_gateway(id, lease)).await;
        }
    }
}

/// A job that has not ended.
struct UnfinishedJob {
    job: Job,
    record: JobRecord,
    is_taken: bool,
    turns: Vec<Turn>,
}

/// Looks through the jobs that have not ended, and takes over those that are `wanted`.
async fn take_over(
    shared: &Arc<Shared>,
    wanted: impl Fn(&JobRecord) -> bool + Send + 'static,
) -> workspace::Result<Scan> {
    let (workspace, by) = (shared.workspace.clone(), shared.claimant());
    let (unfinished, forged, mut scan) = blocking(move || {
        let (mut unfinished, mut forged, mut scan) = (Vec::new(), Vec::new(), Scan::Complete);
        for id in workspace.open_jobs()? {
            // One unreadable job must not hold up all others.
            match Job::open(&workspace, id)
                .and_then(|job| job.map_or(Ok(None), |job| look(job, &by)))
            {
                Ok(Some(found)) if wanted(&found.record) => unfinished.push(found),
                Ok(_) => {}
                Err(error) => {
                    // A damaged file will never be readable.
                    if !error.is_damage() {
                        scan = Scan::Partial;
                    }
                    workspace.report_once(id.to_string().as_ref(), &error);
                    if error.is_forged() {
                        forged.extend(Job::open(&workspace, id)?);
                    }
                }
            }
        }
        Ok::<_, workspace::Error>((unfinished, forged, scan))
    })
    .await?;
    // If a replica runs it, somebody must notice when that dies. The job's turns are not known.
    for job in forged {
        if shared.forged().insert(job.id()) {
            let watching = Arc::clone(shared);
            shared.tasks.spawn(async move {
                end_of(&job).await;
                watching.forged().remove(&job.id());
            });
        }
    }
    let (mut running, mut waiting) = (0, 0);
    for UnfinishedJob { job, record, is_taken, turns } in unfinished {
        let id = job.id();
        let ticket = Arc::new(Ticket::new(job.clone(), &record, turns, None, CallerState::CutOff));
        if is_taken {
            running += 1;
            shared.watch_running(&ticket, None);
            continue;
        }
        // It is in this queue already.
        if shared.ticket(id).is_some() {
            continue;
        }
        match is_ours(shared, record.gateway).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                warn(&error);
                scan = Scan::Partial;
                continue;
            }
        }
        waiting += 1;
        if record.request.credentials_withheld {
            let sentence = "the gateway restarted while this job waited, and the credentials in its URL are never \
                            written to disk: send it again";
            shared.end(&ticket, Code::AuthenticationFailed, sentence).await;
        } else {
            shared.state().transition(&ticket, Transition::Queued);
        }
    }
    if running + waiting > 0 {
        tracing::info!(running, waiting, "took over jobs");
    }
    Ok(scan)
}

/// Whether this gateway looks after a queued job. A job without a gateway was created by a replica that died at that
/// moment.
async fn is_ours(shared: &Arc<Shared>, gateway: Option<GatewayId>) -> workspace::Result<bool> {
    let Some(id) = gateway else { return Ok(true) };
    let mut adopted = shared.adopted.lock().await;
    if adopted.contains_key(&id) {
        return Ok(true);
    }
    // Its file may have been removed. Whoever creates and locks a new one has it.
    let workspace = shared.workspace.clone();
    let lease = blocking(move || workspace.adopt_gateway(id)).await?;
    Ok(lease.map(|lease| adopted.insert(id, lease)).is_some())
}

fn look(job: Job, by: &str) -> workspace::Result<Option<UnfinishedJob>> {
    match job.outcome() {
        Ok(None) => {}
        // A job whose outcome is damaged is ended once more.
        Err(error) if error.is_damage() => {
            // Unless it is forged and was taken away.
            if job.settle()?.is_some() {
                return Ok(None);
            }
        }
        outcome => return outcome.map(|_| None),
    }
    let record = match job.record() {
        Err(error) if error.is_damage() => {
            if job.end_forged(by, &error)?.is_some() {
                tracing::error!(job = %job.id(), "a job whose record this stack did not write is ended");
            } else if let Some(aside) = job.set_aside()? {
                tracing::error!(job = %job.id(), aside = %aside.display(), "a job whose record is damaged is set aside");
            }
            return Err(error);
        }
        record => record?,
    };
    let is_taken = job.claimed()?.is_some();
    let turns = match record.turns(job.workspace()) {
        // Its workflow ends, and nobody else would end this job.
        Err(error) if error.is_forged() => {
            job.end_forged(by, &error)?;
            return Err(error);
        }
        turns => turns?.own,
    };
    Ok(Some(UnfinishedJob { job, record, is_taken, turns }))
}
