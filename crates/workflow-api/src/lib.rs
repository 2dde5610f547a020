//! Pull, then execute: a workflow as two jobs of other services, relayed as they go.
//!
//! The workflow names its jobs itself and says on whose behalf it asks, so asking twice is the same as asking
//! once; and it reads them as any caller does, as Server-Sent Events. A stream that breaks off is taken up
//! again from the job's journal on the volume.
//!
//! *Architecture invariant:* this crate knows nothing of git and starts no processes.

mod cancel;
mod child;
mod config;
mod flow;
mod resume;

pub use config::Config;

use std::sync::Arc;

use boot::{Exit, Settings};
use contract::{Policy, RequestError, Service, WorkflowRequest};
use futures_util::Stream;
use oneshot::{JobContext, JobService, Step};
use serde_json::{Map, Value, json};
use workspace::Workspace;

/// The service.
#[derive(Debug)]
pub struct WorkflowApi {
    config: Arc<Config>,
}

impl WorkflowApi {
    /// Reads its settings.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self { config: Arc::new(Config::read(settings)) }
    }
}

impl JobService for WorkflowApi {
    const SERVICE: Service = Service::Workflow;
    type Request = WorkflowRequest;

    fn policy(&self) -> &Policy {
        &self.config.policy
    }

    fn check(&self, workspace: &Workspace, request: &WorkflowRequest) -> Result<(), RequestError> {
        resume::checkout(workspace, request).map(drop)
    }

    fn run(
        &self,
        context: JobContext,
        request: WorkflowRequest,
    ) -> impl Stream<Item = Step> + Send + 'static {
        flow::run(Arc::clone(&self.config), context, request)
    }

    fn health(&self, _: &Workspace) -> Map<String, Value> {
        let services = json!({
            "githubPullApi": self.config.github_pull_api.to_string(),
            "claudeCodeApi": self.config.claude_code_api.to_string(),
        });
        Map::from_iter([("services".to_owned(), services)])
    }
}

/// One replica, from its environment to its exit. The whole of its `main`.
#[must_use]
pub fn main() -> Exit {
    oneshot::main(WorkflowApi::read)
}
