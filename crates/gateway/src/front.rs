//! The gateway's routes.

use std::sync::Arc;

use contract::{RequestError, Service};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use web::Body;
use workspace::Position;

use crate::{enter, reads, state::Shared};

const ROUTES: &str = "GET /health, GET /status, GET /api/repos, GET /api/jobs, GET /api/jobs/:id, \
                      GET /api/jobs/:id/events, POST /api/jobs/:id/cancel";

/// Answers one request on the port of `service`.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    service: Service,
    request: Request<Incoming>,
) -> Response<Body> {
    let cors = shared.config.cors.clone();
    if let Some(preflight) = cors.preflight(request.method(), request.headers()) {
        return preflight;
    }
    cors.mark(route(&shared, service, request).await)
}

async fn route(
    shared: &Arc<Shared>,
    service: Service,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let posting = request.method() == Method::POST;
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    if path == service.job_path() {
        return if posting {
            enter::enter(shared, service, request).await.unwrap_or_else(|refusal| *refusal)
        } else {
            web::method_not_allowed("POST")
        };
    }
    match parts.as_slice() {
        ["health" | "status"]
        | ["api", "repos" | "jobs"]
        | ["api", "jobs", _]
        | ["api", "jobs", _, "events"]
            if !reading =>
        {
            web::method_not_allowed("GET, HEAD")
        }
        ["api", "jobs", _, "cancel"] if !posting => web::method_not_allowed("POST"),
        ["health"] => web::json(StatusCode::OK, &reads::health(shared, service)),
        ["status"] => reply(reads::status(shared, service).await),
        ["api", "repos"] => reply(reads::repos(shared).await),
        ["api", "jobs"] => match reads::Listing::parse(request.uri().query().unwrap_or_default()) {
            Ok(listing) => reply(reads::jobs(shared, listing).await),
            Err(error) => web::error(&error),
        },
        ["api", "jobs", id] => match reads::find(shared, id) {
            Ok(job) => reply(reads::view(job).await),
            Err(error) => web::error(&error),
        },
        ["api", "jobs", id, "events"] => {
            events(shared, id, &request).unwrap_or_else(|error| web::error(&error))
        }
        ["api", "jobs", id, "cancel"] => match reads::find(shared, id) {
            Ok(job) => reads::cancel(shared, job).await.unwrap_or_else(|error| web::error(&error)),
            Err(error) => web::error(&error),
        },
        _ => web::no_such_path(&format!("POST {}, {ROUTES}", service.job_path())),
    }
}

fn reply<T: Serialize>(result: Result<T, RequestError>) -> Response<Body> {
    match result {
        Ok(value) => web::json(StatusCode::OK, &value),
        Err(error) => web::error(&error),
    }
}

fn events(
    shared: &Arc<Shared>,
    id: &str,
    request: &Request<Incoming>,
) -> Result<Response<Body>, RequestError> {
    let job = reads::find(shared, id)?;
    let after = web::last_event_id(request.headers())?;
    match job.check_position(after) {
        Ok(Position::After(after)) => Ok(enter::events(shared, job, after)),
        // What a browser's EventSource takes as "do not come back".
        Ok(Position::Ended) => Ok(web::empty(StatusCode::NO_CONTENT)),
        Err(error) => Err(RequestError::new(
            contract::Code::InvalidField,
            format!("'Last-Event-ID': {error}; leave it out to read from the beginning"),
        )),
    }
}
