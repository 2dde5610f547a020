//! What a gateway finds on the volume when it starts.

use std::sync::Arc;

use contract::Code;
use workspace::{Job, JobRecord, Lease, blocking};

use crate::{
    state::Shared,
    ticket::{Caller, Ticket},
};

/// Takes up the jobs that no gateway looks after: those that run are watched, those that wait are queued
/// again, in their old order.
pub(crate) async fn recover(shared: &Arc<Shared>) -> workspace::Result<()> {
    let workspace = shared.workspace.clone();
    blocking(move || workspace.forget_dead_gateways()).await;
    let workspace = shared.workspace.clone();
    let unfinished = blocking(move || {
        let mut unfinished = Vec::new();
        for id in Job::list(&workspace)? {
            let Some(job) = Job::open(&workspace, id) else { continue };
            // One unreadable job must not keep all others from being served.
            match look(&job) {
                Ok(Some(found)) => unfinished.push((job, found)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(job = %id, error = &error as &dyn std::error::Error, "cannot read a job");
                }
            }
        }
        Ok::<_, workspace::Error>(unfinished)
    })
    .await?;
    let (mut running, mut waiting) = (0, 0);
    for (job, found) in unfinished {
        let ticket = Arc::new(Ticket::new(
            job.clone(),
            &found.record,
            found.in_parents_turn,
            None,
            Caller::Away,
        ));
        if found.taken {
            running += 1;
            shared.books().queue.take_turn(&ticket);
            shared.look_after(job, found.record.service);
            continue;
        }
        if found.elsewhere {
            continue;
        }
        waiting += 1;
        if found.record.request.credentials_withheld {
            let sentence = "the gateway restarted while this job waited, and the credentials in its URL are never \
                            written down: send it again";
            shared.end(&ticket, Code::AuthenticationFailed, sentence).await;
        } else {
            shared.books().queue.insert(ticket);
        }
    }
    if running + waiting > 0 {
        tracing::info!(running, waiting, "took up jobs from before");
    }
    Ok(())
}

struct Found {
    record: JobRecord,
    taken: bool,
    in_parents_turn: bool,
    /// Whether it waits in the queue of another gateway that lives.
    elsewhere: bool,
}

fn look(job: &Job) -> workspace::Result<Option<Found>> {
    if job.outcome()?.is_some() {
        return Ok(None);
    }
    let record = job.record()?;
    let taken = job.taken()?.is_some();
    let in_parents_turn = record.works_in_parents_turn(job.workspace());
    let gateway = record.gateway.map(|id| job.workspace().gateway(id));
    let elsewhere = match gateway {
        Some(path) => Lease::is_held(&path)?,
        None => false,
    };
    Ok(Some(Found { record, taken, in_parents_turn, elsewhere }))
}
