//! Handing jobs to replicas.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use contract::{CallerName, Code, RequestError, Service};
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use web::Connection;
use workspace::{Challenge, IdleReplicas, ReplicaEntry, StackSecret, Statement, Turn, blocking};

use crate::{
    shared::Shared,
    state::Transition,
    stream::CALLER_LEFT,
    ticket::{QueueStatus, Rejection, Ticket},
};

/// A replica on the same network accepts a connection at once or never: one that was killed while idle may leave an
/// address that does not even refuse.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// The longest answer of a replica that is read, in bytes.
const ANSWER_LIMIT: usize = 64 * 1024;
/// How often to look for jobs whose wait is over.
const EXPIRY: Duration = Duration::from_millis(500);
/// How often to check that every idle replica is alive. Those that are about to get a job are checked at once.
const PROBE: Duration = Duration::from_secs(5);
/// How often to try again when a job that this gateway does not know of has a turn.
const TURN_PAUSE: Duration = Duration::from_millis(500);
/// Why a queued job ends that was cancelled.
pub(crate) const CANCELLED: &str = "the job was cancelled before a replica took it";

/// Dispatches the jobs of one service for as long as the gateway lives.
pub(crate) async fn run(shared: Arc<Shared>, service: Service) {
    let registry = shared.registry(service);
    let mut changes = registry.watch();
    let mut replicas = IdleReplicas::new(registry);
    let (mut next_expiry, mut next_probe) = (Instant::now(), Instant::now());
    let mut has_changed = true;
    loop {
        let work = shared.work.notified();
        tokio::pin!(work);
        // Registered before the look, so that nothing that comes in between is missed.
        work.as_mut().enable();
        let now = Instant::now();
        if next_expiry <= now {
            next_expiry = now + EXPIRY;
            end_expired(&shared, service).await;
        }
        let mut wanted = shared.state().wanted(service);
        if next_probe <= now {
            next_probe = now + PROBE;
            wanted = usize::MAX;
        }
        if wanted > 0 || has_changed {
            let found;
            (replicas, found) = blocking(move || {
                // Other gateways use the same replicas, and may keep all of them at work.
                let found = replicas.look(wanted).and_then(|()| replicas.is_any_there());
                (replicas, found)
            })
            .await;
            match found {
                Ok(is_any_there) => {
                    if is_any_there {
                        shared.state().replica_seen(service);
                    }
                    assign(&shared, service, &replicas);
                }
                Err(error) => {
                    tracing::error!(%service, error = &error as &dyn std::error::Error, "cannot read the registry");
                }
            }
        }
        has_changed = tokio::select! {
            () = changes.changed() => true,
            () = work => false,
        };
    }
}

/// Hands the next jobs to the idle replicas.
fn assign(shared: &Arc<Shared>, service: Service, idle: &IdleReplicas) {
    let pairs = {
        let mut state = shared.state();
        if state.busy(service) > 0 {
            state.replica_seen(service);
        }
        let limit_of = |owner: &CallerName| shared.callers.limits_of(owner).running;
        state.assign(service, idle, shared.lifecycle.get(), limit_of)
    };
    for (ticket, replica) in pairs {
        shared.tasks.spawn(dispatch(Arc::clone(shared), ticket, replica));
    }
}

/// Ends the jobs whose wait is over without a replica.
async fn end_expired(shared: &Arc<Shared>, service: Service) {
    let tickets: Vec<_> = shared.state().queue().of(service).cloned().collect();
    for ticket in tickets {
        // A caller's cancel ends a waiting job itself. That of a workflow comes only through the volume.
        let look_for_cancel = ticket.parent.is_some();
        if let Some((code, sentence)) = end_of_wait(shared, &ticket, look_for_cancel).await {
            shared.end_queued(ticket.job.id(), code, &sentence).await;
        }
    }
}

/// Why the wait of a job is over without a replica, if it is.
async fn end_of_wait(
    shared: &Shared,
    ticket: &Ticket,
    look_for_cancel: bool,
) -> Option<(Code, String)> {
    if ticket.is_abandoned() {
        return Some((Code::CallerLeft, CALLER_LEFT.to_owned()));
    }
    if ticket.waited() >= shared.config.queue_wait {
        let error = queue_timeout(shared, ticket);
        return Some((error.code, error.message));
    }
    if !look_for_cancel {
        return None;
    }
    let job = ticket.job.clone();
    let is_cancelled = blocking(move || {
        job.is_cancel_requested().unwrap_or_else(|error| {
            job.workspace().report_once(&job.control(), &error);
            false
        })
    });
    is_cancelled.await.then(|| (Code::Cancelled, CANCELLED.to_owned()))
}

