//! What is to be delivered, as the volume knows it.

use std::path::{Path, PathBuf};

use contract::{
    BranchName, CallerName, CloneFilter, Code, DeliverRequest, FileRepositories, JobId, JobState,
    Policy, RepoUrl, Scheme, Service, SessionId, Timestamp,
};
use oneshot::JobContext;
use serde::{Deserialize, de::DeserializeOwned};
use workspace::{Job, ResolveError};

use super::refuse;
use crate::{
    Config,
    failure::{Failure, Result},
    remote::{Extent, ObjectId},
};

/// A result, and where it belongs.
pub(super) struct Source {
    /// The workflow.
    pub(super) job: JobId,
    /// The job that the checkout was made for; the workflow itself, unless it resumed a session.
    pub(super) first: JobId,
    pub(super) caller: CallerName,
    pub(super) created: Timestamp,
    pub(super) prompt: String,
    /// The agent's last words.
    pub(super) words: Option<String>,
    pub(super) session: Option<SessionId>,
    /// Whether the commands that check it succeeded, and what the last one printed, if there were any.
    pub(super) verification: Option<(bool, String)>,
    /// The repository, with credentials if the request has them.
    pub(super) repo: RepoUrl,
    /// The checkout, or why there is nothing in it to deliver any more.
    checkout: std::result::Result<PathBuf, (Code, String)>,
    pub(super) extent: Extent,
    /// The commit that the agent was given.
    pub(super) base: ObjectId,
    /// The branch that was pulled.
    pub(super) branch: Option<BranchName>,
}

impl Source {
    /// The checkout.
    ///
    /// # Errors
    /// If it is gone, or a later job has worked in it.
    pub(super) fn checkout(&self) -> Result<&Path> {
        match &self.checkout {
            Ok(path) => Ok(path),
            Err((code, sentence)) => refuse(*code, sentence.clone()),
        }
    }
}

/// The fields of a workflow's recorded request that matter here.
#[derive(Debug, Deserialize)]
struct Asked {
    prompt: String,
}

/// The fields of a pull's recorded request that matter here.
#[derive(Debug, Default, Deserialize)]
struct Pulled {
    #[serde(default)]
    depth: Option<std::num::NonZeroU32>,
    #[serde(default)]
    filter: Option<String>,
    #[serde(default)]
    lfs: bool,
}

/// Finds the result that `request` names. Blocking.
///
/// # Errors
/// If there is none, it is not the caller's, or it has changed since.
pub(super) fn find(
    config: &Config,
    context: &JobContext,
    request: &DeliverRequest,
) -> Result<Source> {
    let workspace = &context.workspace;
    let unknown =
        || Failure::told(Code::NotFound, "there is no such job: GET /api/jobs lists them");
    let job = Job::open(workspace, request.job).map_err(volume)?.ok_or_else(unknown)?;
    let record = job.shown_record().map_err(volume)?;
    let own = Job::open(workspace, context.id).map_err(volume)?;
    let own = own.map(|own| own.record()).transpose().map_err(volume)?;
    let (caller, anywhere) =
        own.map_or((CallerName::anonymous(), false), |it| (it.caller, it.works_anywhere));
    if record.caller != caller && !anywhere {
        return Err(unknown());
    }
    if record.service != Service::Workflow {
        return refuse(
            Code::InvalidField,
            "'jobId': only the result of a workflow can be delivered",
        );
    }
    let state = job.view().map_err(volume)?.state;
    let is_parent = context.parent == Some(request.job);
    if !is_parent && matches!(state, JobState::Queued | JobState::Running) {
        return refuse(Code::Running, "the job has not ended: wait for its end, or cancel it");
    }
    let Some(work) = job.work().map_err(volume)? else {
        let sentence = "there is nothing to deliver: the agent of this job did not start";
        return refuse(Code::NothingToDeliver, sentence);
    };
    let checkout = if job.is_superseded(&work).map_err(volume)? {
        let sentence =
            "a later job has worked in the checkout of this one since: deliver that job instead";
        Err((Code::Superseded, sentence.to_owned()))
    } else {
        match workspace.resolve(&work.checkout) {
            Ok(place) if workspace.may_work_in(context.id, &place).map_err(volume)? => {
                Ok(workspace.root().join(place.as_str()))
            }
            Ok(_) => return Err(unknown()),
            Err(ResolveError::Refused(why)) => {
                let sentence =
                    format!("the checkout of this job is gone ({why}): run the job again");
                Err((Code::WorkspaceGone, sentence))
            }
            Err(ResolveError::Volume(error)) => return Err(volume(error)),
        }
    };
    let Some(base) = work.base.as_deref().and_then(|id| ObjectId::parse(id.as_bytes())) else {
        let sentence = "nothing says at which commit the agent began: run the job with \"update\": true, or without a session";
        return refuse(Code::InvalidField, sentence);
    };
    let asked: Asked = read(record.request.body.get())?;
    let pulled: Pulled = read(work.pull.as_deref().unwrap_or("{}"))?;
    let depth = pulled.depth;
    let filter = pulled.filter.filter(|it| it == CloneFilter::BlobNone.as_str());
    let filter = filter.map(|_| CloneFilter::BlobNone);
    Ok(Source {
        job: request.job,
        first: work.checkout.own_job().unwrap_or(request.job),
        caller: record.caller,
        created: record.created,
        prompt: asked.prompt,
        words: work.result,
        session: work.session,
        verification: work.verification,
        repo: repository(config, request, record.repo_url.as_deref())?,
        checkout,
        extent: Extent { depth, filter, lfs: pulled.lfs },
        base,
        branch: work.branch,
    })
}

/// The repository of the job, with the credentials of the request if it has some.
fn repository(config: &Config, request: &DeliverRequest, known: Option<&str>) -> Result<RepoUrl> {
    // It was allowed when it was pulled. Whether it is allowed now, this function decides.
    let policy = Policy { file_repositories: FileRepositories::Allowed, ..Policy::default() };
    let known = known.and_then(|known| RepoUrl::parse(known, &policy).ok());
    let Some(known) = known else {
        return refuse(Code::Internal, "the job's record names no repository that can be read");
    };
    let repo = match &request.repo_url {
        Some(given) if !given.is_same_repository(&known) => {
            let sentence =
                format!("'repoUrl': the job worked on {known}: send that URL, or leave it out");
            return refuse(Code::DifferentRepository, sentence);
        }
        Some(given) => given.clone(),
        None => known,
    };
    if repo.scheme() == Scheme::File && config.policy.file_repositories == FileRepositories::Refused
    {
        let sentence =
            "repositories on the server's own disk are not allowed here: use https or ssh";
        return refuse(Code::SchemeNotAllowed, sentence);
    }
    Ok(repo)
}

fn read<T: DeserializeOwned>(body: &str) -> Result<T> {
    serde_json::from_str(body).map_err(|error| {
        Failure::told(Code::Internal, format!("the job's record cannot be understood: {error}"))
    })
}

/// An error of the volume, which logs itself.
fn volume(error: workspace::Error) -> Failure {
    let refusal = error.refusal();
    Failure::told(refusal.code, refusal.message)
}
