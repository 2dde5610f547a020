//! What the gateway reports about jobs and repositories.

use serde::{Deserialize, Serialize};

use crate::{CallerName, Code, DeliveryView, JobId, Labels, Service, Timestamp};

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// No replica has claimed it yet.
    Queued,
    /// A replica has claimed it.
    Running,
    /// It has succeeded.
    Succeeded,
    /// It has failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl JobState {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|state| state.as_str() == name)
    }

    /// Whether the job has ended.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// `GET /api/jobs/:id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    /// The job.
    pub job_id: JobId,
    /// The service that it is for.
    pub service: Service,
    /// Its state.
    pub state: JobState,
    /// Whose it is.
    #[serde(default)]
    pub caller: CallerName,
    /// What its caller calls it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The workflow that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// The repository, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_url: Option<String>,
    /// When it was created.
    pub created: Timestamp,
    /// When a replica claimed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Why it failed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What became of a workflow's result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryView>,
    /// Whether the commands in `verify` succeeded in the end, if they have run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
    /// The end of what the last one of them printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_output: Option<String>,
    /// The job whose change it has looked at, because somebody asked for the diff of that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes_of: Option<JobId>,
}

/// `GET /api/jobs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobList {
    /// Newest first.
    pub jobs: Vec<JobView>,
    /// The number of `jobs`.
    pub count: usize,
    /// The `cursor` of the next page, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `DELETE /api/jobs/:id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobDeleted {
    /// A sentence for people.
    pub message: String,
    /// The job that was deleted.
    pub job_id: JobId,
}

impl JobDeleted {
    /// The response to deleting `job_id`.
    #[must_use]
    pub fn new(job_id: JobId) -> Self {
        Self { message: "Job deleted".into(), job_id }
    }
}

/// One shared checkout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repo {
    /// The directory's name.
    pub name: String,
    /// Its absolute path.
    pub path: String,
    /// When it last changed.
    pub modified: Timestamp,
}

/// `GET /api/repos`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoList {
    /// Sorted by name.
    pub repos: Vec<Repo>,
    /// The number of `repos`.
    pub count: usize,
}
