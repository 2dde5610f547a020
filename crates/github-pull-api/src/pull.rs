//! The job: a pull, as a stream of steps.

use std::{path::PathBuf, sync::Arc};

use contract::{Code, Ending, EventLine, PullEvent, PullRequest, Timestamp};
use futures_util::Stream;
use oneshot::{JobContext, Step};

use crate::{
    Config,
    app::Need,
    checkout::Done,
    drive::{self, Site},
    failure::Failure,
    work::{self, Work},
};

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
                yield Step::End(drive::failed(id, Failure::told(Code::WorkspaceGone, sentence)));
                return;
            }
        };
        let target_path = target.to_string_lossy().into_owned();
        yield Step::Event(EventLine::encode(&PullEvent::Connected {
            job_id: id,
            repo_url: &request.repo_url,
            target_path: &target_path,
        }));
        let (workspace, deadline) = (context.workspace.clone(), context.deadline.limit());
        let work = move |site: &Site<'_>| {
            let (config, monitor) = (Arc::clone(&site.config), site.monitor.clone());
            work::run(&Work { config, id, workspace, request, target, monitor, deadline }, &site.access)
        };
        let ending = move |done: Done| Ending::success(&PullEvent::Completed {
            job_id: id,
            target_path: &target_path,
            timestamp: Timestamp::now(),
            branch: done.branch.as_ref(),
            commit: Some(&done.commit),
        });
        for await step in drive::drive(config, context, Need::Read, work, ending) {
            yield step;
        }
    }
}

/// Where the checkout goes. Blocking.
fn target(context: &JobContext, request: &PullRequest) -> Result<PathBuf, String> {
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
