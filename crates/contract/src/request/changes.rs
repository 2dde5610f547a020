//! `POST /api/changes`, which only a gateway sends: it compares what a job has left with what the job was given.

use serde_json::{Map, Value};

use super::{
    DeliverRequest, JobRequest, Place, PullRequest, RawRequest, RequestError, Requester, Retain,
    Secrets, encode,
};
use crate::{JobId, Policy, RepoUrl, Service, SessionId, fields::Fields};

/// A look at what a job has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangesRequest {
    /// The job, which has ended.
    pub job: JobId,
}

impl ChangesRequest {
    /// The job path of these requests.
    pub const PATH: &'static str = "/api/changes";
}

impl JobRequest for ChangesRequest {
    fn service(&self) -> Service {
        Service::Pull
    }

    fn path(&self) -> &'static str {
        Self::PATH
    }

    fn parse(body: &[u8], _root: &str, policy: &Policy) -> Result<Self, RequestError> {
        let fields = Fields::parse(body)?;
        let job = fields.required("jobId", |text| {
            text.parse().map_err(|_| "is not the ID of a job (a UUIDv7)".to_owned())
        })?;
        fields.finish(policy.unknown_fields)?;
        Ok(Self { job })
    }

    fn to_body(&self, _: Secrets) -> Vec<u8> {
        encode(&Map::from_iter([("jobId".to_owned(), Value::from(self.job.to_string()))]))
    }

    fn place(&self, _: Requester) -> Place {
        Place::OfJob(self.job)
    }

    fn repo_url(&self) -> Option<&RepoUrl> {
        None
    }

    fn timeout_seconds(&self) -> Option<u64> {
        None
    }
}

/// A job of the pull service.
#[derive(Clone, Debug, PartialEq)]
pub enum PullJob {
    /// `POST /api/pull`.
    Pull(Box<PullRequest>),
    /// `POST /api/changes`.
    Changes(ChangesRequest),
    /// `POST /api/deliver`.
    Deliver(Box<DeliverRequest>),
}

impl PullJob {
    fn request(&self) -> &dyn JobRequest {
        match self {
            Self::Pull(request) => request.as_ref(),
            Self::Changes(request) => request,
            Self::Deliver(request) => request.as_ref(),
        }
    }
}

impl JobRequest for PullJob {
    fn service(&self) -> Service {
        Service::Pull
    }

    fn path(&self) -> &'static str {
        self.request().path()
    }

    fn parse(body: &[u8], root: &str, policy: &Policy) -> Result<Self, RequestError> {
        PullRequest::parse(body, root, policy).map(|request| Self::Pull(Box::new(request)))
    }

    fn parse_raw(raw: &RawRequest<'_>) -> Result<Self, RequestError> {
        match raw.path {
            ChangesRequest::PATH => ChangesRequest::parse_raw(raw).map(Self::Changes),
            DeliverRequest::PATH => {
                DeliverRequest::parse_raw(raw).map(|request| Self::Deliver(Box::new(request)))
            }
            _ => PullRequest::parse_raw(raw).map(|request| Self::Pull(Box::new(request))),
        }
    }

    fn to_body(&self, secrets: Secrets) -> Vec<u8> {
        self.request().to_body(secrets)
    }

    fn place(&self, requester: Requester) -> Place {
        self.request().place(requester)
    }

    fn session(&self) -> Option<SessionId> {
        self.request().session()
    }

    fn repo_url(&self) -> Option<&RepoUrl> {
        self.request().repo_url()
    }

    fn retain(&self) -> Retain {
        self.request().retain()
    }

    fn timeout_seconds(&self) -> Option<u64> {
        self.request().timeout_seconds()
    }
}
