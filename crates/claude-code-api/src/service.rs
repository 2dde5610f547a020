//! The agent's run as a service.

use std::sync::Arc;

use boot::{Exit, Settings};
use contract::{ExecuteRequest, Policy, RequestError, Service};
use futures_util::Stream;
use oneshot::{JobContext, JobService, Step};
use serde_json::{Map, Value};
use workspace::Workspace;

use crate::{Config, execute, kill_now};

/// The service.
#[derive(Debug)]
pub struct ClaudeCodeApi {
    config: Arc<Config>,
}

impl ClaudeCodeApi {
    /// Reads the service's settings.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self { config: Arc::new(Config::read(settings)) }
    }
}

impl JobService for ClaudeCodeApi {
    const SERVICE: Service = Service::Claude;
    type Request = ExecuteRequest;

    fn policy(&self) -> &Policy {
        &self.config.policy
    }

    fn check(&self, workspace: &Workspace, request: &ExecuteRequest) -> Result<(), RequestError> {
        let Some(path) = &request.workspace else { return Ok(()) };
        workspace.resolve(path).map(drop).map_err(|error| error.refusal("workspace"))
    }

    fn run(
        &self,
        context: JobContext,
        request: ExecuteRequest,
    ) -> impl Stream<Item = Step> + Send + 'static {
        execute(Arc::clone(&self.config), context, request)
    }

    async fn prepare(&mut self, workspace: &Workspace) -> Result<(), String> {
        Arc::make_mut(&mut self.config).settle_user(workspace).await
    }

    fn health(&self, workspace: &Workspace) -> Map<String, Value> {
        let isolation = serde_json::to_value(self.config.isolation.enforced()).unwrap_or_default();
        Map::from_iter([
            ("workspace".to_owned(), workspace.root_text().into()),
            ("isolation".to_owned(), isolation),
        ])
    }

    fn preflight(&self) -> Vec<String> {
        self.config.preflight()
    }

    fn kill_now(&self) {
        kill_now();
    }
}

/// Runs one replica, from its environment to its exit code. This is all of its `main`.
#[must_use]
pub fn main() -> Exit {
    // Orphans of the agent, even in sessions of their own, become children of this process. An agent that runs as the same
    // user must not be able to read the credential from this process's environment.
    let guarded =
        child_process::become_subreaper().and_then(|()| child_process::hide_environment());
    if let Err(error) = guarded {
        eprintln!("claude-code-api: failed to protect this process from its agent: {error}");
        return Exit::Failed;
    }
    boot::keep_files_private();
    oneshot::main(ClaudeCodeApi::read)
}
