//! Where a result goes: the field `deliver` of a workflow, and `POST /api/deliver`.

use serde::{Deserialize, Serialize};

use super::{
    CommonOptions, JobRequest, Place, RawRequest, RequestError, Requester, Secrets, encode,
    options_map, repo_url,
};
use crate::{DeliveryBranch, JobId, Policy, RepoUrl, Service, fields::Fields};

/// How a result is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliverMode {
    /// As a branch of the repository.
    Branch,
    /// As a branch and a pull request for it.
    PullRequest,
}

/// What the branch consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Commits {
    /// One commit with everything that the agent has changed.
    #[default]
    Squash,
    /// The commits that the agent made, and one with what it did not commit.
    Keep,
}

impl Commits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How and where to a result is delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deliver {
    /// How.
    pub mode: DeliverMode,
    /// The branch that is pushed. `agent/` and the end of the job's ID if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<DeliveryBranch>,
    /// The branch that it is based on, and that a pull request is for. The branch that was pulled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<DeliveryBranch>,
    /// The title of the pull request and the subject of the commit. From the prompt if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The text of the pull request and of the commit. The agent's last words if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Whether a pull request is a draft. `true` by default.
    pub draft: bool,
    /// Whether changes of protected paths are delivered too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_protected: bool,
    /// What the branch consists of.
    #[serde(skip_serializing_if = "Commits::is_default")]
    pub commits: Commits,
}

impl Deliver {
    /// The longest title, in characters: that of the strictest forge.
    pub const LONGEST_TITLE: usize = 255;
    /// The longest text, in bytes. Forges take at least 65,536 characters, and a link is added to it.
    pub const LONGEST_BODY: usize = 60_000;

    /// A delivery as a branch with its default name.
    #[must_use]
    pub const fn new(mode: DeliverMode) -> Self {
        Self {
            mode,
            branch: None,
            base: None,
            title: None,
            body: None,
            draft: true,
            allow_protected: false,
            commits: Commits::Squash,
        }
    }

    /// Reads the field `deliver`. `None` if it is absent or its mode is `none`.
    pub(super) fn read_object(
        fields: &Fields,
        policy: &Policy,
    ) -> Result<Option<Self>, RequestError> {
        fields.nested("deliver", policy.unknown_fields, Self::read).map(Option::flatten)
    }

    /// Reads the fields of the object itself.
    fn read(fields: &Fields) -> Result<Option<Self>, RequestError> {
        let mode = fields.required("mode", |text| match text {
            "none" => Ok(None),
            "branch" => Ok(Some(DeliverMode::Branch)),
            "pull_request" => Ok(Some(DeliverMode::PullRequest)),
            _ => Err("must be \"none\", \"branch\" or \"pull_request\"".to_owned()),
        })?;
        let deliver = Self {
            mode: mode.unwrap_or(DeliverMode::Branch),
            branch: fields.optional("branch", DeliveryBranch::parse)?,
            base: fields.optional("base", DeliveryBranch::parse)?,
            title: fields.optional("title", title)?,
            body: fields.optional("body", body)?,
            draft: fields.bool("draft")?.unwrap_or(true),
            allow_protected: fields.bool("allowProtected")?.unwrap_or_default(),
            commits: fields
                .optional("commits", |text| match text {
                    "squash" => Ok(Commits::Squash),
                    "keep" => Ok(Commits::Keep),
                    _ => Err("must be \"squash\" or \"keep\"".to_owned()),
                })?
                .unwrap_or_default(),
        };
        if deliver.branch.is_some() && deliver.branch == deliver.base {
            let why = "is the branch that the result is based on: choose another, or leave it out";
            return Err(RequestError::field("branch", why));
        }
        Ok(mode.map(|_| deliver))
    }
}

fn title(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("must be one line of text".into());
    }
    if text.chars().count() > Deliver::LONGEST_TITLE {
        return Err(format!("must be at most {} characters", Deliver::LONGEST_TITLE));
    }
    Ok(text.to_owned())
}

fn body(text: &str) -> Result<String, String> {
    if text.len() > Deliver::LONGEST_BODY {
        return Err(format!("must be at most {} bytes", Deliver::LONGEST_BODY));
    }
    if text.contains('\0') {
        return Err("contains a NUL character".into());
    }
    Ok(text.to_owned())
}

/// `POST /api/deliver`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliverRequest {
    /// The workflow whose result is delivered.
    pub job: JobId,
    /// The repository of that workflow, with credentials for it. Only needed for credentials.
    pub repo_url: Option<RepoUrl>,
    /// How and where to.
    pub deliver: Deliver,
    /// What is about the job itself. The delivery of a workflow has none.
    pub common: CommonOptions,
}

impl DeliverRequest {
    /// The job path of deliveries.
    pub const PATH: &'static str = "/api/deliver";
}

impl DeliverRequest {
    /// Reads a body. `job` is the job in its path, if that names one.
    fn read(body: &[u8], job: Option<JobId>, policy: &Policy) -> Result<Self, RequestError> {
        let fields = Fields::parse(body)?;
        let named = fields.optional("jobId", |text| {
            text.parse::<JobId>().map_err(|_| "is not the ID of a job (a UUIDv7)".to_owned())
        })?;
        let job = match (job, named) {
            (Some(job), Some(named)) if job != named => {
                let why = "is another job than that of the path: leave it out";
                return Err(RequestError::field("jobId", why));
            }
            (Some(job), _) | (None, Some(job)) => job,
            (None, None) => return Err(RequestError::field("jobId", "is missing")),
        };
        let url = match fields.string("repoUrl")? {
            Some(_) => Some(repo_url(&fields, policy)?),
            None => None,
        };
        let deliver = Deliver::read(&fields)?
            .ok_or_else(|| RequestError::field("mode", "must be \"branch\" or \"pull_request\""))?;
        let common = CommonOptions::read(&fields)?;
        fields.finish(policy.unknown_fields)?;
        Ok(Self { job, repo_url: url, deliver, common })
    }
}

impl JobRequest for DeliverRequest {
    fn service(&self) -> Service {
        Service::Pull
    }

    fn path(&self) -> &'static str {
        Self::PATH
    }

    fn parse(body: &[u8], _root: &str, policy: &Policy) -> Result<Self, RequestError> {
        Self::read(body, None, policy)
    }

    fn parse_raw(raw: &RawRequest<'_>) -> Result<Self, RequestError> {
        Self::read(raw.body, raw.job, raw.policy)
    }

    fn to_body(&self, secrets: Secrets) -> Vec<u8> {
        let mut body = options_map(&self.deliver);
        self.common.write(&mut body, secrets);
        body.insert("jobId".into(), self.job.to_string().into());
        if let Some(url) = &self.repo_url {
            let url = match secrets {
                Secrets::Exposed => url.expose(),
                Secrets::Withheld => url.address().to_owned(),
            };
            body.insert("repoUrl".into(), url.into());
        }
        encode(&body)
    }

    fn place(&self, _: Requester) -> Place {
        Place::OfJob(self.job)
    }

    fn delivery(&self) -> Option<&Deliver> {
        Some(&self.deliver)
    }

    fn repo_url(&self) -> Option<&RepoUrl> {
        self.repo_url.as_ref()
    }

    fn common(&self) -> CommonOptions {
        self.common.clone()
    }

    fn timeout_seconds(&self) -> Option<u64> {
        None
    }
}
