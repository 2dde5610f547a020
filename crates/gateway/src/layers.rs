//! The layers that every request passes before its route, from the outermost: the request log, the check for TLS, that of the
//! host, CORS, the check of the page's origin, the time limit, the check of the caller, and that of query parameters.

use std::time::Duration;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
};
use contract::{Code, RequestError, UnknownFields};
use http::{HeaderMap, Method, header, request::Parts};
use tower_http::trace::{DefaultOnFailure, DefaultOnResponse, TraceLayer};
use tracing::Level;
use web::{Encryption, Peer};

use crate::{
    audit::Entry,
    authenticate::{authenticate, workflow_of},
    host::{self, Host},
    routes::{self, PortState},
};

/// How long any answer may take to begin. That of a job begins when the dispatcher has looked for a replica, and a replica
/// may take 15 s to claim the job.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Adds all layers to the routes of one port.
pub(crate) fn add(router: Router<PortState>, port: &PortState) -> Router<PortState> {
    // The layer that is added last is the outermost.
    let router = router
        .route_layer(from_fn_with_state(port.clone(), check_query))
        .layer(from_fn_with_state(port.clone(), authenticate))
        .layer(from_fn(limit_time))
        .layer(from_fn_with_state(port.clone(), refuse_cross_site));
    let router = match port.shared.config.cors.layer() {
        Some(cors) => router.layer(cors),
        None => router,
    };
    let service = port.service;
    let router = router.layer(from_fn_with_state(port.clone(), check_host));
    let router = match port.shared.config.tls {
        Some(_) => router.layer(from_fn_with_state(port.clone(), require_tls)),
        None => router,
    };
    router.layer(
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

/// Refuses plain HTTP from other machines, except for health checks of containers and for the requests of the stack's own
/// workflows, which send no token of a caller.
async fn require_tls(State(port): State<PortState>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>();
    let is_safe = |peer: &Peer| peer.encryption() == Encryption::Tls || peer.is_local();
    let headers = request.headers();
    let passes = peer.is_some_and(is_safe)
        || request.uri().path() == "/health"
        || matches!(workflow_of(&port.shared, headers), Ok(Some(_)));
    if passes {
        return next.run(request).await;
    }
    let mut sentence =
        "this stack speaks TLS: send the request to the same host and port with https://"
            .to_owned();
    if headers.contains_key(header::AUTHORIZATION) {
        // Whose token others may know now.
        let address = peer.and_then(Peer::address);
        let mut known = port.shared.callers.authenticate(headers).ok();
        let caller = known.as_mut().map(|(caller, _)| {
            caller.address = address;
            &*caller
        });
        port.shared.audit.add(Entry::refused(caller, address, Code::HttpsRequired));
        sentence += ". The token of this request was sent unencrypted: replace it if others could have read it";
    }
    refuse(&RequestError::new(Code::HttpsRequired, sentence))
}

async fn check_host(State(port): State<PortState>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match host_is_allowed(&port, &head) {
        Ok(()) => next.run(Request::from_parts(head, body)).await,
        Err(error) => refuse(&error),
    }
}

fn host_is_allowed(port: &PortState, head: &Parts) -> Result<(), RequestError> {
    let host = Host::of(head.version, &head.uri, &head.headers)?;
    let Some(host) = host else { return Ok(()) };
    let config = &port.shared.config;
    let checked = host::check(config.bind, config.allowed_hosts.as_ref(), &host);
    // A workflow reaches the gateway by a name within the stack, which `ALLOWED_HOSTS` need not contain. No page has its
    // capability.
    let is_workflow = || matches!(workflow_of(&port.shared, &head.headers), Ok(Some(_)));
    if checked.is_err() && is_workflow() { Ok(()) } else { checked }
}

/// Refuses what a browser sends for a page of another origin, unless CORS allows that origin: the request would have its
/// effect although the page could not read the answer. Reads have no effect, so they pass.
async fn refuse_cross_site(
    State(port): State<PortState>,
    request: Request,
    next: Next,
) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_read || !is_cross_site(request.headers()) {
        return next.run(request).await;
    }
    let origin = request.headers().get(header::ORIGIN);
    if origin.is_some_and(|origin| port.shared.config.cors.allows(origin)) {
        return next.run(request).await;
    }
    refuse(&RequestError::new(
        Code::Forbidden,
        "a web page of another origin sent this request: to let it, start the stack with its origin in \
         CORS_ALLOW_ORIGIN",
    ))
}

/// Whether a page of another site sent the request. Browsers say so in `Sec-Fetch-Site`; older ones send only `Origin`. Other
/// clients send neither.
fn is_cross_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host_of = |text: &str| text.split_once("://").and_then(|(_, host)| Host::parse(host));
    let own = headers.get(header::HOST).and_then(|host| Host::parse(host.to_str().ok()?));
    let from = origin.to_str().ok().and_then(host_of);
    // Behind a proxy with TLS, the default ports of the two schemes differ, so only the names are compared.
    !own.zip(from).is_some_and(|(own, from)| own.is_same_origin(&from))
}

