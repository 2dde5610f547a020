//! The gateway's routes.

use std::{net::IpAddr, sync::Arc};

use contract::{Code, RequestError, Service};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use job_http::Route;
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
    if let Err(error) = check_host(shared.config.bind, request.headers()) {
        return web::error(&error);
    }
    cors.mark(route(&shared, service, request).await)
}

/// On loopback, refuses requests that were meant for another name: a web page whose name is made to point here
/// (DNS rebinding) passes for the same origin in its visitor's browser, and could run agents.
fn check_host(bind: IpAddr, headers: &HeaderMap) -> Result<(), RequestError> {
    let Some(host) = headers.get(http::header::HOST).filter(|_| bind.is_loopback()) else {
        return Ok(());
    };
    let host = host.to_str().unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let is_local =
        name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
    if is_local || bare.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(RequestError::new(
        Code::InvalidField,
        "'Host': this stack listens on loopback only, so call it by localhost or by its IP address",
    ))
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
            enter::enter(shared, service, None, request).await.unwrap_or_else(|refusal| *refusal)
        } else {
            web::method_not_allowed("POST")
        };
    }
    match Route::of(service, &path) {
        Some(Route::Stream(session)) if posting => {
            return match job_http::known(&shared.workspace, session).await {
                Ok(session) => enter::enter(shared, service, Some(session), request)
                    .await
                    .unwrap_or_else(|refusal| *refusal),
                Err(error) => web::error(&error),
            };
        }
        Some(route) => return job_http::answer(&shared.workspace, route, request).await,
        None => {}
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
        ["api", "jobs", id] => match reads::find(shared, id).await {
            Ok(job) => reply(reads::view(job).await),
            Err(error) => web::error(&error),
        },
        ["api", "jobs", id, "events"] => {
            events(shared, id, request.headers()).await.unwrap_or_else(|error| web::error(&error))
        }
        ["api", "jobs", id, "cancel"] => {
            reads::cancel(shared, id).await.unwrap_or_else(|error| web::error(&error))
        }
        _ => web::no_such_path(&format!("POST {}, {ROUTES}", service.job_path())),
    }
}

fn reply<T: Serialize>(result: Result<T, RequestError>) -> Response<Body> {
    match result {
        Ok(value) => web::json(StatusCode::OK, &value),
        Err(error) => web::error(&error),
    }
}

async fn events(
    shared: &Arc<Shared>,
    id: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, RequestError> {
    let job = reads::find(shared, id).await?;
    let after = web::last_event_id(headers)?;
    match reads::position(&job, after).await? {
        Position::After(after) => Ok(enter::events(shared, job, after)),
        // What a browser's EventSource takes as "do not come back".
        Position::Ended => Ok(web::empty(StatusCode::NO_CONTENT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_loopback_only_local_names_are_answered() {
        let check = |bind: &str, host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::HOST, http::HeaderValue::from_static(host));
            check_host(bind.parse().unwrap(), &headers).is_ok()
        };
        for host in [
            "localhost",
            "LOCALHOST:5000",
            "127.0.0.1:5000",
            "[::1]:5000",
            "10.0.0.7",
            "stack.localhost:1",
        ] {
            assert!(check("127.0.0.1", host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:5000",
            "127.0.0.1.evil.example:5000",
            "localhost.evil",
            ":",
            "",
        ] {
            assert!(!check("127.0.0.1", host), "{host}");
            assert!(check("0.0.0.0", host), "{host}");
        }
        assert!(check_host("127.0.0.1".parse().unwrap(), &HeaderMap::new()).is_ok());
    }
}
