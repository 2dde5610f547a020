//! `GET /api/jobs/:id/diff`: what a job has left, compared with what it was given.
//!
//! The first one who asks starts a job of the pull service, which leaves the answer beside the job's record. From then on it
//! is read from there.

use std::{
    collections::HashMap,
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use contract::{
    ChangesRequest, Code, JobId, JobRequest as _, JobState, RequestError, Secrets, Service,
};
use http::{HeaderMap, Response, StatusCode, header};
use tokio::sync::OnceCell;
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

/// How long the end of a look that failed is the answer for all who ask: whoever may only read must not keep replicas at work
/// with what cannot be done.
const REMEMBERED: Duration = Duration::from_secs(60);

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

/// Refuses what the records say is refused, so that it costs no replica.
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
    let job = job.clone();
    blocking(move || job.comparable()).await.map(drop)
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

/// For each job whose change is being looked at, or could not be looked at a moment ago, the job that does.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<HashMap<JobId, Arc<OnceCell<Job>>>>);

impl Looks {
    fn all(&self) -> MutexGuard<'_, HashMap<JobId, Arc<OnceCell<Job>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place for the job that looks at `job`.
    fn of(&self, job: JobId) -> Arc<OnceCell<Job>> {
        Arc::clone(self.all().entry(job).or_default())
    }

    /// Forgets a place that stayed empty, unless somebody else is about to fill it.
    fn give_back(&self, job: JobId, place: &Arc<OnceCell<Job>>) {
        let mut all = self.all();
        // This one, and the one in the map.
        if Arc::strong_count(place) == 2 && place.get().is_none() {
            all.remove(&job);
        }
    }
}

/// The job that looks at `job`: one however many ask.
async fn look(shared: &Arc<Shared>, caller: &Caller, job: JobId) -> Result<Job, RequestError> {
    let place = shared.looks.of(job);
    let (begins, caller) = (Arc::clone(shared), caller.clone());
    // In a task of its own: whoever asks may disconnect, and the next one must find the job.
    let begun = shared.tasks.spawn(async move {
        let look = place.get_or_try_init(|| begin(&begins, &caller, job)).await.cloned();
        if look.is_err() {
            begins.looks.give_back(job, &place);
        }
        look
    });
    let failed =
        || RequestError::new(Code::Internal, "the look could not be queued: see the gateway's log");
    begun.await.unwrap_or_else(|_| Err(failed()))
}

/// Queues a job that looks at `job`.
async fn begin(shared: &Arc<Shared>, caller: &Caller, job: JobId) -> Result<Job, RequestError> {
    let (workspace, id) = (shared.workspace.clone(), JobId::new());
    let (name, gateway) = (caller.name.clone(), shared.id);
    let record = blocking(move || {
        let request = ChangesRequest { job };
        let digest = RequestDigest::of(&request, &request.to_body(Secrets::Withheld), None);
        let record = JobRecord::of(&workspace, &request, digest, id, None)?;
        Ok(JobRecord { caller: name, gateway: Some(gateway), ..record })
    });
    let record = record.await.map_err(|error: workspace::Error| error.refusal())?;
    let described = Described { record, checkout: None, secret_body: None };
    let queued = submit::queue(shared, caller, described, OnDisconnect::Continue, None).await;
    shared.audit.add(Entry::of(caller, Action::Submit).job(id).outcome(&queued));
    // It stays queued also if those who asked disconnect, because they will ask again.
    let queued = queued?.0;
    let look = queued.job().clone();
    let (shared, watched) = (Arc::clone(shared), look.clone());
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        let outcome = shared::end_of(&watched).await;
        drop(queued);
        if outcome.and_then(|outcome| outcome.code).is_some_and(is_lasting) {
            tokio::time::sleep(REMEMBERED).await;
        }
        shared.looks.all().remove(&job);
    });
    Ok(look)
}

/// Whether a look would fail in the same way again.
fn is_lasting(code: Code) -> bool {
    !matches!(
        code,
        Code::QueueTimeout
            | Code::Cancelled
            | Code::Terminated
            | Code::ReplicaLost
            | Code::CallerLeft
    )
}

/// The status of an error of this route: what is gone stays gone, and what an agent left is no fault of this software.
pub(crate) fn refuse(error: &RequestError) -> Response<Body> {
    let mut response = web::error(error);
    *response.status_mut() = match error.code {
        Code::WorkspaceGone => StatusCode::GONE,
        Code::TooLarge | Code::CheckoutConflict => StatusCode::CONFLICT,
        _ => response.status(),
    };
    response
}

#[cfg(test)]
mod tests {
    use contract::Ending;

    use super::*;

    fn looks(shared: &Shared) -> usize {
        Job::list(&shared.workspace).unwrap().len()
    }

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

    /// Wherever they were when their caller was gone.
    #[tokio::test]
    async fn those_who_disconnect_leave_one_job() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::of_tests(dir.path()));
        let (caller, job) = (Caller::anonymous(), JobId::new());
        for polls in 1..10 {
            let mut asked = Box::pin(look(&shared, &caller, job));
            for _ in 0..polls {
                if futures_util::poll!(&mut asked).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let look = look(&shared, &caller, job).await.unwrap();
        assert_eq!((looks(&shared), shared.looks.all().len()), (1, 1));
        assert_eq!(Job::list(&shared.workspace).unwrap(), [look.id()]);
    }

    /// A failure that would come again is remembered, another one is not.
    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_looked_at_is_not_tried_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::of_tests(dir.path()));
        let caller = Caller::anonymous();
        for (code, remembered) in [(Code::TooLarge, true), (Code::ReplicaLost, false)] {
            let job = JobId::new();
            let first = look(&shared, &caller, job).await.unwrap();
            first.end_unclaimed("test", Ending::pull_failure(code, "no")).unwrap().unwrap();
            shared::end_of(&first).await.unwrap();
            if !remembered {
                while shared.looks.all().contains_key(&job) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            let second = look(&shared, &caller, job).await.unwrap();
            assert_eq!(second.id() == first.id(), remembered, "{code}");
            tokio::time::sleep(REMEMBERED + Duration::from_secs(5)).await;
            let third = look(&shared, &caller, job).await.unwrap();
            assert_ne!(third.id(), first.id());
        }
    }

    /// Nothing is left of a look that could not even be queued.
    #[tokio::test]
    async fn a_refused_look_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut shared = Shared::of_tests(dir.path());
        shared.config.queue_limit = 0;
        let shared = Arc::new(shared);
        let (caller, job) = (Caller::anonymous(), JobId::new());
        let ask = || look(&shared, &caller, job);
        let (one, two) = tokio::join!(ask(), ask());
        assert_eq!([one, two].map(|it| it.unwrap_err().code), [Code::QueueFull; 2]);
        assert!(shared.looks.all().is_empty());
    }
}