/// Refuses query parameters that the route does not have. Otherwise, a misspelled one would be ignored.
async fn check_query(State(port): State<PortState>, request: Request, next: Next) -> Response {
    let strict = port.shared.config.policy.unknown_fields == UnknownFields::Refused;
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if let (true, Some(query), Some(path)) = (strict, request.uri().query(), path) {
        let known = routes::parameters(path);
        let unknown = url::form_urlencoded::parse(query.as_bytes())
            .map(|(name, _)| name)
            .find(|name| !name.is_empty() && !known.contains(&name.as_ref()));
        if let Some(name) = unknown {
            return refuse(&contract::unknown_field("query parameter", &name, &known));
        }
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use proptest::prelude::*;
    use tower::ServiceExt as _;

    use super::*;

    /// A workspace that hangs must not hold callers forever.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_begin_is_an_error() {
        let hang = axum::routing::get(|| async { std::future::pending::<&str>().await });
        let router: Router = Router::new().route("/", hang).layer(from_fn(limit_time));
        let request = Request::new(axum::body::Body::empty());
        let asked = tokio::time::Instant::now();
        let answer = router.oneshot(request).await.unwrap();
        assert_eq!((asked.elapsed(), answer.status().as_u16()), (ANSWER_TIME, 500));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let error: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(error["code"], "internal");
        assert!(error["error"].as_str().unwrap().contains("60 s"), "{error}");
    }

    properties::fuzz! {
        /// A page of another name is recognized, however the two names resemble each other.
        #[test]
        fn pages_of_other_names_are_cross_site(
            own in "[a-z]{1,3}(\\.[a-z]{1,3}){0,2}",
            other in prop_oneof![any::<String>(), "(https?://)?([a-z]{1,3}@)?[a-z]{1,3}(\\.[a-z]{1,3}){0,2}(:[0-9]{1,5})?/?"],
            prefix in prop::sample::select(vec!["", "x.", "x", "http://", "https://"]),
            suffix in prop::sample::select(vec!["", ".x", "x", ".", ":80", ":8080", "/", "@x", "#"]),
        ) {
            let cross = |origin: &str| {
                let mut headers = HeaderMap::new();
                headers.insert(header::HOST, own.parse().unwrap());
                headers.insert(header::ORIGIN, http::HeaderValue::from_str(origin).ok()?);
                Some(is_cross_site(&headers))
            };
            let same = ["http", "https"].map(|scheme| cross(&format!("{scheme}://{own}")));
            prop_assert_eq!(same, [Some(false); 2]);
            for origin in [other.clone(), format!("https://{own}{suffix}"), format!("https://{prefix}{own}")] {
                let host = origin.split_once("://").and_then(|(_, host)| Host::parse(host));
                let is_same = host.is_some_and(|host| Host::parse(&own).unwrap().is_same_origin(&host));
                if let Some(cross) = cross(&origin) {
                    prop_assert_eq!(cross, !is_same, "{} at {}", origin, own);
                }
            }
            let resembling = [format!("https://x.{own}"), format!("https://{own}.x")];
            prop_assert_eq!(resembling.map(|origin| cross(&origin)), [Some(true); 2]);
        }
    }

    #[test]
    fn requests_of_pages_of_other_sites_are_recognized() {
        let cross = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, http::HeaderValue::from_static(value));
            }
            is_cross_site(&headers)
        };
        let host = ("host", "localhost:5000");
        for same in [
            &[host][..],
            &[host, ("sec-fetch-site", "same-origin"), ("origin", "null")],
            &[host, ("sec-fetch-site", "none")],
            &[host, ("origin", "http://localhost:5000")],
            &[("host", "stack.example.org"), ("origin", "https://stack.example.org")],
            &[("host", "stack.example.org:8443"), ("origin", "https://stack.example.org:8443")],
        ] {
            assert!(!cross(same), "{same:?}");
        }
        for other in [
            &[host, ("sec-fetch-site", "cross-site")][..],
            &[host, ("sec-fetch-site", "same-site"), ("origin", "http://localhost:5000")],
            &[host, ("origin", "http://localhost:8080")],
            &[host, ("origin", "http://evil.example")],
            &[host, ("origin", "null")],
            &[host, ("origin", "")],
            &[("origin", "http://localhost:5000")],
        ] {
            assert!(cross(other), "{other:?}");
        }
    }
}
