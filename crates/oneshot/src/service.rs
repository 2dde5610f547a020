//! The part of a replica that differs between services.

use contract::{JobRequest, Policy, RequestError, Service};
use futures_util::Stream;
use serde_json::{Map, Value};
use workspace::Workspace;

use crate::{JobContext, Step};

/// A service whose replicas run one job each.
pub trait JobService: Send + Sync + 'static {
    /// The service.
    const SERVICE: Service;

    /// The request that becomes the job.
    type Request: JobRequest + Clone;

    /// The operator's limits on requests.
    fn policy(&self) -> &Policy;

    /// Checks a request against the volume before the slot is taken. May block briefly.
    ///
    /// # Errors
    /// If the request is invalid; the error is for the caller.
    fn check(&self, _workspace: &Workspace, _request: &Self::Request) -> Result<(), RequestError> {
        Ok(())
    }

    /// Runs the job. The stream ends with one [`Step::End`]. After a request to stop, it ends within
    /// [`JobContext::stop_budget`].
    fn run(
        &self,
        context: JobContext,
        request: Self::Request,
    ) -> impl Stream<Item = Step> + Send + 'static;

    /// Prepares the service for this volume, when its replica starts. May be dropped.
    ///
    /// # Errors
    /// Why the replica cannot start now. It is started again later.
    fn prepare(
        &mut self,
        _workspace: &Workspace,
    ) -> impl Future<Output = Result<(), String>> + Send {
        async { Ok(()) }
    }

    /// Additional fields of `GET /health`.
    fn health(&self, _workspace: &Workspace) -> Map<String, Value> {
        Map::new()
    }

    /// What this machine lacks, and how to fix it. Logged at the start.
    fn preflight(&self) -> Vec<String> {
        Vec::new()
    }

    /// Kills every process that the job started, because the replica is about to exit.
    fn kill_now(&self) {}
}
