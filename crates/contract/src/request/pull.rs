//! `POST /api/pull`.

use serde_json::{Map, Value};

use super::{
    CommonOptions, JobRequest, Place, PullOptions, RequestError, Requester, Secrets, encode,
    options_map, repo_url,
};
use crate::{BranchName, DirectoryName, Policy, RepoUrl, Service, WorkspacePath, fields::Fields};

/// `POST /api/pull`.
#[derive(Clone, Debug, PartialEq)]
pub struct PullRequest {
    /// The repository.
    pub repo_url: RepoUrl,
    /// The branch, tag or commit. The repository's default branch if absent.
    pub branch: Option<BranchName>,
    /// The shared checkout. If this and `workspace` are absent, a caller's pull uses the one named after the
    /// repository, and a workflow's pull uses the workflow's own checkout.
    pub directory: Option<DirectoryName>,
    /// An existing checkout anywhere in the workspace, instead of `directory`: the session's checkout, for a workflow
    /// that resumes a session.
    pub workspace: Option<WorkspacePath>,
    /// How to pull.
    pub options: PullOptions,
    /// What is about the job itself. The pull of a workflow has none.
    pub common: CommonOptions,
}

impl PullRequest {
    /// Reads the fields that a pull shares with the pull of a workflow, which are all except `workspace`.
    pub(super) fn read(fields: &Fields, policy: &Policy) -> Result<Self, RequestError> {
        Ok(Self {
            repo_url: repo_url(fields, policy)?,
            branch: fields.optional("branch", BranchName::parse)?,
            directory: fields.optional("directory", DirectoryName::parse)?,
            workspace: None,
            options: PullOptions::parse(fields)?,
            common: CommonOptions::default(),
        })
    }

    /// Writes the same fields.
    pub(super) fn to_map(&self, secrets: Secrets) -> Map<String, Value> {
        let mut map = options_map(&self.options);
        let url = match secrets {
            Secrets::Exposed => self.repo_url.expose(),
            Secrets::Withheld => self.repo_url.address().to_owned(),
        };
        map.insert("repoUrl".into(), url.into());
        if let Some(branch) = &self.branch {
            map.insert("branch".into(), branch.as_str().into());
        }
        if let Some(directory) = &self.directory {
            map.insert("directory".into(), directory.as_str().into());
        }
        map
    }
}

impl JobRequest for PullRequest {
    fn service(&self) -> Service {
        Service::Pull
    }

    fn parse(body: &[u8], root: &str, policy: &Policy) -> Result<Self, RequestError> {
        let fields = Fields::parse(body)?;
        let workspace = fields.optional("workspace", |text| WorkspacePath::parse(text, root))?;
        let common = CommonOptions::read(&fields)?;
        let request = Self { workspace, common, ..Self::read(&fields, policy)? };
        if request.directory.is_some() && request.workspace.is_some() {
            return Err(RequestError::field("workspace", "leave it out, or leave out 'directory'"));
        }
        fields.finish(policy.unknown_fields)?;
        Ok(request)
    }

    fn to_body(&self, secrets: Secrets) -> Vec<u8> {
        let mut body = self.to_map(secrets);
        self.common.write(&mut body, secrets);
        if let Some(workspace) = &self.workspace {
            body.insert("workspace".into(), workspace.as_str().into());
        }
        encode(&body)
    }

    fn place(&self, requester: Requester) -> Place {
        match (&self.workspace, &self.directory, requester) {
            (Some(path), _, _) => Place::At(path.clone()),
            (None, Some(name), _) => Place::Checkout(name.clone()),
            (None, None, Requester::Caller) => Place::Checkout(self.repo_url.directory_name()),
            (None, None, Requester::Workflow) => Place::Own,
        }
    }

    fn repo_url(&self) -> Option<&RepoUrl> {
        Some(&self.repo_url)
    }

    fn common(&self) -> CommonOptions {
        self.common.clone()
    }

    fn timeout_seconds(&self) -> Option<u64> {
        None
    }
}
