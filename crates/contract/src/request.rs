//! The requests of callers.

mod changes;
mod common;
mod deliver;
mod execute;
mod options;
mod pull;
mod verify;
mod workflow;

pub use self::{
    changes::{ChangesRequest, PullJob},
    common::{CallbackUrl, CommonOptions, Labels, check_label},
    deliver::{Commits, Deliver, DeliverMode, DeliverRequest},
    execute::ExecuteRequest,
    options::{CloneFilter, ExecuteOptions, PullOptions},
    pull::PullRequest,
    verify::Verify,
    workflow::WorkflowRequest,
};

use std::{borrow::Cow, fmt::Display, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Code, DirectoryName, JobId, Policy, RepoUrl, Service, SessionId, WorkspacePath, fields::Fields,
};

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// The reason, for programs.
    pub code: Code,
    /// One sentence for people that says what to do.
    pub message: String,
    /// The invalid field.
    pub field: Option<Cow<'static, str>>,
}

impl RequestError {
    /// An error of the request as a whole.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None }
    }

    /// An error in the value of a field. The message is the field's name, a colon and `why`.
    pub fn field(field: impl Into<Cow<'static, str>>, why: impl Display) -> Self {
        Self::field_code(Code::InvalidField, field, why)
    }

    /// Like [`field`](Self::field), with a specific code.
    pub fn field_code(code: Code, field: impl Into<Cow<'static, str>>, why: impl Display) -> Self {
        let field = field.into();
        Self { code, message: format!("'{field}': {why}"), field: Some(field) }
    }

    /// The error of a job that no replica of `service` took within `wait`.
    #[must_use]
    pub fn queue_timeout(service: Service, wait: Duration) -> Self {
        let seconds = wait.as_secs();
        let message = format!(
            "no replica of {service} took the job within {seconds} s (QUEUE_WAIT_SECONDS): start more replicas, or send \
             the job again later"
        );
        Self::new(Code::QueueTimeout, message)
    }

    /// The same error for a field of the object `name`.
    #[must_use]
    pub(crate) fn within(self, name: &str) -> Self {
        let Some(field) = self.field else { return self };
        let inner = format!("{name}.{field}");
        let message = self.message.replacen(&format!("'{field}'"), &format!("'{inner}'"), 1);
        Self { message, field: Some(inner.into()), ..self }
    }

    /// The body of the response.
    #[must_use]
    pub fn body(&self) -> ErrorBody<'_> {
        ErrorBody { error: &self.message, code: self.code, field: self.field.as_deref() }
    }
}

/// The JSON body of an error response.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    /// One sentence that says what to do.
    pub error: &'a str,
    /// The reason.
    pub code: Code,
    /// The invalid field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'a str>,
}

/// Whether an encoded request includes the credentials of its URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// For a service that needs them.
    Exposed,
    /// For a disk.
    Withheld,
}

