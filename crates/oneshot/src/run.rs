//! The job itself: its stream into its journal, and its end.

use std::{panic::AssertUnwindSafe, pin::pin, time::Duration};

use contract::{Code, Ending, EventLine, Service};
use futures_util::{FutureExt, Stream, StreamExt};
use workspace::{ClaimedJob, Job, blocking};

use crate::{JobContext, Step, Stop, StopReason};

/// How a job ended, and whether anything of it is left.
pub(crate) struct Driven {
    pub(crate) ending: Ending,
    pub(crate) work: Work,
}

/// Whether a job's work is over when its stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// It is.
    Done,
    /// A part of it cannot be stopped, and goes on as long as the process.
    GoesOn,
}

/// Appends what the job's stream yields to its journal, which may grow to `journal_limit` bytes, until it ends,
/// and returns how.
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
                    tracing::error!(job = %context.id, "the job did not stop when it was asked to");
                    break failure(reason.code(), reason.sentence());
                }
            };
            match step {
                Ok(Some(Step::Event(event))) => {
                    if let Err((code, sentence)) = append(claimed, &event, journal_limit) {
                        break failure(code, &sentence);
                    }
                }
                Ok(Some(Step::End(ending))) => return Driven { ending, work: Work::Done },
                Ok(None) => {
                    tracing::error!(job = %context.id, "the job's stream ended without an ending");
                    break failure(
                        Code::Internal,
                        "the job ended without saying how: see the log of its service",
                    );
                }
                // The panic has been printed by its hook.
                Err(_) => {
                    break failure(
                        Code::Internal,
                        "the service failed while it ran the job: see its log",
                    );
                }
            }
        }
    };
    // The stream was dropped before its end. A part of the job that must not be left half done is waited for.
    let work = if context.stop.abandon() {
        Work::Done
    } else {
        match tokio::time::timeout(context.stop_budget, context.stop.settled()).await {
            Ok(()) => Work::Done,
            Err(_) => Work::GoesOn,
        }
    };
    Driven { ending, work }
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
            "the job said more than a journal may hold ({mib} MiB): ask for less at once, or raise \
             JOURNAL_LIMIT_MIB"
        );
        return Err((Code::JournalFull, sentence));
    }
    claimed.append(event).map(drop).map_err(|error| {
        let job = claimed.job().id();
        tracing::error!(%job, error = &error as &dyn std::error::Error, "cannot write the journal");
        if error.is_disk_full() {
            let sentence = "the workspace is full: make room, then send the job again";
            (Code::DiskFull, sentence.to_owned())
        } else {
            let sentence = "the job's journal cannot be written: see the log of its service";
            (Code::Internal, sentence.to_owned())
        }
    })
}

/// Asks the job to end when somebody cancels it or its time is up. Never returns.
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

/// Asks the job to end after `grace`, or leaves it to its own deadline. Never returns.
pub(crate) async fn end_of_grace(grace: Option<Duration>, stop: Stop) {
    if let Some(grace) = grace {
        tokio::time::sleep(grace).await;
        stop.request(StopReason::Terminated);
    }
    std::future::pending().await
}
