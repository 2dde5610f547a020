//! `POST /api/execute`, and `POST /api/stream/:id`.

use super::{
    CommonOptions, ExecuteOptions, JobRequest, Place, RequestError, Requester, Retain, Secrets,
    encode, options_map,
};
use crate::{Policy, Prompt, RepoUrl, Service, SessionId, WorkspacePath, fields::Fields};

/// `POST /api/execute`, and `POST /api/stream/:id`.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecuteRequest {
    /// The task for the agent.
    pub prompt: Prompt,
    /// The agent's working directory. If absent, the job gets a new one.
    pub workspace: Option<WorkspacePath>,
    /// Everything else.
    pub options: ExecuteOptions,
    /// Whether its own directory outlives it.
    pub retain: Retain,
    /// What is about the job itself.
    pub common: CommonOptions,
}

impl JobRequest for ExecuteRequest {
    fn service(&self) -> Service {
        Service::Claude
    }

    fn parse(body: &[u8], root: &str, policy: &Policy) -> Result<Self, RequestError> {
        let fields = Fields::parse(body)?;
        let request = Self {
            prompt: fields.required("prompt", Prompt::parse)?,
            workspace: fields.optional("workspace", |text| WorkspacePath::parse(text, root))?,
            options: ExecuteOptions::parse(&fields, policy)?,
            retain: Retain::read(&fields)?,
            common: CommonOptions::read(&fields)?,
        };
        fields.finish(policy.unknown_fields)?;
        Ok(request)
    }

    fn to_body(&self, secrets: Secrets) -> Vec<u8> {
        let mut body = options_map(&self.options);
        body.insert("prompt".into(), self.prompt.as_str().into());
        self.retain.write(&mut body);
        self.common.write(&mut body, secrets);
        if let Some(workspace) = &self.workspace {
            body.insert("workspace".into(), workspace.as_str().into());
        }
        encode(&body)
    }

    fn place(&self, _: Requester) -> Place {
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
            let why = "names another session than the path: leave it out";
            return Err(RequestError::field("resumeSessionId", why));
        }
        self.options.resume_session_id = Some(id);
        Ok(self)
    }

    fn repo_url(&self) -> Option<&RepoUrl> {
        None
    }

    fn retain(&self) -> Retain {
        self.retain
    }

    fn common(&self) -> CommonOptions {
        self.common.clone()
    }

    fn timeout_seconds(&self) -> Option<u64> {
        self.options.timeout_seconds
    }
}
