//! The jobs of the pull service.

use std::sync::Arc;

use boot::{Exit, Settings};
use contract::{Policy, PullJob, Service};
use futures_util::{Stream, StreamExt as _};
use oneshot::{JobContext, JobService, Step};
use serde_json::{Map, Value};
use workspace::Workspace;

use crate::{Config, changes, deliver, pull};

/// The service.
#[derive(Debug)]
pub struct GithubPullApi {
    config: Arc<Config>,
}

impl GithubPullApi {
    /// Reads its settings.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self { config: Arc::new(Config::read(settings)) }
    }
}

impl JobService for GithubPullApi {
    const SERVICE: Service = Service::Pull;
    type Request = PullJob;

    fn policy(&self) -> &Policy {
        &self.config.policy
    }

    fn run(
        &self,
        context: JobContext,
        request: PullJob,
    ) -> impl Stream<Item = Step> + Send + 'static {
        let config = Arc::clone(&self.config);
        match request {
            PullJob::Pull(request) => pull(config, context, *request).left_stream().left_stream(),
            PullJob::Changes(request) => {
                changes(config, context, request).right_stream().left_stream()
            }
            PullJob::Deliver(request) => deliver(config, context, *request).right_stream(),
        }
    }

    fn health(&self, workspace: &Workspace) -> Map<String, Value> {
        Map::from_iter([("workspace".to_owned(), workspace.root_text().into())])
    }
}

/// One replica, from its environment to its exit. The whole of its `main`.
#[must_use]
pub fn main() -> Exit {
    oneshot::main(GithubPullApi::read)
}
