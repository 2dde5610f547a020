//! Blocking work on a thread of its own, as a stream of steps: what all jobs of this service have in common.

use std::{sync::Arc, time::Duration};

use contract::{Code, Ending, JobId, Service};
use futures_util::Stream;
use oneshot::{JobContext, Step, StopReason};
use tokio::task::JoinHandle;
use workspace::Workspace;

use crate::{
    Config,
    app::Need,
    connector::Connector,
    failure::{Failure, Result, quote},
    git::Git,
    monitor::Monitor,
    remote::Access,
    report::Reporter,
    staging::Staging,
};

/// What is kept of the stop budget for the end of the stream itself.
const RESERVE: Duration = Duration::from_millis(500);

/// Where the work is done.
pub(crate) struct Site<'a> {
    pub(crate) config: Arc<Config>,
    pub(crate) monitor: Monitor,
    /// The way to git hosts.
    pub(crate) access: Access<'a>,
    context: JobContext,
}

impl Site<'_> {
    /// The volume.
    pub(crate) fn workspace(&self) -> &Workspace {
        &self.context.workspace
    }

    /// A directory for this job.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn staging(&self) -> Result<Staging> {
        let path = self.workspace().temporary().join(self.context.id.to_string());
        Staging::create(&self.monitor, path)
    }

    /// git for this job. Call it within a runtime.
    ///
    /// # Errors
    /// If its configuration cannot be written.
    pub(crate) fn git(&self, staging: &Staging) -> Result<Git> {
        Git::new(&self.config, self.monitor.clone(), staging, self.context.deadline.limit())
    }
}

/// Runs `work`, which does no more to repositories than it `need`s to, as a stream that ends with [`Step::End`]. A job that is asked to stop ends as soon as the work does, at the
/// latest within the stop budget of its context.
pub(crate) fn drive<T: Send + 'static>(
    config: Arc<Config>,
    context: JobContext,
    need: Need,
    work: impl FnOnce(&Site<'_>) -> Result<T> + Send + 'static,
    ending_of: impl Fn(T) -> Ending + Send + Sync + 'static,
) -> impl Stream<Item = Step> + Send + 'static {
    async_stream::stream! {
        let id = context.id;
        let connector = match Connector::start(id, config.connector.clone()).await {
            Ok(connector) => connector,
            Err(error) => {
                let sentence = format!("there is no port for git's connections: {error}; check the machine");
                yield Step::End(failure(id, Code::Internal, &sentence));
                return;
            }
        };
        let reporter = Reporter::default();
        let _abandon = AbandonOnDrop(reporter.clone());
        let monitor = Monitor { reporter: reporter.clone(), stop: context.stop.clone() };
        let site_context = context.clone();
        let mut work = tokio::task::spawn_blocking(move || {
            let access = Access::new(Arc::clone(&config), &connector, monitor.clone(), need);
            let site = Site { config, monitor, access, context: site_context };
            let result = work(&site);
            site.access.revoke();
            result
        });
        let ending = loop {
            tokio::select! {
                biased;
                reason = context.stop.requested() => {
                    let time = context.stop_budget.saturating_sub(RESERVE);
                    let ending = stopped(id, reason, work, time, &ending_of).await;
                    // Whatever is still running may not begin to put anything in place.
                    let _ = context.stop.abandon();
                    break ending;
                }
                note = reporter.next() => yield Step::Event(note.event()),
                result = &mut work => break ending(id, &ending_of, result.ok(), None),
            }
        };
        while let Some(note) = reporter.take() {
            yield Step::Event(note.event());
        }
        yield Step::End(ending);
    }
}

/// The end of a job that was asked to end.
async fn stopped<T>(
    id: JobId,
    reason: StopReason,
    mut work: JoinHandle<Result<T>>,
    time: Duration,
    ending_of: impl Fn(T) -> Ending,
) -> Ending {
    match tokio::time::timeout(time, &mut work).await {
        // It was too late to stop: the work is done, and saying otherwise would be wrong.
        Ok(result) => ending(id, ending_of, result.ok(), Some(reason)),
        Err(_) => {
            tracing::error!(job = %id, "a job did not stop in time; a later one removes what it leaves");
            failure(id, reason.code(), reason.sentence())
        }
    }
}

fn ending<T>(
    id: JobId,
    ending_of: impl Fn(T) -> Ending,
    result: Option<Result<T>>,
    reason: Option<StopReason>,
) -> Ending {
    match (result, reason) {
        (Some(Ok(done)), _) => ending_of(done),
        (_, Some(reason)) => failure(id, reason.code(), reason.sentence()),
        (Some(Err(why)), None) => failed(id, why),
        (None, None) => {
            tracing::error!(job = %id, "the thread of a job panicked");
            failure(
                id,
                Code::Internal,
                "the job failed unexpectedly: see the log of the pull service",
            )
        }
    }
}

/// The end of a job that failed.
pub(crate) fn failed(id: JobId, why: Failure) -> Ending {
    match why {
        Failure::Told { code, sentence } => failure(id, code, &sentence),
        Failure::Stopped => failure(id, Code::Cancelled, StopReason::Cancelled.sentence()),
        Failure::Exceeded(sentence) => failure(id, Code::GitFailed, &sentence),
        Failure::Git(said) => {
            failure(id, Code::GitFailed, &format!("git failed: {}", quote(&said, &[])))
        }
        Failure::Stalled(time) => {
            let seconds = time.as_secs();
            failure(id, Code::RemoteStalled, &format!("the git host sent nothing for {seconds} s"))
        }
    }
}

/// A stream that is dropped before its end stops its work.
struct AbandonOnDrop(Reporter);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn failure(id: JobId, code: Code, sentence: &str) -> Ending {
    Ending::failure(Service::Pull, id, code, sentence)
}
