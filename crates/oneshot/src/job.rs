//! What a service's job is: one function from a validated request to a stream of steps.

use std::time::Duration;

use contract::{Ending, EventLine, JobId};
use workspace::Workspace;

use crate::{Deadline, Stop};

/// What a job's stream yields.
#[derive(Debug)]
pub enum Step {
    /// Something that happened; appended to the journal before anyone sees it.
    Event(EventLine),
    /// The end. Steps after it are ignored.
    End(Ending),
}

/// What a job knows besides its request.
#[derive(Clone, Debug)]
pub struct JobContext {
    /// The job.
    pub id: JobId,
    /// The workflow that asked for it.
    pub parent: Option<JobId>,
    /// The volume.
    pub workspace: Workspace,
    /// Whether, and why, the job should end now.
    pub stop: Stop,
    /// How soon after [`stop`](Self::stop) the stream has to end. If it does not, the replica ends the job without it.
    pub stop_budget: Duration,
    /// How long the job may run.
    pub deadline: Deadline,
}
