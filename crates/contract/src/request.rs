//! What callers ask for.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    BranchName, Code, DirectoryName, Limits, Policy, Prompt, RepoUrl, Service, SessionId,
    WorkspacePath, fields::Fields,
};

/// Why a request is refused before it becomes a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// The reason, for programs.
    pub code: Code,
    /// One sentence for people that says what to do.
    pub message: String,
    /// The field at fault.
    pub field: Option<&'static str>,
}

impl RequestError {
    /// An error of the request as a whole.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None }
    }

    pub(crate) fn field(field: &'static str, why: String) -> Self {
        Self { code: Code::InvalidField, message: format!("'{field}': {why}"), field: Some(field) }
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(&self) -> ErrorBody<'_> {
        ErrorBody { error: &self.message, code: self.code, field: self.field }
    }
}

/// Whether credentials stand in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// To hand the request on.
    Exposed,
    /// To put it on a disk.
    Withheld,
}

/// What the three requests that become jobs have in common.
pub trait JobRequest: Clone + Sized + Send + 'static {
    /// Whose job it becomes.
    const SERVICE: Service;

    /// Parses a body. `root` is the absolute path of the workspace.
    ///
    /// # Errors
    /// What is wrong with the body, for the caller.
    fn parse(body: &[u8], root: &str, policy: &Policy) -> Result<Self, RequestError>;

    /// The body again.
    fn to_body(&self, secrets: Secrets) -> Vec<u8>;

    /// Where the job works; `origin` says whether a workflow asks for it.
    fn place(&self, origin: Origin) -> Place;

    /// The session it goes on with.
    fn session(&self) -> Option<SessionId> {
        None
    }

    /// The request as one of the session `id`: `POST /api/stream/:id`.
    ///
    /// # Errors
    /// If it names another session, or knows none.
    fn in_session(self, _id: SessionId) -> Result<Self, RequestError> {
        Err(RequestError::new(Code::NotFound, "this service has no sessions"))
    }

    /// The repository it is about.
    fn repo_url(&self) -> Option<&RepoUrl>;

    /// The deadline it asks for, in seconds.
    fn timeout_seconds(&self) -> Option<u64>;
}

/// Where a job works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a directory of its own, or of its workflow's own.
    Own,
    /// In a shared checkout, which is one job's at a time.
    Checkout(DirectoryName),
    /// Where this leads to, which may be in a shared checkout.
    At(WorkspacePath),
    /// Where its session has worked before.
    OfSession,
}

impl From<Option<DirectoryName>> for Place {
    fn from(name: Option<DirectoryName>) -> Self {
        name.map_or(Self::Own, Self::Checkout)
    }
}

/// Who asks for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A caller.
    Caller,
    /// A running workflow.
    Workflow,
}

/// The JSON of an error answer.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    /// One sentence that says what to do.
    pub error: &'a str,
    /// The reason.
    pub code: Code,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'a str>,
}

/// The optional fields of an execute request, which a workflow passes on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecuteOptions {
    /// Whether the agent may use its tools without asking; `true` unless the caller says otherwise.
    pub dangerously_skip_permissions: bool,
    /// The session to go on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_session_id: Option<SessionId>,
    /// The model, by the CLI's names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How many turns the agent may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    /// What the job may cost, in US dollars; the CLI checks it after it is spent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_budget_usd: Option<f64>,
    /// Text to add to the system prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_system_prompt: Option<String>,
    /// The tools the agent has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_tools: Option<Vec<String>>,
    /// The job's deadline, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
}

impl Default for ExecuteOptions {
    fn default() -> Self {
        Self {
            dangerously_skip_permissions: true,
            resume_session_id: None,
            model: None,
            max_turns: None,
            max_budget_usd: None,
            append_system_prompt: None,
            allowed_tools: None,
            timeout_seconds: None,
        }
    }
}

impl ExecuteOptions {
    /// The longest `appendSystemPrompt`, in bytes. One argument of a process holds 131,071 bytes, and the
    /// repository's CLAUDE.md shares it.
    pub const MAX_APPEND_BYTES: usize = 20_000;

