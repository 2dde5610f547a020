//! A request becomes a job in the queue.

use std::sync::Arc;

use axum::extract::Request;
use bytes::Bytes;
use contract::{
    Code, DirectoryName, JobId, Place, RawRequest, RequestError, Requester, Secrets, Service,
    SessionId, Timestamp, UnknownFields,
};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Response};
use web::{BODY_LIMIT, Body, Ids, OnDisconnect, PASSED_LIMIT, Peer};
use workspace::{
    CancelOnDisconnect, CreateError, Job, JobRecord, NewJob, RequestDigest, Workspace, blocking,
};

use crate::{
    audit::{Action, Entry},
    caller::{Act, Caller},
    places,
    readers::Reader,
    routes::PortState,
    shared::Shared,
    state::Transition,
    stream::{self, Viewer},
    ticket::{CallerState, QueueStatus, Ticket},
};

/// What the path of a request says about the job that it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The job path of the service.
    pub(crate) path: &'static str,
    pub(crate) session: Option<SessionId>,
    /// The job that the request is about.
    pub(crate) job: Option<JobId>,
}

impl Target {
    pub(crate) const fn path(path: &'static str) -> Self {
        Self { path, session: None, job: None }
    }
}

/// `POST` of a job.
pub(crate) async fn submit(
    PortState { shared, service }: &PortState,
    caller: &Caller,
    target: Target,
    request: Request,
) -> Result<Response<Body>, web::Refusal> {
    let service = *service;
    let refuse = |error: RequestError| Box::new(web::error(&error));
    let headers = request.headers().clone();
    let peer = request.extensions().get::<Peer>().cloned();
    let id = web::job_id(&headers, web::header::JOB_ID).map_err(refuse)?;
    let parent = caller.workflow;
    let on_disconnect = OnDisconnect::read(&headers).map_err(refuse)?;
    let limit = if parent.is_some() { PASSED_LIMIT } else { BODY_LIMIT };
    let body = web::read_json_body(request, limit).await.map_err(refuse)?;
    let (id, chosen) = (id.unwrap_or_else(JobId::new), id);
    let workspace = shared.workspace.clone();
    let mut policy = shared.config.policy.clone();
    if parent.is_some() {
        // A workflow of another version asks; that it runs is checked before its job is queued.
        policy.unknown_fields = UnknownFields::Ignored;
    }
    let asks = caller.clone();
    let described = blocking(move || {
        let root = workspace.root_text();
        let (session, job) = (target.session, target.job);
        let request =
            RawRequest { body: &body, root, policy: &policy, path: target.path, session, job };
        describe(&workspace, service, request, id, &asks)
    });
    let queued = async {
        let mut described = described.await?;
        described.record.gateway = Some(shared.id);
        queue(shared, caller, described, on_disconnect, chosen).await
    };
    let queued = queued.await;
    shared.audit.add(Entry::of(caller, Action::Submit).job(id).outcome(&queued));
    let (submitted, guard) = queued.map_err(refuse)?;
    answer(shared, submitted, &headers, peer, guard).await
}

/// What a request asks for.
pub(crate) struct Described {
    pub(crate) record: JobRecord,
    /// The shared checkout that its job uses.
    pub(crate) checkout: Option<DirectoryName>,
    /// The body with credentials that are not in the record.
    pub(crate) secret_body: Option<Bytes>,
}

fn describe(
    workspace: &Workspace,
    service: Service,
    raw: RawRequest<'_>,
    id: JobId,
    caller: &Caller,
) -> Result<Described, RequestError> {
    let request = (service.spec().parse)(&raw)?;
    let request = request.as_ref();
    let digest = RequestDigest::of(request, raw.body, raw.session);
    let record = JobRecord::of(workspace, request, digest, id, caller.workflow)
        .map_err(|error| error.refusal())?;
    let works_anywhere = caller.may_all(Act::Change);
    let record = JobRecord { caller: caller.name.clone(), works_anywhere, ..record };
    places::check(workspace, caller, request, &record)?;
    let secret_body =
        record.request.credentials_withheld.then(|| Bytes::from(request.to_body(Secrets::Exposed)));
    let requester = if caller.workflow.is_some() { Requester::Workflow } else { Requester::Caller };
    let checkout = match request.place(requester) {
        Place::Checkout(name) => Some(name),
        Place::Own | Place::OfSession | Place::At(_) | Place::OfJob(_) => None,
    };
    Ok(Described { record, checkout, secret_body })
}

/// A job that is queued now, or was known already.
pub(crate) enum Submitted {
    New(Arc<Ticket>, Viewer),
    Known(Job, Reader),
}

impl Submitted {
    pub(crate) fn job(&self) -> &Job {
        match self {
            Self::New(ticket, _) => &ticket.job,
            Self::Known(job, _) => job,
        }
    }
}

