//! Pull, then execute: a workflow relays the events of two jobs of other services.
//!
//! The workflow chooses the ids of its jobs and names itself as their parent, so asking twice is the same as asking
//! once. It reads their events as any caller does, as Server-Sent Events. If a stream breaks, it reads on in the
//! job's journal on the volume.
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

/// Runs one replica from start to exit. This is all of its `main`.
#[must_use]
pub fn main() -> Exit {
    boot::keep_files_private();
    oneshot::main(WorkflowApi::read)
}
