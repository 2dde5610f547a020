//! The routes of the gateway. `HEAD` is answered wherever `GET` is.
#![doc = include_str!("routes.md")]

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{MatchedPath, Path, RawQuery, Request, State, rejection::PathRejection},
    routing::{get, post},
};
use contract::{DeliverRequest, RequestError, Scope, Service};
use http::{HeaderMap, Method, Response, StatusCode, Uri};
use serde::Serialize;
use web::{Body, Peer};
use workspace::Position;

use crate::{
    audit::{Action, Entry},
    caller::{Act, Caller},
    changes, files, health,
    host::Host,
    layers, reads, sessions,
    shared::Shared,
    submit::{self, Target},
    tokens,
};

/// The table at the top of this file, from which the answers to unknown paths and methods are made.
const TABLE: &str = include_str!("routes.md");

/// The route of jobs in a session.
const IN_SESSION: &str = "/api/stream/{id}";

/// The state of the handlers: the gateway, and the service whose job a request starts. Where a request starts none, it is the
/// service of the port.
#[derive(Clone)]
pub(crate) struct PortState {
    pub(crate) shared: Arc<Shared>,
    pub(crate) service: Service,
}

/// An ID in a path. If it cannot be decoded, it belongs to nothing.
type Id = Result<Path<String>, PathRejection>;

fn text(id: Id) -> String {
    id.map(|Path(id)| id).unwrap_or_default()
}

/// The routes on the port of `service`, with all layers. Every port has the same routes, so that a proxy needs only one.
pub(crate) fn router(shared: &Arc<Shared>, service: Service) -> Router {
    let state = |service| PortState { shared: Arc::clone(shared), service };
    let in_session = post(submit_job_in_session).with_state(state(Service::Claude));
    let deliver = post(deliver).with_state(state(Service::Pull));
    let mut router = Router::new()
        .route("/health", get(health_view))
        .route("/status", get(status))
        .route("/api/repos", get(repos))
        .route("/api/jobs", get(jobs))
        .route("/api/jobs/{id}", get(job).delete(delete))
        .route("/api/jobs/{id}/events", get(events))
        .route("/api/jobs/{id}/diff", get(diff))
        .route("/api/jobs/{id}/files/{*path}", get(file))
        .route("/api/jobs/{id}/cancel", post(cancel))
        .route("/api/jobs/{id}/deliver", deliver)
        .route(IN_SESSION, in_session)
        .route("/api/sessions", get(sessions::list).post(sessions::create))
        .route("/api/sessions/{id}", get(sessions::view).delete(sessions::delete))
        .route("/api/tokens", get(tokens::list).post(tokens::create))
        .route("/api/tokens/{id}", axum::routing::delete(tokens::revoke));
    for service in Service::ALL {
        for path in service.spec().job_paths {
            let submit = move |state, caller, request| submit_job(state, caller, path, request);
            router = router.route(path, post(submit).with_state(state(service)));
        }
    }
    let router = router.fallback(no_such_path).method_not_allowed_fallback(method_not_allowed);
    let port = state(service);
    layers::add(router, &port).with_state(port)
}

/// A row of the table.
struct Row {
    method: &'static str,
    path: &'static str,
    /// What a caller needs; `None`: anybody may use it.
    scope: Option<Scope>,
    /// The query parameters, as the table writes them.
    query: &'static str,
}

/// The rows of the table.
fn rows() -> impl Iterator<Item = Row> {
    let paths = Service::ALL.into_iter().flat_map(|service| service.spec().job_paths);
    let jobs =
        paths.map(|path| Row { method: "POST", path, scope: Some(Scope::Submit), query: "" });
    // The first three lines are the head of the table and the row that stands for the job paths.
    jobs.chain(TABLE.lines().skip(3).filter_map(|row| {
        let mut cells = row.split('|').skip(1).map(str::trim);
        let (method, path) = (cells.next()?, cells.next()?.trim_matches('`'));
        let scope = match cells.next()?.trim_matches('`') {
            "" => None,
            // A misspelled one keeps everybody out but administrators.
            scope => Some(scope.parse().unwrap_or(Scope::Admin)),
        };
        Some(Row { method, path, scope, query: cells.next()? })
    }))
}

