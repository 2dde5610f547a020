//! `POST /api/workflow`.

use super::{
    CommonOptions, Deliver, ExecuteOptions, JobRequest, Place, PullRequest, RequestError,
    Requester, Retain, Secrets, encode, options_map,
};
use crate::{Policy, Prompt, RepoUrl, Service, SessionId, fields::Fields};

/// `POST /api/workflow`.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowRequest {
    /// The task for the agent.
    pub prompt: Prompt,
    /// What it pulls. Its `workspace` is not a field of this request. Without a `directory`, the workflow has a checkout of
    /// its own, or that of the session it resumes.
    pub pull: PullRequest,
    /// Whether the checkout of a resumed session is updated before the agent continues in it. A workflow that resumes
    /// no session, or names a directory, always pulls.
    pub update: bool,
    /// Passed on to the agent.
    pub execute_options: ExecuteOptions,
    /// Whether its own checkout outlives it.
    pub retain: Retain,
    /// Where its result goes. `None`: it stays in the checkout.
    pub deliver: Option<Deliver>,
    /// What is about the job itself.
    pub common: CommonOptions,
}

impl JobRequest for WorkflowRequest {
    fn service(&self) -> Service {
        Service::Workflow
    }

    fn parse(body: &[u8], _root: &str, policy: &Policy) -> Result<Self, RequestError> {
        let fields = Fields::parse(body)?;
        let request = Self {
            prompt: fields.required("prompt", Prompt::parse)?,
            pull: PullRequest::read(&fields, policy)?,
            update: fields.bool("update")?.unwrap_or_default(),
            execute_options: ExecuteOptions::parse(&fields, policy)?,
            retain: Retain::read(&fields)?,
            deliver: Deliver::read_object(&fields, policy)?,
            common: CommonOptions::read(&fields)?,
        };
        fields.finish(policy.unknown_fields)?;
        Ok(request)
    }

    fn to_body(&self, secrets: Secrets) -> Vec<u8> {
        let mut body = options_map(&self.execute_options);
        body.append(&mut self.pull.to_map(secrets));
        body.insert("prompt".into(), self.prompt.as_str().into());
        self.retain.write(&mut body);
        self.common.write(&mut body, secrets);
        if let Some(deliver) = &self.deliver {
            body.insert("deliver".into(), options_map(deliver).into());
        }
        if self.update {
            body.insert("update".into(), true.into());
        }
        encode(&body)
    }

    fn place(&self, _: Requester) -> Place {
        match (&self.pull.directory, self.session()) {
            (Some(name), _) => Place::Checkout(name.clone()),
            (None, Some(_)) => Place::OfSession,
            (None, None) => Place::Own,
        }
    }

    fn session(&self) -> Option<SessionId> {
        self.execute_options.resume_session_id
    }

    fn delivery(&self) -> Option<&Deliver> {
        self.deliver.as_ref()
    }

    fn repo_url(&self) -> Option<&RepoUrl> {
        Some(&self.pull.repo_url)
    }

    fn retain(&self) -> Retain {
        self.retain
    }

    fn common(&self) -> CommonOptions {
        self.common.clone()
    }

    fn timeout_seconds(&self) -> Option<u64> {
        self.execute_options.timeout_seconds
    }
}
