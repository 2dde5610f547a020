//! How a workflow that is to stop cancels the job that it asked for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use contract::{Code, Ending, JobId, Service};
use tokio::time::{Instant, interval, sleep_until};
use workspace::{Job, Workspace, blocking};

/// How long a service may take to create a job that it was asked for, and the gateway to end one in its queue.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// How often to look for a job that may not be there yet.
const TICK: Duration = Duration::from_millis(200);

/// Cancels the job `id`. Returns only if there will be no end of the job to wait for.
///
/// The request for the job may be on its way and the job not be there yet, so this looks for it until it appears. If no
/// service has been asked for it (`began`), or the service does not answer, there is nothing to wait for: if the job is
/// created after all, the end of the workflow cancels it.
pub(crate) async fn cancel(
    workspace: Workspace,
    id: JobId,
    service: Service,
    began: Arc<AtomicBool>,
) {
    let since = Instant::now();
    let mut ticks = interval(TICK);
    let mut has_failed = false;
    let job = loop {
        ticks.tick().await;
        let workspace = workspace.clone();
        let asked = blocking(move || {
            let job = Job::open(&workspace, id)?;
            job.as_ref().map_or(Ok(()), Job::request_cancel)?;
            Ok::<_, workspace::Error>(job)
        });
        match asked.await {
            Ok(Some(job)) => break job,
            Ok(None) if since.elapsed() > ANSWER_TIME || !began.load(Ordering::SeqCst) => return,
            Ok(None) => {}
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    log(id, &error);
                }
            }
        }
    };
    // The gateway ends a job that waits in its queue. If the gateway is gone, nobody else does.
    sleep_until(since + ANSWER_TIME).await;
    let ended = blocking(move || {
        let sentence = "the job was cancelled before a replica took it";
        let ending = Ending::failure(service, id, Code::Cancelled, sentence);
        job.end_unclaimed("workflow-api", ending)
    });
    if let Err(error) = ended.await {
        log(id, &error);
    }
    std::future::pending().await
}

fn log(id: JobId, error: &workspace::Error) {
    tracing::error!(child = %id, error = error as &dyn std::error::Error, "cannot cancel a job");
}

#[cfg(test)]
mod tests {
    use contract::{ExecuteRequest, JobRequest as _, Policy};
    use workspace::{JobRecord, NewJob, RequestDigest};

    use super::*;

    fn record(workspace: &Workspace, id: JobId) -> JobRecord {
        let body = br#"{"prompt":"x"}"#;
        let request = ExecuteRequest::parse(body, "/w", &Policy::default()).unwrap();
        let digest = RequestDigest::of(&request, body, None);
        JobRecord::of(workspace, &request, digest, id, None).unwrap()
    }

    #[tokio::test]
    async fn a_job_that_was_never_requested_is_not_awaited() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let started = Instant::now();
        cancel(workspace, JobId::new(), Service::Claude, Arc::default()).await;
        assert!(started.elapsed() < ANSWER_TIME);
    }

    /// It once wrote the same file every 200 ms until the job had ended.
    #[tokio::test]
    async fn a_job_that_comes_late_is_cancelled_once_and_ended_if_nobody_claims_it() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let id = JobId::new();
        let began = Arc::new(AtomicBool::new(true));
        let cancelling = tokio::spawn(cancel(workspace.clone(), id, Service::Claude, began));
        tokio::time::sleep(TICK / 2).await;
        let record = record(&workspace, id);
        let NewJob::Created(job) = Job::create(&workspace, &record).unwrap() else { panic!() };
        let mut watch = workspace.watcher().watch(&job.directory());
        let asked = loop {
            match std::fs::metadata(job.control().join("cancel")) {
                Ok(found) => break found.modified().unwrap(),
                Err(_) => watch.changed().await,
            }
        };
        let outcome = loop {
            match job.outcome().unwrap() {
                Some(outcome) => break outcome,
                None => watch.changed().await,
            }
        };
        assert_eq!(outcome.code, Some(Code::Cancelled));
        let last = std::fs::metadata(job.control().join("cancel")).unwrap().modified().unwrap();
        assert_eq!(asked, last, "written once");
        assert!(!cancelling.is_finished(), "the workflow waits for the job's end");
        cancelling.abort();
    }
}
