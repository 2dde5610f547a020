//! `GET /api/jobs/:id/diff`: what a job has left, compared with what it was given.
//!
//! The first one who asks starts a job of the pull service, which leaves the answer beside the job's record. From then on it
//! is read from there.

use std::{fs::File, sync::Arc, time::Duration};

use contract::{
    ChangesRequest, Code, JobId, JobRequest as _, JobState, RequestError, Secrets, Service,
};
use http::{HeaderMap, Response, StatusCode, header};
use web::{Body, OnDisconnect};
use workspace::{Job, JobRecord, RequestDigest, blocking};

use crate::{
    audit::{Action, Entry},
    caller::{Act, Caller},
    files::{self, Served},
    reads,
    shared::{self, Shared},
    submit::{self, Described},
};

/// How long a request waits for the job. Shorter than any answer may take to begin.
const WAIT: Duration = Duration::from_secs(45);

/// The two forms of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Patch,
    Summary,
}

impl Form {
    fn wanted(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
        let is_json = accept.is_some_and(|accept| accept.contains("application/json"));
        if is_json { Self::Summary } else { Self::Patch }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Patch => "patch",
            Self::Summary => "summary.json",
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Patch => "text/x-diff; charset=utf-8",
            Self::Summary => "application/json",
        }
    }
}

/// The patch of a job, or with `Accept: application/json` the list of its files.
pub(crate) async fn diff(
    shared: &Arc<Shared>,
    caller: &Caller,
    id: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, RequestError> {
    let form = Form::wanted(headers);
    let job = reads::find(shared, caller, Act::Read, id).await?;
    let file = match open(&job, form).await? {
        Some(file) => file,
        None => {
            check(&job).await?;
            match tokio::time::timeout(WAIT, take(shared, caller, &job)).await {
                Ok(taken) => taken?,
                Err(_) => {
                    let sentence = "the change is not ready yet, because replicas or the checkout are busy: ask again";
                    return Err(RequestError::new(Code::Busy, sentence));
                }
            }
            open(&job, form).await?.ok_or_else(|| {
                RequestError::new(Code::Internal, "the change was deleted meanwhile: ask again")
            })?
        }
    };
    let served = Served { media_type: form.media_type(), varies: Some("accept") };
    files::answer(file, served, headers).await
}

async fn open(job: &Job, form: Form) -> Result<Option<File>, RequestError> {
    let job = job.clone();
    blocking(move || job.open_changes(form.file())).await.map_err(|error| error.refusal())
}

/// Refuses what can be seen to fail without a replica.
async fn check(job: &Job) -> Result<(), RequestError> {
    let view = reads::view(job.clone()).await?;
    if view.service != Service::Workflow {
        let sentence = "only the change of a workflow is known: this job has pulled nothing that it began with";
        return Err(RequestError::new(Code::NoBase, sentence));
    }
    if !view.state.has_ended() {
        let sentence = "the job has not ended: wait for its end, or cancel it";
        return Err(RequestError::new(Code::Running, sentence));
    }
    Ok(())
}

/// Has the pull service look, or waits for a look that is under way.
async fn take(shared: &Arc<Shared>, caller: &Caller, job: &Job) -> Result<(), RequestError> {
    let look = look(shared, caller, job.id()).await?;
    let Some(outcome) = shared::end_of(&look).await else {
        let sentence = "the job that looks at the change was deleted: ask again";
        return Err(RequestError::new(Code::Internal, sentence));
    };
    if outcome.state == JobState::Succeeded {
        return Ok(());
    }
    let sentence = outcome.error.unwrap_or_else(|| "the change cannot be looked at".to_owned());
    Err(RequestError::new(outcome.code.unwrap_or(Code::Internal), sentence))
}

/// The job that looks at `job`: one however many ask.
async fn look(shared: &Arc<Shared>, caller: &Caller, job: JobId) -> Result<Job, RequestError> {
    let mut looks = shared.looks.lock().await;
    if let Some(known) = looks.get(&job) {
        return Ok(known.clone());
    }
    let (workspace, caller, id) = (shared.workspace.clone(), caller.clone(), JobId::new());
    let (name, gateway) = (caller.name.clone(), shared.id);
    let record = blocking(move || {
        let request = ChangesRequest { job };
        let digest = RequestDigest::of(&request, &request.to_body(Secrets::Withheld), None);
        let record = JobRecord::of(&workspace, &request, digest, id, None)?;
        Ok(JobRecord { caller: name, gateway: Some(gateway), ..record })
    });
    let record = record.await.map_err(|error: workspace::Error| error.refusal())?;
    let described = Described { record, checkout: None, secret_body: None };
    let queued = submit::queue(shared, &caller, described, OnDisconnect::Continue, None).await;
    shared.audit.add(Entry::of(&caller, Action::Submit).job(id).outcome(&queued));
    // It stays queued also if those who asked disconnect, because they will ask again.
    let queued = queued?.0;
    let look = queued.job().clone();
    looks.insert(job, look.clone());
    let (shared, watched) = (Arc::clone(shared), look.clone());
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        shared::end_of(&watched).await;
        drop(queued);
        shared.looks.lock().await.remove(&job);
    });
    Ok(look)
}

/// The status of an error of this route: what is gone stays gone.
pub(crate) fn refuse(error: &RequestError) -> Response<Body> {
    let mut response = web::error(error);
    if error.code == Code::WorkspaceGone {
        *response.status_mut() = StatusCode::GONE;
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn however_many_ask_one_job_looks() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::of_tests(dir.path()));
        let (caller, job) = (Caller::anonymous(), JobId::new());
        let ask = || look(&shared, &caller, job);
        let (one, two, three) = tokio::join!(ask(), ask(), ask());
        let id = one.unwrap().id();
        assert_eq!([two, three].map(|look| look.unwrap().id()), [id, id]);
        let other = look(&shared, &caller, JobId::new()).await.unwrap();
        assert_ne!(other.id(), id);
    }
}