/// The query parameters of the route at `path`.
pub(crate) fn parameters(path: &str) -> Vec<&'static str> {
    rows()
        .filter(|row| row.path == path && !row.query.is_empty())
        .flat_map(|row| row.query.split(',').map(|name| name.trim().trim_matches('`')))
        .collect()
}

/// What a caller needs for this route; `None`: anybody may use it. A method that the route does not have needs little: the
/// answer is only that.
pub(crate) fn scope(method: &Method, path: &str) -> Option<Scope> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let mut found = rows().filter(|row| row.path == path);
    found.find(|row| row.method == method).map_or(Some(Scope::Read), |row| row.scope)
}

/// Whether a `POST` to the route at `path` starts a job.
pub(crate) fn starts_job(path: &str) -> bool {
    path == IN_SESSION || Service::ALL.into_iter().any(|service| service.has_job_path(path))
}

/// The methods of the route at `path`.
fn methods(path: &str) -> Vec<&'static str> {
    let listed = |method: &str| rows().any(|row| row.path == path && row.method == method);
    ["GET", "HEAD", "POST", "DELETE"]
        .into_iter()
        .filter(|method| listed(if *method == "HEAD" { "GET" } else { method }))
        .collect()
}

async fn no_such_path() -> Response<Body> {
    let routes: Vec<_> = rows().map(|row| format!("{} {}", row.method, row.path)).collect();
    web::no_such_path(&routes.join(", "))
}

async fn method_not_allowed(path: MatchedPath) -> Response<Body> {
    web::method_not_allowed(&methods(path.as_str()).join(", "))
}

/// The answer to a read.
pub(crate) fn reply<T: Serialize>(result: Result<T, RequestError>) -> Response<Body> {
    match result {
        Ok(value) => web::json(StatusCode::OK, &value),
        Err(error) => web::error(&error),
    }
}

