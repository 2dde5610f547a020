//! `POST /api/workflow`.

use super::{
    ExecuteOptions, JobRequest, Place, PullOptions, RequestError, Requester, Secrets, encode,
    insert_repository, options_map, repo_url,
};
use crate::{
    BranchName, DirectoryName, Policy, Prompt, RepoUrl, Service, SessionId, fields::Fields,
};

/// `POST /api/workflow`.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowRequest {
    /// The task for the agent.
    pub prompt: Prompt,
    /// The repository it works on.
    pub repo_url: RepoUrl,
    /// The branch, tag or commit. The repository's default branch if absent.
    pub branch: Option<BranchName>,
    /// The shared checkout. If absent, the workflow uses its own checkout, or that of the session it resumes.
    pub directory: Option<DirectoryName>,
    /// Whether the checkout of a resumed session is updated before the agent continues in it. A workflow that resumes
    /// no session, or names a directory, always pulls.
    pub update: bool,
    /// Passed on to the pull.
    pub pull_options: PullOptions,
    /// Passed on to the agent.
    pub execute_options: ExecuteOptions,
}

impl JobRequest for WorkflowRequest {
    fn service(&self) -> Service {
        Service::Workflow
    }

    fn parse(body: &[u8], _root: &str, policy: &Policy) -> Result<Self, RequestError> {
        let fields = Fields::parse(body)?;
        let request = Self {
            prompt: fields.required("prompt", Prompt::parse)?,
            repo_url: repo_url(&fields, policy)?,
            branch: fields.optional("branch", BranchName::parse)?,
            directory: fields.optional("directory", DirectoryName::parse)?,
            update: fields.bool("update")?.unwrap_or_default(),
            pull_options: PullOptions::parse(&fields)?,
            execute_options: ExecuteOptions::parse(&fields, &policy.limits)?,
        };
        fields.finish(policy.unknown_fields)?;
        Ok(request)
    }

    fn to_body(&self, secrets: Secrets) -> Vec<u8> {
        let mut body = options_map(&self.execute_options);
        body.append(&mut options_map(&self.pull_options));
        body.insert("prompt".into(), self.prompt.as_str().into());
        if self.update {
            body.insert("update".into(), true.into());
        }
        insert_repository(
            &mut body,
            &self.repo_url,
            self.branch.as_ref(),
            self.directory.as_ref(),
            secrets,
        );
        encode(&body)
    }

    fn place(&self, _: Requester) -> Place {
        match (&self.directory, self.session()) {
            (Some(name), _) => Place::Checkout(name.clone()),
            (None, Some(_)) => Place::OfSession,
            (None, None) => Place::Own,
        }
    }

    fn session(&self) -> Option<SessionId> {
        self.execute_options.resume_session_id
    }

    fn repo_url(&self) -> Option<&RepoUrl> {
        Some(&self.repo_url)
    }

    fn timeout_seconds(&self) -> Option<u64> {
        self.execute_options.timeout_seconds
    }
}
