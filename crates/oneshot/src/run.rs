//! The job itself: its stream into its journal, and its end.

use std::{panic::AssertUnwindSafe, pin::pin, time::Duration};

use contract::{Code, Ending, Service};
use futures_util::{FutureExt, Stream, StreamExt};
use workspace::{ClaimedJob, Job};

use crate::{JobContext, Step, Stop, StopReason};

/// How long a job may take to end once it is asked to; then it is ended without being asked.
pub(crate) const STOP_TIME: Duration = Duration::from_secs(8);

/// Appends what the job's stream yields to its journal, which may grow to `journal_limit` bytes, until it ends,
/// and returns how.
pub(crate) async fn drive(
    service: Service,
    claimed: &mut ClaimedJob,
    context: &JobContext,
    journal_limit: u64,
    steps: impl Stream<Item = Step> + Send,
) -> Ending {
    let id = context.id;
    let failure = |code, sentence: &str| Ending::failure(service, id, code, sentence);
    let mut steps = pin!(steps);
    let overdue = async {
        context.stop.requested().await;
        tokio::time::sleep(context.stop_time).await;
    };
    let mut overdue = pin!(overdue);
    loop {
        let step = tokio::select! {
            step = AssertUnwindSafe(steps.next()).catch_unwind() => step,
            () = &mut overdue => {
                let reason = context.stop.reason().unwrap_or(StopReason::Terminated);
                tracing::error!(job = %id, "the job did not stop when it was asked to");
                return failure(reason.code(), reason.sentence());
            }
        };
        match step {
            Ok(Some(Step::Event(event))) => {
                let length = event.as_bytes().len() as u64 + 1;
                if claimed.journal_length().saturating_add(length) > journal_limit {
                    let mib = journal_limit >> 20;
                    let sentence = format!(
                        "the job said more than a journal may hold ({mib} MiB): ask for less at once, or raise \
                         JOURNAL_LIMIT_MIB"
                    );
                    return failure(Code::JournalFull, &sentence);
                }
                if let Err(error) = claimed.append(&event) {
                    tracing::error!(job = %id, error = &error as &dyn std::error::Error, "cannot write the journal");
                    return if error.is_disk_full() {
                        failure(
                            Code::DiskFull,
                            "the workspace is full: make room, then send the job again",
                        )
                    } else {
                        failure(Code::Internal, "the job's journal cannot be written")
                    };
                }
            }
            Ok(Some(Step::End(ending))) => return ending,
            Ok(None) => {
                tracing::error!(job = %id, "the job's stream ended without an ending");
                return failure(Code::Internal, "the job ended without saying how");
            }
            // The panic has been printed by its hook.
            Err(_) => return failure(Code::Internal, "the service failed while it ran the job"),
        }
    }
}

/// Asks the job to end when somebody cancels it or its time is up. Never returns.
pub(crate) async fn watch(job: Job, context: JobContext) {
    let cancelled = async {
        let mut watch = job.workspace().watcher().watch(&job.control());
        while !job.is_cancel_requested() {
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
