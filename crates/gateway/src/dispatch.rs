//! Handing jobs to replicas.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use contract::{Code, RequestError, Service};
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use web::{AskError, ask};
use workspace::{IdleReplica, Registry, Turn, blocking};

use crate::{
    state::Shared,
    stream::CALLER_LEFT,
    ticket::{Refused, Stage, Ticket},
};

/// A replica on the same network takes a connection at once or never: one that was killed while idle may
/// leave an address that does not even refuse.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// How long a replica may take to claim a job.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// How long a replica that failed is left alone, if it is still announced.
const SHUN_TIME: Duration = Duration::from_secs(1);
/// How often a turn is asked for that a job outside this gateway's books has.
const ELSEWHERE_TIME: Duration = Duration::from_millis(500);

/// Hands out the jobs of one service for as long as the gateway lives.
pub(crate) async fn run(shared: Arc<Shared>, service: Service) {
    let replicas = Registry::new(&shared.workspace, service);
    let mut registry = replicas.watch();
    loop {
        let work = shared.work.notified();
        tokio::pin!(work);
        // Registered before the look, so that nothing that comes in between is missed.
        work.as_mut().enable();
        drop_the_done(&shared, service).await;
        let look = replicas.clone();
        match blocking(move || look.idle()).await {
            Ok(idle) => pass(&shared, service, idle),
            Err(error) => {
                tracing::error!(%service, error = &error as &dyn std::error::Error, "cannot read the registry");
            }
        }
        tokio::select! {
            () = registry.changed() => {}
            () = work => {}
        }
    }
}

/// Pairs idle replicas with jobs until there are no more of one or the other.
fn pass(shared: &Arc<Shared>, service: Service, idle: Vec<IdleReplica>) {
    let now = Instant::now();
    let mut books = shared.books();
    books.shunned.retain(|_, until| *until > now);
    if !idle.is_empty() || books.has_work_of(service) {
        books.replicas_seen[service] = now;
    }
    let mut idle: std::collections::VecDeque<_> = idle
        .into_iter()
        .filter(|replica| {
            !books.sent.contains(&replica.id) && !books.shunned.contains_key(&replica.id)
        })
        .collect();
    while let Some(replica) = idle.pop_front() {
        let draining = shared.is_draining();
        let may_go = |ticket: &Ticket| ticket.is_wanted() && (!draining || ticket.parent.is_some());
        let Some(ticket) = books.queue.next(service, may_go) else {
            idle.push_front(replica);
            break;
        };
        books.sent.insert(replica.id);
        books.dispatching.insert(ticket.job.id(), Arc::clone(&ticket));
        shared.tasks.spawn(dispatch(Arc::clone(shared), ticket, replica));
    }
    books.idle.insert(service, idle.len());
    for (index, ticket) in books.queue.of(service).enumerate() {
        let waiting_for = books
            .queue
            .blocked_by(ticket)
            .map(|(holder, turn)| format!("job {holder} to be done in {turn}"));
        ticket.set(Stage::Waiting { position: index + 1, waiting_for });
    }
}

/// Ends jobs whose wait is over without a replica.
async fn drop_the_done(shared: &Arc<Shared>, service: Service) {
    let tickets: Vec<_> = shared.books().queue.of(service).cloned().collect();
    for ticket in tickets {
        // A caller's cancel ends a waiting job itself; that of a workflow comes by the volume alone.
        let looks_for_cancel = ticket.parent.is_some();
        if let Some((code, sentence)) = is_over(shared, &ticket, looks_for_cancel).await {
            shared.end_waiting(ticket.job.id(), code, &sentence).await;
        }
    }
}

/// Whether a job's wait is over without a replica, and why.
async fn is_over(
    shared: &Shared,
    ticket: &Ticket,
    looks_for_cancel: bool,
) -> Option<(Code, String)> {
    let now = Instant::now();
    if ticket.is_forsaken(now) {
        return Some((Code::CallerLeft, CALLER_LEFT.to_owned()));
    }
    if ticket.waited() >= shared.config.queue_wait {
        let error = queue_timeout(shared, ticket);
        return Some((error.code, error.message));
    }
    let job = ticket.job.clone();
    if !looks_for_cancel {
        return None;
    }
    let is_cancelled = blocking(move || {
        job.is_cancel_requested().unwrap_or_else(|error| {
            job.workspace().report_once(&job.control(), &error);
            false
        })
    });
    is_cancelled
        .await
        .then(|| (Code::Cancelled, "the job was cancelled before a replica took it".to_owned()))
}

/// Why a job waited for too long: for a replica, or for its turn.
fn queue_timeout(shared: &Shared, ticket: &Ticket) -> RequestError {
    let wait = shared.config.queue_wait;
    let books = shared.books();
    let Some((holder, turn)) = books.queue.blocked_by(ticket) else {
        return RequestError::queue_timeout(ticket.service, wait);
    };
    let seconds = wait.as_secs();
    let sentence = format!(
        "job {holder} was not done in {turn} within {seconds} s (QUEUE_WAIT_SECONDS): send the job again when that one \
         has ended, or cancel that one"
    );
    RequestError::new(Code::QueueTimeout, sentence)
}

/// What became of a dispatch.
enum Verdict {
    /// A replica has the job, this one or another.
    Taken,
    /// The replica is not there or not idle; the job has its place still.
    TryAnother,
    /// A job that this gateway does not know of has the turn on something it needs.
    TurnBusy(Option<Turn>),
    /// The replica looked at the job and said no.
    Refused(Code, String, Refused),
}

