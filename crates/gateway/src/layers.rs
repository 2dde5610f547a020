//! What happens to every request before its route sees it, from the outside in: the request log, the check of
//! the host, CORS, and the time limit.

use std::{net::IpAddr, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
};
use contract::{Code, RequestError};
use http::HeaderMap;
use tower_http::trace::{DefaultOnFailure, DefaultOnResponse, TraceLayer};
use tracing::Level;

use crate::routes::Front;

/// How long any answer may take to begin. A job's begins when the dispatcher has looked for a replica, and the
/// replica it found may take 15 s to claim the job.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Adds all layers to the routes of one port.
pub(crate) fn add(router: Router<Front>, front: &Front) -> Router<Front> {
    // The last one added is the first one a request meets.
    let router = router.layer(from_fn(limit_time));
    let router = match front.shared.config.cors.layer() {
        Some(cors) => router.layer(cors),
        None => router,
    };
    let service = front.service;
    router.layer(from_fn_with_state(front.clone(), check_host)).layer(
        TraceLayer::new_for_http()
            .make_span_with(move |request: &http::Request<_>| {
                let (method, path) = (request.method(), request.uri().path());
                tracing::debug_span!("request", port = %service, %method, path)
            })
            .on_response(DefaultOnResponse::new().level(Level::DEBUG))
            .on_failure(DefaultOnFailure::new().level(Level::DEBUG)),
    )
}

async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_TIME, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => {
            let seconds = ANSWER_TIME.as_secs();
            tracing::error!(seconds, "a request had no answer in time");
            let sentence = format!(
                "no answer within {seconds} s: the workspace may hang, see the gateway's log; then send the request again"
            );
            refuse(&RequestError::new(Code::Internal, sentence))
        }
    }
}

fn refuse(error: &RequestError) -> Response {
    web::error(error).map(axum::body::Body::new)
}

async fn check_host(State(front): State<Front>, request: Request, next: Next) -> Response {
    match host_is_allowed(front.shared.config.bind, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => refuse(&error),
    }
}

/// On loopback, refuses requests that were meant for another name: a web page whose name is made to point here
/// (DNS rebinding) passes for the same origin in its visitor's browser, and could run agents.
fn host_is_allowed(bind: IpAddr, headers: &HeaderMap) -> Result<(), RequestError> {
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
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_loopback_only_local_names_are_answered() {
        let check = |bind: &str, host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::HOST, http::HeaderValue::from_static(host));
            host_is_allowed(bind.parse().unwrap(), &headers).is_ok()
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
        assert!(host_is_allowed("127.0.0.1".parse().unwrap(), &HeaderMap::new()).is_ok());
    }
}