/// What all requests that become jobs have in common.
pub trait JobRequest: Send + 'static {
    /// The service whose job it becomes.
    fn service(&self) -> Service;

    /// Parses a body. `root` is the absolute path of the workspace.
    ///
    /// # Errors
    /// If the body is invalid; the error is for the caller.
    fn parse(body: &[u8], root: &str, policy: &Policy) -> Result<Self, RequestError>
    where
        Self: Sized;

    /// Parses a body with what its path says about it.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    fn parse_raw(raw: &RawRequest<'_>) -> Result<Self, RequestError>
    where
        Self: Sized,
    {
        let request = Self::parse(raw.body, raw.root, raw.policy)?;
        match raw.session {
            Some(session) => request.in_session(session),
            None => Ok(request),
        }
    }

    /// The job path of its service to which it is sent.
    fn path(&self) -> &'static str {
        self.service().job_path()
    }

    /// Encodes the request as a body that [`parse`](Self::parse) accepts.
    fn to_body(&self, secrets: Secrets) -> Vec<u8>;

    /// Where the job works if `requester` starts it.
    fn place(&self, requester: Requester) -> Place;

    /// The session it resumes.
    fn session(&self) -> Option<SessionId> {
        None
    }

    /// The request as part of the session `id`: `POST /api/stream/:id`.
    ///
    /// # Errors
    /// If it names another session, or the service has no sessions.
    fn in_session(self, _id: SessionId) -> Result<Self, RequestError>
    where
        Self: Sized,
    {
        Err(RequestError::new(Code::NotFound, "this service has no sessions"))
    }

    /// What it pushes, if it pushes anything. Its caller needs the scopes for that.
    fn delivery(&self) -> Option<&Deliver> {
        None
    }

    /// The repository it uses.
    fn repo_url(&self) -> Option<&RepoUrl>;

    /// What happens to its own directory after its end. It does not apply to a shared checkout, or to a directory
    /// that the request names.
    fn retain(&self) -> Retain {
        Retain::Default
    }

    /// What is about the job itself. Requests of the stack's own parts have none.
    fn common(&self) -> CommonOptions {
        CommonOptions::default()
    }

    /// The deadline it requests, in seconds.
    fn timeout_seconds(&self) -> Option<u64>;
}

/// A request before parsing, for the parser of its service.
#[derive(Clone, Copy, Debug)]
pub struct RawRequest<'a> {
    /// The body.
    pub body: &'a [u8],
    /// The absolute path of the workspace.
    pub root: &'a str,
    /// The operator's limits.
    pub policy: &'a Policy,
    /// The job path that it was sent to, or that of its kind.
    pub path: &'a str,
    /// The session it was sent to: `POST /api/stream/:id`.
    pub session: Option<SessionId>,
    /// The job it was sent to: `POST /api/jobs/:id/deliver`.
    pub job: Option<JobId>,
}

impl RawRequest<'_> {
    /// Parses it as a request of one service.
    pub(crate) fn parse<R: JobRequest>(&self) -> Result<Box<dyn JobRequest>, RequestError> {
        Ok(Box::new(R::parse_raw(self)?))
    }
}

/// Where a job works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a directory of its own, or of its workflow.
    Own,
    /// In a shared checkout, which jobs use one at a time.
    Checkout(DirectoryName),
    /// At this path, which may lie in a shared checkout.
    At(WorkspacePath),
    /// Where its session last worked.
    OfSession,
    /// In the checkout where the jobs of this workflow worked.
    OfJob(JobId),
}

impl From<Option<DirectoryName>> for Place {
    fn from(name: Option<DirectoryName>) -> Self {
        name.map_or(Self::Own, Self::Checkout)
    }
}

/// What happens to a job's own directory after its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retain {
    /// It is kept as long as the operator has chosen.
    #[default]
    Default,
    /// It is deleted at once.
    None,
}

impl Retain {
    /// Whether it is the default.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::Default
    }

    fn read(fields: &Fields) -> Result<Self, RequestError> {
        let retain = fields.optional("retain", |text| match text {
            "none" => Ok(Self::None),
            _ => Err("must be \"none\", or left out".to_owned()),
        })?;
        Ok(retain.unwrap_or_default())
    }

    fn write(self, body: &mut Map<String, Value>) {
        if self == Self::None {
            body.insert("retain".into(), "none".into());
        }
    }
}

/// Who starts a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requester {
    /// A caller from outside the stack.
    Caller,
    /// A running workflow.
    Workflow,
}

/// Merges the fields of `options` into the enclosing object, because wire types must not use `flatten`.
fn options_map<T: Serialize>(options: &T) -> Map<String, Value> {
    match serde_json::to_value(options) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn encode(body: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

fn repo_url(fields: &Fields, policy: &Policy) -> Result<RepoUrl, RequestError> {
    let text =
        fields.string("repoUrl")?.ok_or_else(|| RequestError::field("repoUrl", "is missing"))?;
    RepoUrl::parse(text, policy)
        .map_err(|(code, why)| RequestError::field_code(code, "repoUrl", why))
}

#[cfg(test)]
mod tests;