/// Why a job waited for too long: for a replica, or for its turn.
fn queue_timeout(shared: &Shared, ticket: &Ticket) -> RequestError {
    let wait = shared.config.queue_wait;
    let state = shared.state();
    let Some((holder, turn)) = state.queue().blocked_by(ticket) else {
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
enum DispatchResult {
    /// A replica has the job, this one or another.
    Taken,
    /// The replica is not there or not idle, so the job goes to another.
    TryAnother,
    /// A job that this gateway does not know of has the turn that the job needs.
    TurnBusy(Option<Turn>),
    /// The replica looked at the job and refused it.
    Refused(Code, String, Rejection),
}

async fn dispatch(shared: Arc<Shared>, ticket: Arc<Ticket>, replica: ReplicaEntry) {
    let limit = shared.config.dispatch_time;
    // Others of the same caller may have ended since it was queued. A workflow's jobs are a part of it.
    let allowed =
        if ticket.parent.is_none() { shared.check_budget(&ticket.owner).await } else { Ok(()) };
    let result = match allowed {
        Ok(()) => hand_over(&ticket, &replica, &shared.secret, limit).await,
        Err(error) => refused(error),
    };
    {
        let mut state = shared.state();
        match result {
            DispatchResult::TryAnother => state.avoid(replica.id),
            _ => state.answered(replica.id),
        }
    }
    match result {
        DispatchResult::Taken => shared.watch_running(&ticket, Some(replica.id)),
        DispatchResult::TryAnother => requeue(&shared, &ticket).await,
        DispatchResult::TurnBusy(turn) => {
            // The job keeps its turns while it waits, so that no later one overtakes it.
            let waiting_for = turn.map(|turn| format!("another job to be done in {turn}"));
            ticket.set_status(QueueStatus::Waiting { position: 1, waiting_for });
            // Nothing tells when that job is done, as this gateway does not know of it.
            tokio::time::sleep(TURN_PAUSE).await;
            requeue(&shared, &ticket).await;
        }
        DispatchResult::Refused(code, sentence, answer) => {
            shared.reject(&ticket, code, &sentence, answer).await;
        }
    }
}

/// Gives a job its place in the queue back, unless its wait ended while it was dispatched.
async fn requeue(shared: &Arc<Shared>, ticket: &Arc<Ticket>) {
    match end_of_wait(shared, ticket, true).await {
        None => shared.state().transition(ticket, Transition::Requeued),
        Some((code, sentence)) => shared.end(ticket, code, &sentence).await,
    }
}

/// Asks a replica to take a job. It must answer within `limit`.
async fn hand_over(
    ticket: &Ticket,
    replica: &ReplicaEntry,
    secret: &StackSecret,
    limit: Duration,
) -> DispatchResult {
    let (job, id) = (ticket.job.clone(), ticket.job.id());
    let body = match ticket.secret_body() {
        Some(body) => body,
        None => match blocking(move || job.record()).await {
            // It is known when the job was queued, and a record of an earlier life of its ID may have been put back.
            Ok(record) if record.created == ticket.created => {
                Bytes::from(String::from(Box::<str>::from(record.request.body)))
            }
            Ok(_) => return refused(ticket.job.record_of_another_life().refusal()),
            Err(error) => return refused(error.refusal()),
        },
    };
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        ("prefer", "respond-async".to_owned()),
        (web::header::JOB_ID, ticket.job.id().to_string()),
        (web::header::REPLICA_ID, replica.id.to_string()),
    ];
    let proof = secret.prove(Statement::Dispatch { replica: replica.id, job: id });
    headers.push((web::header::DISPATCH_PROOF, proof));
    let digest = ticket.digest.as_ref().map(|digest| digest.as_str().to_owned());
    headers.extend(digest.map(|digest| (web::header::REQUEST_DIGEST, digest)));
    if ticket.service.asks_for_jobs() {
        headers.push((web::header::CAPABILITY, secret.prove(Statement::JobsOf(id))));
    }
    headers.extend(ticket.parent.map(|parent| (web::header::PARENT_JOB_ID, parent.to_string())));
    let asked = async {
        let connection = connect(replica, secret).await?;
        let answer = connection.ask(Method::POST, &ticket.path, &headers, body).await.ok()?;
        let status = answer.status;
        Some((status, answer.bytes(ANSWER_LIMIT).await.unwrap_or_default()))
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(Some((status, body))) => interpret(ticket, status, body).await,
        // It may have taken the job before it went silent. The volume knows.
        Ok(None) => taken_or_try_another(ticket).await,
        Err(_) => {
            tracing::warn!(job = %ticket.job.id(), replica = %replica.id, address = %replica.address, "a replica did not answer in time");
            taken_or_try_another(ticket).await
        }
    }
}

/// Connects to a replica, and makes sure that it is the one that has signed its entry: a program that has found its port free
/// must not be sent a prompt or a credential. `None` if that fails.
async fn connect(replica: &ReplicaEntry, secret: &StackSecret) -> Option<Connection> {
    let connection = Connection::open(&replica.address.into(), CONNECT_TIME).await.ok()?;
    // Entries without a proof are only believed on a stack that has replicas without the secret.
    if replica.proof.is_none() {
        return Some(connection);
    }
    let challenge = Challenge::random().ok()?;
    let headers = [(web::header::CHALLENGE, challenge.to_string())];
    let answer = connection.ask(Method::GET, "/status", &headers, Bytes::new()).await.ok()?;
    let statement = Statement::Challenged { replica: replica.id, challenge };
    let proof = answer.header(web::header::CHALLENGE_PROOF);
    if !proof.is_some_and(|proof| secret.is_proof(proof, statement)) {
        tracing::warn!(replica = %replica.id, address = %replica.address, "something else answers at the address of a replica");
        return None;
    }
    Some(answer.into_parts(ANSWER_LIMIT).await.ok()?.1)
}

async fn interpret(ticket: &Ticket, status: StatusCode, body: Vec<u8>) -> DispatchResult {
    #[derive(Deserialize)]
    struct Error {
        error: String,
        code: String,
        field: Option<String>,
    }
    let error = serde_json::from_slice::<Error>(&body).ok();
    let code = error.as_ref().map(|error| Code::from_name(&error.code).unwrap_or(Code::Internal));
    match status {
        StatusCode::ACCEPTED => DispatchResult::Taken,
        StatusCode::CONFLICT if code == Some(Code::Claimed) => {
            let result = taken_or_try_another(ticket).await;
            if matches!(result, DispatchResult::TryAnother) {
                tracing::warn!(job = %ticket.job.id(), "a replica says that this job is claimed, but it is not");
            }
            result
        }
        StatusCode::SERVICE_UNAVAILABLE
            if error.as_ref().is_some_and(|error| error.field.is_some()) =>
        {
            let field = error.and_then(|error| error.field);
            let turn = ticket.turns.iter().find(|turn| field.as_deref() == Some(turn.field()));
            DispatchResult::TurnBusy(turn.cloned())
        }
        StatusCode::MISDIRECTED_REQUEST | StatusCode::SERVICE_UNAVAILABLE => {
            DispatchResult::TryAnother
        }
        // One of a version that does not know this path. Its job paths are all that a replica has.
        _ if matches!(code, Some(Code::NotFound | Code::MethodNotAllowed)) => {
            DispatchResult::TryAnother
        }
        _ => match error {
            Some(Error { error, .. }) => {
                let code = code.unwrap_or(Code::Internal);
                DispatchResult::Refused(code, error, Rejection { status, body: body.into() })
            }
            None => internal("a replica gave an answer that makes no sense: see its log"),
        },
    }
}

async fn taken_or_try_another(ticket: &Ticket) -> DispatchResult {
    let job = ticket.job.clone();
    match blocking(move || job.claimed()).await {
        Ok(Some(_)) => DispatchResult::Taken,
        Ok(None) => DispatchResult::TryAnother,
        Err(error) => {
            tracing::warn!(job = %ticket.job.id(), error = &error as &dyn std::error::Error, "cannot look at a job");
            DispatchResult::TryAnother
        }
    }
}

fn internal(sentence: &str) -> DispatchResult {
    refused(RequestError::new(Code::Internal, sentence))
}

/// The job ends with this error.
fn refused(error: RequestError) -> DispatchResult {
    let answer = Rejection::new(&error);
    DispatchResult::Refused(error.code, error.message, answer)
}
