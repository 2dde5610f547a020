//! The job: git's work on its own thread, told as a stream of steps.

use std::{path::PathBuf, sync::Arc, time::Duration};

use contract::{Code, Ending, EventLine, JobId, PullEvent, PullRequest, Service, Timestamp};
use futures_util::Stream;
use oneshot::{JobContext, Step, StopReason};
use tokio::task::JoinHandle;

use crate::{
    Config,
    failure::{Failure, Result},
    git::{self, Done, Job},
    report::Reporter,
};

/// How long git's thread has to end after it was asked to, before the stream ends without it.
const PATIENCE: Duration = Duration::from_millis(800);

/// The same while a checkout's files are being put in place, which takes renames only.
const PATIENCE_WHILE_SETTLING: Duration = Duration::from_secs(10);

/// How often silence is looked at.
const WATCH: Duration = Duration::from_millis(250);

/// Clones or updates the repository of `request`, as a stream that ends with [`Step::End`].
///
/// A job that is asked to stop, or whose git host is silent, ends even if the thread that talks to
/// the host is stuck in a socket; that thread then lives on until the host answers or the process
/// ends. So whoever owns the runtime must not wait for its blocking threads at the end.
pub fn pull(
    config: Arc<Config>,
    context: JobContext,
    request: PullRequest,
) -> impl Stream<Item = Step> + Send + 'static {
    async_stream::stream! {
        let id = context.id;
        let repo_url = request.repo_url.clone();
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
            repo_url: &repo_url,
            target_path: &target_path,
        }));

        let reporter = Reporter::default();
        let stall = config.stall;
        let job = Job {
            config,
            id,
            workspace: context.workspace.clone(),
            repo: request.repo_url,
            branch: request.branch,
            target,
            reporter: reporter.clone(),
            stop: context.stop.clone(),
        };
        let leftovers = job.aside();
        let _abandon = AbandonOnDrop(reporter.clone());
        let mut work = tokio::task::spawn_blocking(move || git::run(&job));
        let mut watch = tokio::time::interval(WATCH);
        let ending = loop {
            tokio::select! {
                biased;
                reason = context.stop.requested() => {
                    break stopped(id, reason, work, &reporter, leftovers, &target_path).await;
                }
                note = reporter.next() => yield Step::Event(note.event()),
                result = &mut work => break ending(id, &target_path, result.ok(), None),
                _ = watch.tick() => {
                    // libgit2's own timeouts come first; this is for what they do not cover, like a
                    // name server that does not answer.
                    if reporter.silence().is_some_and(|silence| silence > stall * 2) {
                        git::remove_leftovers(leftovers);
                        break failure(id, Code::RemoteStalled, &git::stalled(&repo_url, stall));
                    }
                }
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
        return Ok(workspace.root().join(real.as_str()));
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
    reporter: &Reporter,
    leftovers: PathBuf,
    target_path: &str,
) -> Ending {
    let patience = if reporter.is_settling() { PATIENCE_WHILE_SETTLING } else { PATIENCE };
    match tokio::time::timeout(patience, &mut work).await {
        // It was too late to stop: the checkout is there, and saying otherwise would be wrong.
        Ok(result) => ending(id, target_path, result.ok(), Some(reason)),
        Err(_) => {
            git::remove_leftovers(leftovers);
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
        (Some(Err(Failure::Damaged(what))), None) => {
            tracing::error!(job = %id, %what, "a pull found damage it could not mend");
            failure(
                id,
                Code::Internal,
                &format!("git could not read what it had just written: {what}; check the volume"),
            )
        }
        (None, None) => {
            tracing::error!(job = %id, "git's thread panicked");
            failure(id, Code::Internal, "the pull broke off: see the log of the pull service")
        }
    }
}

/// A stream that is dropped before its end takes git's work with it.
struct AbandonOnDrop(Reporter);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn failure(id: JobId, code: Code, sentence: &str) -> Ending {
    Ending::failure(Service::Pull, id, code, sentence)
}
