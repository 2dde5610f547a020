//! What a service adds to the replica it runs in.

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

    /// Looks at what only the volume can tell, before the slot is taken. May block briefly.
    ///
    /// # Errors
    /// What is wrong with the request, for the caller.
    fn check(&self, _workspace: &Workspace, _request: &Self::Request) -> Result<(), RequestError> {
        Ok(())
    }

    /// The job. It ends with one [`Step::End`], and soon after [`JobContext::stop`] is requested.
    fn run(
        &self,
        context: JobContext,
        request: Self::Request,
    ) -> impl Stream<Item = Step> + Send + 'static;

    /// Fields that `GET /health` adds to its own.
    fn health(&self, _workspace: &Workspace) -> Map<String, Value> {
        Map::new()
    }

    /// What is missing on this machine, and how to mend it; said in the log at the start.
    fn preflight(&self) -> Vec<String> {
        Vec::new()
    }

    /// Ends every process the job has started, at once: the replica is about to be gone.
    fn kill_now(&self) {}
}