/// Records a job and queues it, unless it is known.
pub(crate) async fn queue(
    shared: &Arc<Shared>,
    caller: &Caller,
    Described { record, checkout, secret_body }: Described,
    on_disconnect: OnDisconnect,
    chosen: Option<JobId>,
) -> Result<(Submitted, CancelOnDisconnect), RequestError> {
    let workspace = shared.workspace.clone();
    let (id, parent) = (record.job_id, record.parent);
    let known = blocking(move || Job::open(&workspace, id)).await;
    let is_new = known.map_err(|error| error.refusal())?.is_none();
    if is_new {
        chosen.map_or(Ok(()), check_time)?;
        if !shared.lifecycle.get().accepts(parent) {
            let sentence = "the stack is being stopped: send the request again later";
            return Err(RequestError::new(Code::Terminated, sentence));
        }
        // No limit applies to the jobs of a running workflow: it would wait for itself.
        let limit = shared.config.queue_limit;
        if parent.is_none() && shared.state().is_full(record.service, limit) {
            let sentence = format!("{limit} jobs are waiting already: try again later");
            return Err(RequestError::new(Code::QueueFull, sentence));
        }
        if parent.is_none() {
            shared.check_budget(&record.caller).await?;
        }
        if parent.is_none()
            && let Some(limit) = shared.callers.limits_of(&record.caller).queued
            && shared.state().is_full_for(record.service, &record.caller, limit)
        {
            let sentence = format!(
                "{limit} jobs of this caller are waiting already, which is its limit: try again when one has begun"
            );
            return Err(RequestError::new(Code::RateLimited, sentence));
        }
    }
    // In a task of its own: a caller that disconnects now must not leave a job behind that is in no queue.
    let (submitting, caller) = (Arc::clone(shared), caller.clone());
    let task = shared.tasks.spawn(async move {
        let workspace = submitting.workspace.clone();
        let asks = caller.clone();
        let (record, turns, created) = blocking(move || {
            if is_new {
                check_workflow(&workspace, &record)?;
            }
            // First, because a job that exists but cannot be queued would wait forever.
            let turns = record.turns(&workspace).map_err(|error| error.refusal())?.own;
            // Last, because it lasts: a request that is refused must not take a name away from others.
            if is_new && let Some(name) = checkout {
                places::claim(&workspace, &asks, &name)?;
            }
            let created = Job::create_for(&workspace, &record).map_err(|error| error.refusal())?;
            Ok::<_, RequestError>((record, turns, created))
        })
        .await?;
        let job = match created {
            NewJob::Exists(job) => {
                let read = job.clone();
                let known =
                    blocking(move || read.record()).await.map_err(|error| error.refusal())?;
                if known.caller != caller.name {
                    // The same as for another request of the same caller: whose it is, is nobody's business.
                    return Err(CreateError::AnotherRequest.refusal());
                }
                // Before the guard: dropping it, because this reader is refused, would cancel the job.
                let reader = submitting.readers.add(job.id(), submitting.config.readers_per_job)?;
                let guard = guard(&submitting, on_disconnect, &job);
                return Ok((Submitted::Known(job, reader), guard));
            }
            NewJob::Created(job) => job,
        };
        // Both are created here: if the caller is gone already, nobody takes them, so they are dropped and do their work.
        let guard = guard(&submitting, on_disconnect, &job);
        let ticket =
            Arc::new(Ticket::new(job, &record, turns, secret_body, CallerState::Connected));
        let viewer = Viewer::new(&submitting, &ticket);
        submitting.state().transition(&ticket, Transition::Queued);
        Ok((Submitted::New(ticket, viewer), guard))
    });
    let failed =
        || RequestError::new(Code::Internal, "the job could not be queued: see the gateway's log");
    task.await.unwrap_or_else(|_| Err(failed()))
}

/// Refuses an ID of long ago or of far ahead: the order of the jobs is that of their IDs.
fn check_time(id: JobId) -> Result<(), RequestError> {
    const DAY: u64 = 24 * 60 * 60 * 1000;
    let distance = id.created().as_millisecond().abs_diff(Timestamp::now().as_millisecond());
    if distance <= DAY {
        return Ok(());
    }
    let sentence =
        "'X-Job-Id': the time in this UUIDv7 is more than a day from now: make a new one";
    Err(RequestError::new(Code::InvalidField, sentence))
}

/// Refuses a job that its workflow may not start. Blocking.
fn check_workflow(workspace: &Workspace, record: &JobRecord) -> Result<(), RequestError> {
    let Some(workflow) = record.parent else { return Ok(()) };
    let job = Job::open(workspace, workflow).map_err(|error| error.refusal())?;
    let job = job.ok_or_else(|| CreateError::ParentEnded.refusal())?;
    let asks = job.record().map_err(|error| error.refusal())?.service.spec().asks;
    let kind = (record.service, record.path.as_deref());
    let admitted = job.admits_child(asks, kind, record.job_id);
    if admitted.map_err(|error| error.refusal())? {
        return Ok(());
    }
    let sentence = format!(
        "this workflow may not start another job of {} at {}: each may start one, and another if its replica died",
        record.service,
        record.path()
    );
    Err(RequestError::new(Code::Forbidden, sentence))
}

fn guard(shared: &Arc<Shared>, on_disconnect: OnDisconnect, job: &Job) -> CancelOnDisconnect {
    let stopping = Arc::clone(shared);
    match on_disconnect {
        OnDisconnect::Continue => CancelOnDisconnect::disarmed(),
        OnDisconnect::Cancel => CancelOnDisconnect::armed(job, move || stopping.is_stopping()),
    }
}

