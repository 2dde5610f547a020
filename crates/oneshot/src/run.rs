//! Runs a job: writes its stream to its journal until it ends.

use std::{panic::AssertUnwindSafe, pin::pin, time::Duration};

use contract::{Code, Ending, EventLine, Service};
use futures_util::{FutureExt, Stream, StreamExt};
use workspace::{ClaimedJob, Job, blocking};

use crate::{JobContext, Step, Stop, StopReason};

/// How a job ended, and whether any of its work is still running.
pub(crate) struct Driven {
    pub(crate) ending: Ending,
    pub(crate) left: Left,
}

/// What is still running after the end of a job's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    /// Work that cannot be stopped until the process exits.
    Work,
}

/// Appends what the job's stream yields to its journal, of at most `journal_limit` bytes. Returns how the job ended.
pub(crate) async fn drive(
    service: Service,
    claimed: &mut ClaimedJob,
    context: &JobContext,
    journal_limit: u64,
    steps: impl Stream<Item = Step> + Send,
) -> Driven {
    let failure = |code, sentence: &str| Ending::failure(service, context.id, code, sentence);
    let ending = {
        let mut steps = pin!(steps);
        let overdue = async {
            context.stop.requested().await;
            tokio::time::sleep(context.stop_budget).await;
        };
        let mut overdue = pin!(overdue);
        loop {
            let step = tokio::select! {
                step = AssertUnwindSafe(steps.next()).catch_unwind() => step,
                () = &mut overdue => {
                    let reason = context.stop.reason().unwrap_or(StopReason::Terminated);
                    tracing::error!(job = %context.id, "the job did not stop within its stop budget");
                    break failure(reason.code(), reason.sentence());
                }
            };
            match step {
                Ok(Some(Step::Event(event))) => {
                    if let Err((code, sentence)) = append(claimed, &event, journal_limit) {
                        break failure(code, &sentence);
                    }
                }
                Ok(Some(Step::End(ending))) => return Driven { ending, left: Left::Nothing },
                Ok(None) => {
                    tracing::error!(job = %context.id, "the job's stream ended without a terminal event");
                    break failure(
                        Code::Internal,
                        "the job ended without a result: see the log of its service",
                    );
                }
                // The panic hook logged it.
                Err(_) => {
                    break failure(
                        Code::Internal,
                        "the service failed while running the job: see its log",
                    );
                }
            }
        }
    };
    // The stream was dropped before its end. Work that must not be interrupted gets time to finish.
    let left = if context.stop.abandon() {
        Left::Nothing
    } else {
        match tokio::time::timeout(context.stop_budget, context.stop.settled()).await {
            Ok(()) => Left::Nothing,
            Err(_) => Left::Work,
        }
    };
    Driven { ending, left }
}

fn append(
    claimed: &mut ClaimedJob,
    event: &EventLine,
    journal_limit: u64,
) -> Result<(), (Code, String)> {
    let length = event.as_bytes().len() as u64 + 1;
    if claimed.journal_length().saturating_add(length) > journal_limit {
        let mib = journal_limit >> 20;
        let sentence = format!(
            "the job wrote more events than a journal may hold ({mib} MiB): split the work into smaller jobs, or raise \
             JOURNAL_LIMIT_MIB"
        );
        return Err((Code::JournalFull, sentence));
    }
    claimed.append(event).map(drop).map_err(|error| {
        let job = claimed.job().id();
        tracing::error!(%job, error = &error as &dyn std::error::Error, "failed to write the journal");
        if error.is_disk_full() {
            let sentence = "the workspace is full: free some space, then send the job again";
            (Code::DiskFull, sentence.to_owned())
        } else {
            let sentence = "the job's journal cannot be written: see the log of its service";
            (Code::Internal, sentence.to_owned())
        }
    })
}

/// Requests a stop when the job is cancelled or its time is up. Never returns.
pub(crate) async fn watch(job: Job, context: JobContext) {
    let cancelled = async {
        let mut watch = job.workspace().watcher().watch(&job.control());
        loop {
            let look = job.clone();
            match blocking(move || look.is_cancel_requested()).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => job.workspace().report_once(&job.control(), &error),
            }
            watch.changed().await;
        }
        context.stop.request(StopReason::Cancelled);
        std::future::pending::<()>().await;
    };
    let late = async {
        context.deadline.passed().await;
        context.stop.request(StopReason::Deadline);
        std::future::pending::<()>().await;
    };
    tokio::join!(cancelled, late);
}

/// Requests a stop after `grace`. Without it, the job runs until its own deadline. Never returns.
pub(crate) async fn end_of_grace(grace: Option<Duration>, stop: Stop) {
    if let Some(grace) = grace {
        tokio::time::sleep(grace).await;
        stop.request(StopReason::Terminated);
    }
    std::future::pending().await
}