    fn parse(fields: &Fields, limits: &Limits) -> Result<Self, RequestError> {
        let options = Self {
            dangerously_skip_permissions: fields
                .bool("dangerouslySkipPermissions")?
                .unwrap_or(true),
            resume_session_id: fields.optional("resumeSessionId", |text| {
                text.parse().map_err(|_| "is not a session id (a UUID in lower case)".to_owned())
            })?,
            model: fields.optional("model", |text| {
                one_of("models", text, limits.models.as_deref(), is_model)
            })?,
            max_turns: fields
                .unsigned("maxTurns")?
                .map(|turns| {
                    u32::try_from(turns)
                        .ok()
                        .filter(|turns| (1..=limits.max_turns.unwrap_or(u32::MAX)).contains(turns))
                        .ok_or_else(|| {
                            let most = limits.max_turns.unwrap_or(u32::MAX);
                            RequestError::field("maxTurns", format!("must be from 1 to {most}"))
                        })
                })
                .transpose()?,
            max_budget_usd: fields.number("maxBudgetUsd")?,
            append_system_prompt: fields.optional("appendSystemPrompt", |text| {
                if text.len() > Self::MAX_APPEND_BYTES {
                    return Err(format!("must be at most {} bytes", Self::MAX_APPEND_BYTES));
                }
                if text.contains('\0') {
                    return Err("holds a NUL".into());
                }
                Ok(text.to_owned())
            })?,
            allowed_tools: fields
                .strings("allowedTools")?
                .map(|tools| {
                    if tools.is_empty() || tools.len() > 64 {
                        return Err("must name from 1 to 64 tools".into());
                    }
                    tools
                        .into_iter()
                        .map(|tool| one_of("tools", tool, limits.tools.as_deref(), is_tool))
                        .collect()
                })
                .transpose()
                .map_err(|why| RequestError::field("allowedTools", why))?,
            timeout_seconds: fields.unsigned("timeoutSeconds")?,
        };
        if let Some(usd) = options.max_budget_usd {
            let most = limits.max_budget_usd.unwrap_or(1e6);
            if !(usd > 0.0 && usd <= most) {
                return Err(RequestError::field(
                    "maxBudgetUsd",
                    format!("must be above 0 and at most {most}"),
                ));
            }
        }
        if let Some(seconds) = options.timeout_seconds
            && !(1..=limits.job_timeout_seconds).contains(&seconds)
        {
            let most = limits.job_timeout_seconds;
            return Err(RequestError::field("timeoutSeconds", format!("must be from 1 to {most}")));
        }
        Ok(options)
    }
}

/// A value of the right form that configuration allows.
fn one_of(
    what: &str,
    text: &str,
    allowed: Option<&[String]>,
    form: fn(&str) -> bool,
) -> Result<String, String> {
    if !form(text) {
        return Err("is not a name the CLI knows".into());
    }
    match allowed {
        Some(allowed) if !allowed.iter().any(|name| name == text) => {
            Err(format!("is not among the {what} allowed here: {}", allowed.join(", ")))
        }
        _ => Ok(text.to_owned()),
    }
}

fn is_model(text: &str) -> bool {
    text.len() <= 200
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:/@[]".contains(c))
}

fn is_tool(text: &str) -> bool {
    text.len() <= 100
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `POST /api/workflow`.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowRequest {
    /// What the agent is to do.
    pub prompt: Prompt,
    /// The repository it works on.
    pub repo_url: RepoUrl,
    /// The branch; the repository's default if absent.
    pub branch: Option<BranchName>,
    /// The shared checkout; one of the workflow's own if absent.
    pub directory: Option<DirectoryName>,
    /// Passed on to the agent.
    pub options: ExecuteOptions,
}

impl JobRequest for WorkflowRequest {
    const SERVICE: Service = Service::Workflow;

    fn parse(body: &[u8], _root: &str, policy: &Policy) -> Result<Self, RequestError> {
        let fields = Fields::parse(body)?;
        Ok(Self {
            prompt: fields.required("prompt", Prompt::parse)?,
            repo_url: repo_url(&fields, policy)?,
            branch: fields.optional("branch", BranchName::parse)?,
            directory: fields.optional("directory", DirectoryName::parse)?,
            options: ExecuteOptions::parse(&fields, &policy.limits)?,
        })
    }

    fn to_body(&self, secrets: Secrets) -> Vec<u8> {
        let mut body = options_map(&self.options);
        body.insert("prompt".into(), self.prompt.as_str().into());
        insert_repository(
            &mut body,
            &self.repo_url,
            self.branch.as_ref(),
            self.directory.as_ref(),
            secrets,
        );
        encode(&body)
    }

    fn place(&self, _: Origin) -> Place {
        self.directory.clone().into()
    }

    fn session(&self) -> Option<SessionId> {
        self.options.resume_session_id
    }

    fn repo_url(&self) -> Option<&RepoUrl> {
        Some(&self.repo_url)
    }

    fn timeout_seconds(&self) -> Option<u64> {
        self.options.timeout_seconds
    }
}

/// `POST /api/pull`.
#[derive(Clone, Debug, PartialEq)]
pub struct PullRequest {
    /// The repository.
    pub repo_url: RepoUrl,
    /// The branch; the repository's default if absent.
    pub branch: Option<BranchName>,
    /// The shared checkout; named after the repository if absent.
    pub directory: Option<DirectoryName>,
}

impl JobRequest for PullRequest {
    const SERVICE: Service = Service::Pull;

    fn parse(body: &[u8], _root: &str, policy: &Policy) -> Result<Self, RequestError> {
        let fields = Fields::parse(body)?;
        Ok(Self {
            repo_url: repo_url(&fields, policy)?,
            branch: fields.optional("branch", BranchName::parse)?,
            directory: fields.optional("directory", DirectoryName::parse)?,
        })
    }

    fn to_body(&self, secrets: Secrets) -> Vec<u8> {
        let mut body = Map::new();
        insert_repository(
            &mut body,
            &self.repo_url,
            self.branch.as_ref(),
            self.directory.as_ref(),
            secrets,
        );
        encode(&body)
    }

    fn place(&self, origin: Origin) -> Place {
        match origin {
            Origin::Caller => Place::Checkout(
                self.directory.clone().unwrap_or_else(|| self.repo_url.directory_name()),
            ),
            // A workflow that names no directory has a checkout of its own.
            Origin::Workflow => self.directory.clone().into(),
        }
    }

    fn repo_url(&self) -> Option<&RepoUrl> {
        Some(&self.repo_url)
    }

    fn timeout_seconds(&self) -> Option<u64> {
        None
    }
}

/// `POST /api/execute`, and `POST /api/stream/:id`.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecuteRequest {
    /// What the agent is to do.
    pub prompt: Prompt,
    /// Where; a fresh directory of the job's own if absent.
    pub workspace: Option<WorkspacePath>,
    /// Everything else.
    pub options: ExecuteOptions,
}