/// The stream, or the refusal of a job that ended before its caller heard anything.
async fn answer(
    shared: &Arc<Shared>,
    submitted: Submitted,
    headers: &HeaderMap,
    peer: Option<Peer>,
    guard: CancelOnDisconnect,
) -> Result<Response<Body>, web::Refusal> {
    let ids = web::ids_wanted(headers);
    let (ticket, viewer, reader) = match submitted {
        Submitted::Known(job, reader) => match shared.ticket(job.id()) {
            Some(ticket) => {
                let viewer = Viewer::new(shared, &ticket);
                (ticket, viewer, Some(reader))
            }
            None => {
                let id = job.id();
                let events = stream::from_elsewhere(Arc::clone(shared), job, 0, ids, guard);
                return Ok(web::event_stream(id, peer, counted(events, reader)));
            }
        },
        Submitted::New(ticket, viewer) => (ticket, viewer, None),
    };
    let mut status = ticket.status();
    let known = status.wait_for(|status| *status != QueueStatus::New).await;
    match known.map(|status| status.clone()) {
        Ok(QueueStatus::Rejected(answer)) => {
            drop(viewer);
            let mut response = web::json(answer.status, &());
            *response.body_mut() = web::full(answer.body);
            Err(Box::new(response))
        }
        _ => {
            let (id, events) = (ticket.job.id(), stream::from_queue(ticket, viewer, 0, ids, guard));
            Ok(web::event_stream(id, peer, counted(events, reader)))
        }
    }
}

/// The events, for a reader that is counted as long as it reads them. The one that started the job is not counted.
fn counted<T>(
    events: impl Stream<Item = T> + Send + 'static,
    reader: impl Into<Option<Reader>>,
) -> impl Stream<Item = T> + Send + 'static {
    let reader = reader.into();
    events.inspect(move |_| {
        let _lives_as_long_as_the_stream = &reader;
    })
}

/// `GET /api/jobs/:id/events`.
pub(crate) fn events(
    shared: &Arc<Shared>,
    job: Job,
    after: u64,
    peer: Option<Peer>,
) -> Result<Response<Body>, RequestError> {
    let (id, guard) = (job.id(), CancelOnDisconnect::disarmed());
    let reader = shared.readers.add(id, shared.config.readers_per_job)?;
    let events = stream::from_elsewhere(Arc::clone(shared), job, after, Ids::Sent, guard);
    Ok(web::event_stream(id, peer, counted(events, reader)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contract::{JobState, Scope};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::dispatch;

    /// On a busy machine, it takes a while until the stream of a caller begins. Such jobs once ended as if their callers
    /// had disconnected.
    #[tokio::test(start_paused = true)]
    async fn a_caller_counts_as_connected_before_its_stream_begins() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::of_tests(dir.path()));
        let dispatcher = dispatch::run(Arc::clone(&shared), Service::Pull);
        let _dispatcher = AbortOnDropHandle::new(tokio::spawn(dispatcher));
        let (body, policy) = (br#"{"repoUrl":"https://h/r.git"}"#, &shared.config.policy);
        let raw =
            RawRequest { body, root: "/w", policy, path: "/api/pull", session: None, job: None };
        let id = JobId::new();
        let caller = Caller::anonymous();
        let described = describe(&shared.workspace, Service::Pull, raw, id, &caller).unwrap();
        let queued =
            queue(&shared, &caller, described, OnDisconnect::Continue, None).await.unwrap();
        let job = Job::open(&shared.workspace, id).unwrap().unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(job.view().unwrap().state, JobState::Queued);
        drop(queued);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(job.view().unwrap().code, Some(Code::CallerLeft));
    }

    #[tokio::test]
    async fn the_caller_whose_job_comes_first_gets_the_checkout() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::of_tests(dir.path()));
        let (body, policy) =
            (br#"{"repoUrl":"https://h/r.git","directory":"app"}"#, &shared.config.policy);
        let caller = |name: &str| Caller::new(name.parse().unwrap(), None, [Scope::Submit].into());
        let describe = |name: &str, id| {
            let raw = RawRequest {
                body,
                root: "/w",
                policy,
                path: "/api/pull",
                session: None,
                job: None,
            };
            describe(&shared.workspace, Service::Pull, raw, id, &caller(name))
        };
        // Both are looked at before one of them has a job.
        let ids = [JobId::new(), JobId::new()];
        let [first, second] =
            [("ann", ids[0]), ("bob", ids[1])].map(|(name, id)| describe(name, id).unwrap());
        let _queued =
            queue(&shared, &caller("ann"), first, OnDisconnect::Continue, None).await.unwrap();
        let lost = queue(&shared, &caller("bob"), second, OnDisconnect::Continue, None).await;
        let refused = describe("bob", ids[1]).err().unwrap();
        assert_eq!((refused.code, lost.err()), (Code::NotFound, Some(refused.clone())));
        assert!(Job::open(&shared.workspace, ids[1]).unwrap().is_none());
    }
}
