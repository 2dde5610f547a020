//! The layer that finds out who sends a request, and whether its route is open to that caller.

use std::net::IpAddr;

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use contract::{Code, JobId, RequestError, Scope};
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use web::Peer;
use workspace::{CreateError, Job, Statement, blocking};

use crate::{
    audit::{Action, Entry},
    caller::Caller,
    routes::{self, PortState},
    shared::Shared,
};

/// Adds the [`Caller`] to the request, or refuses it.
pub(crate) async fn authenticate(
    State(port): State<PortState>,
    request: Request,
    next: Next,
) -> Response {
    let (mut head, body) = request.into_parts();
    let address = head.extensions.get::<Peer>().and_then(Peer::address);
    let refuse = |name: Option<&Caller>, error: &RequestError| {
        port.shared.audit.add(Entry::refused(name, address, error.code));
        refusal(error)
    };
    let (shared, path) = (&port.shared, matched_path(&head));
    let scope = path.as_deref().map_or(Some(Scope::Read), |path| routes::scope(&head.method, path));
    let Some(scope) = scope else {
        // A route without a scope is for everybody: health checks have no token.
        let caller = shared.callers.authenticate(&head.headers).map(|(caller, _)| caller);
        head.extensions.insert(caller.unwrap_or_else(|_| Caller::anonymous_among_others()));
        return next.run(Request::from_parts(head, body)).await;
    };
    let starts_job = head.method == Method::POST && path.as_deref().is_some_and(routes::starts_job);
    let found = match workflow_of(shared, &head.headers) {
        Ok(Some(workflow)) if starts_job => owner_of(shared, workflow).await,
        Err(error) if starts_job => Err(error),
        Ok(_) | Err(_) => known(shared, &head.headers).await,
    };
    let mut caller = match found {
        Ok(caller) => caller,
        Err(error) => return refuse(None, &error),
    };
    caller.address = address;
    // Paths and methods that do not exist need no scope, but are not shown to strangers.
    if path.is_some()
        && let Err(error) = caller.check(scope)
    {
        return refuse(Some(&caller), &error);
    }
    // The requests of a workflow are its stack's own.
    let rate =
        if caller.workflow.is_none() { shared.callers.count_request(&caller.name) } else { None };
    let mut answer = match rate.filter(|rate| rate.is_exceeded) {
        Some(rate) => refuse(Some(&caller), &RequestError::new(Code::RateLimited, rate.sentence())),
        None => {
            head.extensions.insert(caller);
            next.run(Request::from_parts(head, body)).await
        }
    };
    if let Some(rate) = rate {
        rate.add_to(answer.headers_mut());
    }
    answer
}

fn matched_path(head: &Parts) -> Option<String> {
    head.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned())
}

fn refusal(error: &RequestError) -> Response {
    let mut answer = web::error(error).map(Body::new);
    if error.code == Code::Unauthorized {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// The caller of a token, or `anonymous`.
async fn known(shared: &Shared, headers: &HeaderMap) -> Result<Caller, RequestError> {
    let (caller, used) = shared.callers.authenticate(headers)?;
    if let Some(id) = used {
        let workspace = shared.workspace.clone();
        let noted = blocking(move || workspace.note_token_use(&id)).await;
        // A volume that cannot be written keeps nobody out.
        if let Err(error) = noted {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot note the use of a token"
            );
        }
    }
    Ok(caller)
}

/// The workflow in whose name a request is sent, which has proved that with its capability.
///
/// # Errors
/// If it names a workflow and has not.
pub(crate) fn workflow_of(
    shared: &Shared,
    headers: &HeaderMap,
) -> Result<Option<JobId>, RequestError> {
    let Some(workflow) = web::job_id(headers, web::header::PARENT_JOB_ID)? else { return Ok(None) };
    let capability = headers.get(web::header::CAPABILITY).and_then(|value| value.to_str().ok());
    if capability
        .is_some_and(|capability| shared.secret.is_proof(capability, Statement::JobsOf(workflow)))
    {
        return Ok(Some(workflow));
    }
    Err(RequestError::new(
        Code::Forbidden,
        "only a running workflow may ask for jobs of its own, with the capability that it was given: leave \
         'X-Parent-Job-Id' out",
    ))
}

/// The workflow as a caller: its jobs belong to its own caller.
async fn owner_of(shared: &Shared, workflow: JobId) -> Result<Caller, RequestError> {
    let workspace = shared.workspace.clone();
    let record = blocking(move || {
        let job = Job::open(&workspace, workflow)?;
        job.map(|job| job.record()).transpose()
    });
    let record = record.await.map_err(|error| error.refusal())?;
    let record = record.ok_or_else(|| CreateError::ParentEnded.refusal())?;
    let is_alone = !shared.callers.has_tokens();
    Ok(Caller::workflow(workflow, record.caller, record.works_anywhere, is_alone))
}

impl Entry {
    /// A request that was refused, of this caller if it is known.
    pub(crate) fn refused(caller: Option<&Caller>, address: Option<IpAddr>, code: Code) -> Self {
        let entry = match caller {
            Some(caller) => Self::of(caller, Action::Refused),
            None => Self::unknown(address, Action::Refused),
        };
        entry.result(code.as_str())
    }
}