impl JobRequest for ExecuteRequest {
    const SERVICE: Service = Service::Claude;

    fn parse(body: &[u8], root: &str, policy: &Policy) -> Result<Self, RequestError> {
        let fields = Fields::parse(body)?;
        Ok(Self {
            prompt: fields.required("prompt", Prompt::parse)?,
            workspace: fields.optional("workspace", |text| WorkspacePath::parse(text, root))?,
            options: ExecuteOptions::parse(&fields, &policy.limits)?,
        })
    }

    fn to_body(&self, _: Secrets) -> Vec<u8> {
        let mut body = options_map(&self.options);
        body.insert("prompt".into(), self.prompt.as_str().into());
        if let Some(workspace) = &self.workspace {
            body.insert("workspace".into(), workspace.as_str().into());
        }
        encode(&body)
    }

    fn place(&self, _: Origin) -> Place {
        match (&self.workspace, self.session()) {
            (Some(workspace), _) => Place::At(workspace.clone()),
            (None, Some(_)) => Place::OfSession,
            (None, None) => Place::Own,
        }
    }

    fn session(&self) -> Option<SessionId> {
        self.options.resume_session_id
    }

    fn in_session(mut self, id: SessionId) -> Result<Self, RequestError> {
        if self.options.resume_session_id.is_some_and(|other| other != id) {
            let why = "names another session than the path: leave it out".to_owned();
            return Err(RequestError::field("resumeSessionId", why));
        }
        self.options.resume_session_id = Some(id);
        Ok(self)
    }

    fn repo_url(&self) -> Option<&RepoUrl> {
        None
    }

    fn timeout_seconds(&self) -> Option<u64> {
        self.options.timeout_seconds
    }
}

/// The options' fields, to be added to the object one level up: no `flatten` in wire types.
fn options_map(options: &ExecuteOptions) -> Map<String, Value> {
    match serde_json::to_value(options) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn insert_repository(
    body: &mut Map<String, Value>,
    url: &RepoUrl,
    branch: Option<&BranchName>,
    directory: Option<&DirectoryName>,
    secrets: Secrets,
) {
    let url = match secrets {
        Secrets::Exposed => url.expose(),
        Secrets::Withheld => url.address().to_owned(),
    };
    body.insert("repoUrl".into(), url.into());
    if let Some(branch) = branch {
        body.insert("branch".into(), branch.as_str().into());
    }
    if let Some(directory) = directory {
        body.insert("directory".into(), directory.as_str().into());
    }
}

fn encode(body: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

fn repo_url(fields: &Fields, policy: &Policy) -> Result<RepoUrl, RequestError> {
    let text = fields
        .string("repoUrl")?
        .ok_or_else(|| RequestError::field("repoUrl", "is missing".into()))?;
    RepoUrl::parse(text, policy).map_err(|(code, why)| RequestError {
        code,
        message: format!("'repoUrl': {why}"),
        field: Some("repoUrl"),
    })
}

#[cfg(test)]
mod tests;
