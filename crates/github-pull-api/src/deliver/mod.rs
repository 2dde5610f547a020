//! The delivery of a result: from the tree that an agent left to a branch of the repository, and a pull request for it.
//!
//! [`deliver()`] is the job. `source` finds on the volume what is to be delivered, `work` has the steps, `branch` recognizes
//! commits of ours at the host, `placement` decides what the result is put on, `commit` makes commits, `check` looks by the
//! `rules` at what would be pushed, `lfs` uploads what files in Git LFS contain, and `push` is the git host's side. `forge` asks for pull requests.
//!
//! *Architecture invariants:*
//! * A commit is made in a control directory of ours, of a tree that was read and not obeyed.
//! * A branch is only ever added to, and only if its last commit says that a delivery of the same session made it.
//! * A delivery can be repeated: a commit with the ID of the job that is already there is found, whatever became of the checkout.

mod branch;
mod check;
mod commit;
mod forge;
mod lfs;
mod placement;
mod push;
mod rules;
mod settings;
mod source;
mod work;

use std::sync::Arc;

use contract::{
    Code, DeliverEvent, DeliverMode, DeliverRequest, DeliveryBranch, Ending, EventLine, JobId,
    Timestamp,
};
use futures_util::Stream;
use oneshot::{JobContext, Step};

pub use self::settings::DeliverSettings;
use crate::{
    Config,
    app::Need,
    drive,
    failure::{Failure, Result},
};

/// What is at the git host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) branch: DeliveryBranch,
    pub(crate) commit: String,
    /// The pull request.
    pub(crate) url: Option<String>,
}

impl Delivered {
    fn ending(&self, job_id: JobId) -> Ending {
        Ending::success(&DeliverEvent::Completed {
            job_id,
            branch: &self.branch,
            commit: &self.commit,
            url: self.url.as_deref(),
            timestamp: Timestamp::now(),
        })
    }
}

/// Delivers the result of the job that `request` names, as a stream that ends with [`Step::End`].
///
/// A job that is asked to stop ends as soon as git is dead. It may have pushed by then; a repetition finds that out.
pub fn deliver(
    config: Arc<Config>,
    context: JobContext,
    request: DeliverRequest,
) -> impl Stream<Item = Step> + Send + 'static {
    async_stream::stream! {
        let id = context.id;
        let found = {
            let (config, context, request) = (Arc::clone(&config), context.clone(), request.clone());
            workspace::blocking(move || source::find(&config, &context, &request)).await
        };
        let source = match found {
            Ok(source) => source,
            Err(failure) => {
                yield Step::End(drive::failed(id, failure));
                return;
            }
        };
        yield Step::Event(EventLine::encode(&DeliverEvent::Connected {
            job_id: id,
            result_of: request.job,
            repo_url: source.repo.address(),
        }));
        let deliver = request.deliver;
        let need = Need::Write {
            pull_requests: deliver.mode == DeliverMode::PullRequest,
            workflows: deliver.allow_protected,
        };
        let work = move |site: &drive::Site<'_>| work::run(site, &source, &deliver);
        let steps = drive::drive(config, context, need, work, move |done: Delivered| done.ending(id));
        for await step in steps {
            yield step;
        }
    }
}

/// A failure whose sentence is for the caller.
fn refuse<T>(code: Code, sentence: impl Into<String>) -> Result<T> {
    Err(Failure::told(code, sentence))
}