async fn dispatch(shared: Arc<Shared>, ticket: Arc<Ticket>, replica: IdleReplica) {
    let verdict = hand_over(&ticket, &replica).await;
    let id = ticket.job.id();
    {
        let mut books = shared.books();
        books.sent.remove(&replica.id);
        if matches!(verdict, Verdict::TryAnother) {
            books.shunned.insert(replica.id, Instant::now() + SHUN_TIME);
        }
    }
    match verdict {
        Verdict::Taken => {
            tracing::info!(service = %ticket.service, job = %id, replica = %replica.id, "taken");
            shared.taken(&ticket);
        }
        Verdict::TryAnother => {
            tracing::debug!(job = %id, replica = %replica.id, "not taken");
            put_back(&shared, &ticket).await;
        }
        Verdict::TurnBusy(turn) => {
            // Its turns stay with this job while it waits, so that no later one overtakes it.
            let waiting_for = turn.map(|turn| format!("another job to be done in {turn}"));
            ticket.set(Stage::Waiting { position: 1, waiting_for });
            // Nobody can tell when it is done: it is not in this gateway's books.
            tokio::time::sleep(ELSEWHERE_TIME).await;
            put_back(&shared, &ticket).await;
        }
        Verdict::Refused(code, sentence, refused) => {
            shared.refuse(&ticket, code, &sentence, refused).await;
        }
    }
    shared.work.notify_waiters();
}

/// Gives a job its place back, unless its wait has ended while it was on its way.
async fn put_back(shared: &Arc<Shared>, ticket: &Arc<Ticket>) {
    match is_over(shared, ticket, true).await {
        None => shared.books().put_back(ticket),
        Some((code, sentence)) => shared.end(ticket, code, &sentence).await,
    }
}

async fn hand_over(ticket: &Ticket, replica: &IdleReplica) -> Verdict {
    let job = ticket.job.clone();
    let body = match &ticket.secret_body {
        Some(body) => body.clone(),
        None => match blocking(move || job.record()).await {
            Ok(record) => Bytes::from(String::from(Box::<str>::from(record.request.body))),
            Err(error) => {
                tracing::error!(job = %ticket.job.id(), error = &error as &dyn std::error::Error, "cannot read a job");
                return internal("the job's record cannot be read");
            }
        },
    };
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        ("prefer", "respond-async".to_owned()),
        (web::header::JOB_ID, ticket.job.id().to_string()),
        (web::header::REPLICA_ID, replica.id.to_string()),
    ];
    let digest = ticket.digest.as_ref().map(|digest| digest.as_str().to_owned());
    headers.extend(digest.map(|digest| (web::header::REQUEST_DIGEST, digest)));
    headers.extend(ticket.parent.map(|parent| (web::header::PARENT_JOB_ID, parent.to_string())));
    let base = replica.address.into();
    let asked = async {
        let answer =
            ask(&base, Method::POST, ticket.service.job_path(), &headers, body, CONNECT_TIME)
                .await?;
        let status = answer.status;
        Ok::<_, AskError>((status, answer.bytes(64 * 1024).await.unwrap_or_default()))
    };
    match tokio::time::timeout(ANSWER_TIME, asked).await {
        Ok(Ok((status, body))) => judge(ticket, status, body).await,
        Ok(Err(AskError::Connect(..))) => Verdict::TryAnother,
        // It may or may not have taken the job before it went silent; the volume knows.
        Ok(Err(_)) | Err(_) => taken_or_try_another(ticket).await,
    }
}

async fn judge(ticket: &Ticket, status: StatusCode, body: Vec<u8>) -> Verdict {
    #[derive(Deserialize)]
    struct Error {
        error: String,
        code: String,
        field: Option<String>,
    }
    let error = serde_json::from_slice::<Error>(&body).ok();
    let code = error.as_ref().map(|error| Code::from_name(&error.code).unwrap_or(Code::Internal));
    match status {
        StatusCode::ACCEPTED => Verdict::Taken,
        StatusCode::CONFLICT if code == Some(Code::Claimed) => {
            let verdict = taken_or_try_another(ticket).await;
            if matches!(verdict, Verdict::TryAnother) {
                tracing::warn!(job = %ticket.job.id(), "a replica says that this job is claimed, and it is not");
            }
            verdict
        }
        StatusCode::SERVICE_UNAVAILABLE
            if error.as_ref().is_some_and(|error| error.field.is_some()) =>
        {
            let field = error.and_then(|error| error.field);
            let turn = ticket.turns.iter().find(|turn| field.as_deref() == Some(turn.field()));
            Verdict::TurnBusy(turn.cloned())
        }
        StatusCode::MISDIRECTED_REQUEST | StatusCode::SERVICE_UNAVAILABLE => Verdict::TryAnother,
        _ => match error {
            Some(Error { error, .. }) => {
                let code = code.unwrap_or(Code::Internal);
                Verdict::Refused(code, error, Refused { status, body: body.into() })
            }
            None => internal("a replica gave an answer that makes no sense"),
        },
    }
}

async fn taken_or_try_another(ticket: &Ticket) -> Verdict {
    let job = ticket.job.clone();
    match blocking(move || job.claimed()).await {
        Ok(Some(_)) => Verdict::Taken,
        Ok(None) => Verdict::TryAnother,
        Err(error) => {
            tracing::warn!(job = %ticket.job.id(), error = &error as &dyn std::error::Error, "cannot look at a job");
            Verdict::TryAnother
        }
    }
}

fn internal(sentence: &str) -> Verdict {
    let error = contract::RequestError::new(Code::Internal, sentence);
    let body = serde_json::to_vec(&error.body()).unwrap_or_default().into();
    Verdict::Refused(
        Code::Internal,
        error.message,
        Refused { status: StatusCode::INTERNAL_SERVER_ERROR, body },
    )
}
