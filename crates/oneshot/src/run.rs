//! Runs a job: writes its stream to its journal until it ends.

use std::{panic::AssertUnwindSafe, pin::pin, time::Duration};

use contract::{Code, Ending, EventLine, Service};
use futures_util::{FutureExt, Stream, StreamExt};
use workspace::{ClaimedJob, Job, blocking};

use crate::{JobContext, Step, Stop, StopReason, pace::Pace};

/// The size from which events are written without waiting for more, in bytes.
pub(crate) const BATCH: usize = 64 * 1024;

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
        let mut pace = Pace::new();
        loop {
            let step = tokio::select! {
                step = AssertUnwindSafe(steps.next()).catch_unwind() => step,
                () = &mut overdue => {
                    let reason = context.stop.reason().unwrap_or(StopReason::Terminated);
                    tracing::error!(job = %context.id, "the job did not stop within its stop budget");
                    break failure(reason.code(), reason.sentence());
                }
            };
            if matches!(step, Ok(Some(Step::Event(_)))) {
                pace.wait().await;
            }
            // What else the job has to say at this moment is written with it.
            let (mut events, mut size, mut end) = (Vec::new(), 0, None);
            let mut next = Some(step);
            while let Some(step) = next {
                match step {
                    Ok(Some(Step::Event(event))) => {
                        size += event.as_bytes().len();
                        events.push(event);
                    }
                    Ok(Some(Step::End(ending))) => end = Some(Ok(ending)),
                    Ok(None) => {
                        tracing::error!(job = %context.id, "the job's stream ended without a terminal event");
                        end =
                            Some(Err("the job ended without a result: see the log of its service"));
                    }
                    // The panic hook logged it.
                    Err(_) => {
                        end = Some(Err("the service failed while running the job: see its log"))
                    }
                }
                next = if end.is_none() && size < BATCH {
                    AssertUnwindSafe(steps.next()).catch_unwind().now_or_never()
                } else {
                    None
                };
            }
            pace.wrote(size);
            if let Err((code, sentence)) = append(claimed, &events, journal_limit) {
                break failure(code, &sentence);
            }
            match end {
                None => {}
                Some(Ok(ending)) => return Driven { ending, left: Left::Nothing },
                Some(Err(sentence)) => break failure(Code::Internal, sentence),
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

/// Appends `events`, or as many of them as the journal and the volume can hold.
fn append(
    claimed: &mut ClaimedJob,
    events: &[EventLine],
    journal_limit: u64,
) -> Result<(), (Code, String)> {
    let size: u64 = events.iter().map(|event| event.as_bytes().len() as u64 + 1).sum();
    let fits = claimed.journal_length().saturating_add(size) <= journal_limit;
    if fits && claimed.append_all(events).is_ok() {
        return Ok(());
    }
    events.iter().try_for_each(|event| append_one(claimed, event, journal_limit))
}

fn append_one(
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
