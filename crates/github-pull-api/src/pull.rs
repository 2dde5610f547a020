//! The job: a pull on a thread of its own, as a stream of steps.

use std::{path::PathBuf, sync::Arc, time::Duration};

use contract::{Code, Ending, EventLine, JobId, PullEvent, PullRequest, Service, Timestamp};
use futures_util::Stream;
use oneshot::{JobContext, Step, StopReason};
use tokio::task::JoinHandle;

use crate::{
    Config,
    checkout::Done,
    connector::Connector,
    failure::{Failure, Result, quote},
    monitor::Monitor,
    report::Reporter,
    work::{self, Work},
};

/// What is kept of the stop budget for the end of the stream itself.
const RESERVE: Duration = Duration::from_millis(500);

/// Clones or updates the repository of `request`, as a stream that ends with [`Step::End`].
///
/// A job that is asked to stop ends as soon as git is dead and what it had begun is undone, at the latest
/// within the stop budget of its context.
pub fn pull(
    config: Arc<Config>,
    context: JobContext,
    request: PullRequest,
) -> impl Stream<Item = Step> + Send + 'static {
    async_stream::stream! {
        let id = context.id;
        let found = {
            let (context, request) = (context.clone(), request.clone());
            workspace::blocking(move || target(&context, &request)).await
        };
        let target = match found {
            Ok(target) => target,
            Err(why) => {
                let sentence = format!("'workspace': {why}");
                yield Step::End(failure(id, Code::WorkspaceGone, &sentence));
                return;
            }
        };
        let target_path = target.to_string_lossy().into_owned();
        yield Step::Event(EventLine::encode(&PullEvent::Connected {
            job_id: id,
            repo_url: &request.repo_url,
            target_path: &target_path,
        }));
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
        let work = Work {
            config,
            id,
            workspace: context.workspace.clone(),
            request,
            target,
            monitor: Monitor { reporter: reporter.clone(), stop: context.stop.clone() },
            deadline: context.deadline.limit(),
        };
        let mut work = tokio::task::spawn_blocking(move || work::run(&work, &connector));
        let ending = loop {
            tokio::select! {
                biased;
                reason = context.stop.requested() => {
                    let time = context.stop_budget.saturating_sub(RESERVE);
                    let ending = stopped(id, reason, work, time, &target_path).await;
                    // Whatever is still running may not begin to put anything in place.
                    let _ = context.stop.abandon();
                    break ending;
                }
                note = reporter.next() => yield Step::Event(note.event()),
                result = &mut work => break ending(id, &target_path, result.ok(), None),
            }
        };
        while let Some(note) = reporter.take() {
            yield Step::Event(note.event());
        }
        yield Step::End(ending);
    }
}

/// Where the checkout goes. Blocking.
fn target(context: &JobContext, request: &PullRequest) -> std::result::Result<PathBuf, String> {
    let workspace = &context.workspace;
    if let Some(path) = &request.workspace {
        // A link in it must not lead out of the workspace.
        let real = workspace.resolve(path).map_err(|error| error.to_string())?;
        let is_allowed = workspace.may_work_in(context.id, &real);
        return if is_allowed.map_err(|error| error.to_string())? {
            Ok(workspace.root().join(real.as_str()))
        } else {
            Err(format!("'{path}' does not exist in the workspace"))
        };
    }
    Ok(match (&request.directory, context.parent) {
        (Some(name), _) => workspace.checkout(name),
        (None, Some(parent)) => {
            workspace.job_directory(parent).join(request.repo_url.directory_name().as_str())
        }
        (None, None) => workspace.checkout(&request.repo_url.directory_name()),
    })
}

/// The end of a job that was asked to end.
async fn stopped(
    id: JobId,
    reason: StopReason,
    mut work: JoinHandle<Result<Done>>,
    time: Duration,
    target_path: &str,
) -> Ending {
    match tokio::time::timeout(time, &mut work).await {
        // It was too late to stop: the checkout is there, and saying otherwise would be wrong.
        Ok(result) => ending(id, target_path, result.ok(), Some(reason)),
        Err(_) => {
            tracing::error!(job = %id, "a pull did not stop in time; a later one removes what it leaves");
            failure(id, reason.code(), reason.sentence())
        }
    }
}

fn ending(
    id: JobId,
    target_path: &str,
    result: Option<Result<Done>>,
    reason: Option<StopReason>,
) -> Ending {
    match (result, reason) {
        (Some(Ok(done)), _) => Ending::success(&PullEvent::Completed {
            job_id: id,
            target_path,
            timestamp: Timestamp::now(),
            branch: done.branch.as_ref(),
            commit: Some(&done.commit),
        }),
        (_, Some(reason)) => failure(id, reason.code(), reason.sentence()),
        (Some(Err(Failure::Told { code, sentence })), None) => failure(id, code, &sentence),
        (Some(Err(Failure::Stopped)), None) => {
            failure(id, Code::Cancelled, StopReason::Cancelled.sentence())
        }
        (Some(Err(Failure::Git(said))), None) => {
            failure(id, Code::GitFailed, &format!("git failed: {}", quote(&said, &[])))
        }
        (Some(Err(Failure::Stalled(time))), None) => {
            let seconds = time.as_secs();
            failure(id, Code::RemoteStalled, &format!("the git host sent nothing for {seconds} s"))
        }
        (None, None) => {
            tracing::error!(job = %id, "the thread of a pull panicked");
            failure(
                id,
                Code::Internal,
                "the pull failed unexpectedly: see the log of the pull service",
            )
        }
    }
}

/// A stream that is dropped before its end stops its pull.
struct AbandonOnDrop(Reporter);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn failure(id: JobId, code: Code, sentence: &str) -> Ending {
    Ending::failure(Service::Pull, id, code, sentence)
}
