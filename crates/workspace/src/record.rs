//! What a job was asked to do: `job.json`.

use contract::{DirectoryName, JobId, Origin, ReplicaId, RepoUrl, Secrets, Service, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::{Job, Workspace};

/// The request of a job, as far as it may stand on a disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRequest {
    /// The body of the request, without the credentials of its URL.
    pub body: Box<RawValue>,
    /// Whether `body` lacks credentials that the request had: they are in the memory of the process that
    /// received it and nowhere else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub credentials_withheld: bool,
}

/// `job.json`: written once, before anyone can see the job.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRecord {
    /// The job.
    pub job_id: JobId,
    /// Whose job it is.
    pub service: Service,
    /// The workflow that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// The shared checkout whose turn it needs.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "directory",
        serialize_with = "as_text"
    )]
    pub directory: Option<DirectoryName>,
    /// The repository, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_url: Option<String>,
    /// When the job was named.
    pub created: Timestamp,
    /// The gateway in whose queue it waits, if it was named by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<ReplicaId>,
    /// What was asked.
    pub request: JobRequest,
}

impl JobRecord {
    /// The record of a job that begins its life now.
    pub fn of<R: contract::JobRequest>(request: &R, job_id: JobId, parent: Option<JobId>) -> Self {
        let origin = if parent.is_some() { Origin::Workflow } else { Origin::Caller };
        let body = String::from_utf8(request.to_body(Secrets::Withheld)).ok();
        // A request that was parsed is a JSON object again when it is written.
        let body = body.and_then(|body| RawValue::from_string(body).ok()).unwrap_or_default();
        Self {
            job_id,
            service: R::SERVICE,
            parent,
            directory: request.directory(origin),
            repo_url: request.repo_url().map(ToString::to_string),
            created: Timestamp::now(),
            gateway: None,
            request: JobRequest {
                body,
                credentials_withheld: request.repo_url().is_some_and(RepoUrl::has_secret),
            },
        }
    }
}

impl JobRecord {
    /// Whether the workflow that asks for this job has the turn on its shared checkout: it holds it for its jobs.
    #[must_use]
    pub fn works_in_parents_turn(&self, workspace: &Workspace) -> bool {
        let Some(directory) = &self.directory else { return false };
        self.parent
            .and_then(|parent| Job::open(workspace, parent))
            .and_then(|parent| parent.record().ok())
            .is_some_and(|parent| {
                parent.service == Service::Workflow && parent.directory.as_ref() == Some(directory)
            })
    }
}

fn directory<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<DirectoryName>, D::Error> {
    Option::<String>::deserialize(deserializer)?
        .map(|text| DirectoryName::parse(&text).map_err(serde::de::Error::custom))
        .transpose()
}

#[expect(clippy::ref_option, reason = "the signature serde calls")]
fn as_text<S: serde::Serializer>(
    name: &Option<DirectoryName>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    name.as_ref().map(DirectoryName::as_str).serialize(serializer)
}
