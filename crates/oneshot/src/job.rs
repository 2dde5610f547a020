//! A service's job: a function from a validated request to a stream of steps.

use std::time::Duration;

use boot::Secret;
use contract::{Ending, EventLine, JobId};
use workspace::Workspace;

use crate::{Deadline, Stop};

/// What a job's stream yields.
#[derive(Debug)]
pub enum Step {
    /// An event. It is appended to the journal before anyone sees it.
    Event(EventLine),
    /// The end. Steps after it are ignored.
    End(Ending),
}

/// The context of a job, besides its request.
#[derive(Clone, Debug)]
pub struct JobContext {
    /// The job.
    pub id: JobId,
    /// The workflow that started it.
    pub parent: Option<JobId>,
    /// What proves to the gateway that a request for another job comes from this one. `None`: no gateway has sent this job,
    /// or one of an earlier version.
    pub capability: Option<Secret>,
    /// The volume.
    pub workspace: Workspace,
    /// Whether, and why, the job should end.
    pub stop: Stop,
    /// How soon the stream must end after [`stop`](Self::stop) is requested. If it does not, the replica ends the job
    /// anyway.
    pub stop_budget: Duration,
    /// How long the job may run.
    pub deadline: Deadline,
}