async fn health_view(
    State(port): State<PortState>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Response<Body> {
    let local = peer.and_then(|Extension(peer)| peer.reached_at());
    let host = Host::of(request.version(), request.uri(), request.headers()).ok().flatten();
    web::json(StatusCode::OK, &health::view(&port, local, host).await)
}

async fn status(State(port): State<PortState>) -> Response<Body> {
    reply(reads::status(&port.shared, port.service).await)
}

async fn repos(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
) -> Response<Body> {
    reply(reads::repos(&port.shared, caller).await)
}

async fn jobs(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Response<Body> {
    match reads::Listing::parse(query.as_deref().unwrap_or_default()) {
        Ok(listing) => reply(reads::jobs(&port.shared, listing.of(&caller)).await),
        Err(error) => web::error(&error),
    }
}

async fn job(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    id: Id,
) -> Response<Body> {
    match reads::find(&port.shared, &caller, Act::Read, &text(id)).await {
        Ok(job) => reply(reads::view(job).await),
        Err(error) => web::error(&error),
    }
}

async fn events(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    id: Id,
    headers: HeaderMap,
    peer: Option<Extension<Peer>>,
) -> Response<Body> {
    let peer = peer.map(|Extension(peer)| peer);
    let events = async {
        let job = reads::find(&port.shared, &caller, Act::Read, &text(id)).await?;
        let after = web::last_event_id(&headers)?;
        Ok::<_, RequestError>(match reads::position(&job, after).await? {
            Position::After(after) => submit::events(&port.shared, job, after, peer)?,
            // This tells a browser's EventSource not to reconnect.
            Position::Ended => web::empty(StatusCode::NO_CONTENT),
        })
    };
    events.await.unwrap_or_else(|error| web::error(&error))
}

async fn diff(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    id: Id,
    headers: HeaderMap,
) -> Response<Body> {
    let answer = changes::diff(&port.shared, &caller, &text(id), &headers).await;
    answer.unwrap_or_else(|error| changes::refuse(&error))
}

async fn file(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
) -> Response<Body> {
    // As it was sent: names of files need not be UTF-8.
    let path = uri.path();
    let id = path.split('/').nth(3).unwrap_or_default();
    let answer = files::file(&port.shared, &caller, id, path, &headers).await;
    answer.unwrap_or_else(|error| changes::refuse(&error))
}

async fn cancel(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    id: Id,
) -> Response<Body> {
    let id = text(id);
    let cancelled = reads::cancel(&port.shared, &caller, &id).await;
    audit(&port, &caller, Action::Cancel, &id, &cancelled);
    cancelled.unwrap_or_else(|error| web::error(&error))
}

async fn delete(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    id: Id,
) -> Response<Body> {
    let id = text(id);
    let deleted = reads::delete(&port.shared, &caller, &id).await;
    audit(&port, &caller, Action::Delete, &id, &deleted);
    reply(deleted)
}

/// Notes what a caller has done with the job `id`.
fn audit<T>(
    port: &PortState,
    caller: &Caller,
    action: Action,
    id: &str,
    result: &Result<T, RequestError>,
) {
    let entry = Entry::of(caller, action).outcome(result);
    port.shared.audit.add(match id.parse() {
        Ok(id) => entry.job(id),
        Err(_) => entry,
    });
}

async fn submit_job(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    path: &'static str,
    request: Request,
) -> Response<Body> {
    let target = Target::path(path);
    submit::submit(&port, &caller, target, request).await.unwrap_or_else(|refusal| *refusal)
}

/// A delivery of the job's result, which is a job too.
async fn deliver(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    id: Id,
    request: Request,
) -> Response<Body> {
    let job = match reads::find(&port.shared, &caller, Act::Change, &text(id)).await {
        Ok(job) => job.id(),
        Err(error) => return web::error(&error),
    };
    let target = Target { job: Some(job), ..Target::path(DeliverRequest::PATH) };
    submit::submit(&port, &caller, target, request).await.unwrap_or_else(|refusal| *refusal)
}

async fn submit_job_in_session(
    State(port): State<PortState>,
    Extension(caller): Extension<Caller>,
    id: Id,
    request: Request,
) -> Response<Body> {
    let id = text(id).parse().ok();
    match sessions::known(&port.shared.workspace, &caller, Act::Change, id).await {
        Ok(session) => {
            let target = Target::path(Service::Claude.job_path());
            let target = Target { session: Some(session), ..target };
            submit::submit(&port, &caller, target, request).await.unwrap_or_else(|refusal| *refusal)
        }
        Err(error) => web::error(&error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"];

    async fn ask(router: &Router, method: &str, path: &str) -> (u16, String, Value) {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(axum::body::Body::empty())
            .unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let allow = answer.headers().get("allow").map(|it| it.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, allow.unwrap_or_default(), serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn the_table_is_what_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::of_tests(dir.path()));
        for service in Service::ALL {
            let router = router(&shared, service);
            for path in rows().map(|row| row.path).collect::<BTreeSet<_>>() {
                let known = methods(path);
                for method in METHODS {
                    let (status, allow, body) = ask(&router, method, path).await;
                    let what = format!("{service}: {method} {path}: {status} {body}");
                    assert_eq!(status == 405, !known.contains(&method), "{what}");
                    if status == 405 && method != "HEAD" {
                        assert_eq!(allow.split(", ").collect::<Vec<_>>(), known, "{what}");
                        assert_eq!(body["code"], "method_not_allowed", "{what}");
                    } else {
                        let is_unknown =
                            body["error"].as_str().is_some_and(|it| it.contains("such path"));
                        assert!(!is_unknown, "{what}");
                    }
                }
            }
            let (status, _, body) = ask(&router, "GET", "/api/nope").await;
            assert_eq!(status, 404);
            for Row { method, path, .. } in rows() {
                let route = format!("{method} {path}");
                assert!(body["error"].as_str().unwrap().contains(&route), "{body}");
            }
        }
    }
}
