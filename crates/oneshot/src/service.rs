//! What a service adds to its replica.

use contract::{JobRequest, Policy, RequestError, Service};
use futures_util::Stream;
use serde_json::{Map, Value};
use workspace::Workspace;

use crate::{JobContext, Step};

/// A service whose replicas serve one job each.
pub trait JobService: Send + Sync + 'static {
    /// Which service it is.
    const SERVICE: Service;

    /// The request that becomes the job.
    type Request: JobRequest + Clone;

    /// What callers may ask for.
    fn policy(&self) -> &Policy;

    /// Checks a request against the volume before the slot is taken. May block briefly.
    ///
    /// # Errors
    /// What is wrong with the request, for the caller.
    fn check(&self, _workspace: &Workspace, _request: &Self::Request) -> Result<(), RequestError> {
        Ok(())
    }

    /// Runs the job. The stream ends with one [`Step::End`], within [`JobContext::stop_budget`] if the job is asked to stop.
    fn run(
        &self,
        context: JobContext,
        request: Self::Request,
    ) -> impl Stream<Item = Step> + Send + 'static;

    /// Fields that `GET /health` adds to its own.
    fn health(&self, _workspace: &Workspace) -> Map<String, Value> {
        Map::new()
    }

    /// What is missing on this machine, and how to fix it. Logged at the start.
    fn preflight(&self) -> Vec<String> {
        Vec::new()
    }

    /// Kills every process that the job has started: the replica is about to exit.
    fn kill_now(&self) {}
}
