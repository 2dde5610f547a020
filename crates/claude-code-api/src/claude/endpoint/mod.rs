//! The Messages endpoint of a job. The agent gets this address on loopback and a token that is valid for the job alone,
//! instead of the credential. The endpoint replaces the token by the credential, passes requests and answers on as they
//! come, and counts the tokens that the answers report.

mod meter;
mod upstream;

use std::{io, net::Ipv4Addr, sync::Arc};

use boot::Secret;
use bytes::Bytes;
use contract::ApiUsage;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tower::BoxError;
use tracing::warn;
use uuid::Uuid;
use web::{Peer, Server};

use super::Credential;
use meter::{Gone, Metered, Totals};
pub use upstream::MessagesUrl;
pub(super) use upstream::UNREACHABLE;
use upstream::Upstream;

/// How many requests of one job are passed on at the same time. Others wait. Sub-agents ask side by side.
const CONCURRENT: usize = 64;

type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A running endpoint. It closes when this is dropped.
#[derive(Debug)]
pub(crate) struct Endpoint {
    server: Server,
    token: Secret,
    totals: Arc<Totals>,
}

impl Endpoint {
    /// Starts one on a free port of loopback. Must be called in a runtime.
    ///
    /// # Errors
    /// If no port or no file descriptor is left.
    pub(crate) fn start(url: &MessagesUrl, credential: &Credential) -> io::Result<Self> {
        // 244 random bits.
        let token = format!("job-{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let totals = Arc::new(Totals::default());
        let front = Arc::new(Front {
            token: Secret::new(token.clone()),
            upstream: Upstream::new(url.clone(), credential)?,
            totals: Arc::clone(&totals),
            permits: Arc::new(Semaphore::new(CONCURRENT)),
        });
        // While the agent starts, which takes longer.
        let warm = Arc::clone(&front);
        tokio::spawn(async move { warm.upstream.prepare().await });
        let listener = web::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let service = tower::service_fn(move |request| {
            let front = Arc::clone(&front);
            async move { Ok(front.serve(request).await) }
        });
        let server = Server::start_limited(
            listener,
            service,
            Arc::new(web::ConnectionLimits::new(256, 256)),
        );
        Ok(Self { server, token: Secret::new(token), totals })
    }

    /// The agent's `ANTHROPIC_BASE_URL`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// What the agent uses as its credential.
    pub(crate) fn token(&self) -> &Secret {
        &self.token
    }

    /// What the API has reported so far, for each model.
    pub(crate) fn usage(&self) -> ApiUsage {
        self.totals.get()
    }
}

struct Front {
    token: Secret,
    upstream: Upstream,
    totals: Arc<Totals>,
    permits: Arc<Semaphore>,
}

impl Front {
    async fn serve(&self, request: Request<Incoming>) -> Response<Body> {
        if !self.is_agent(request.headers()) {
            let why = "this endpoint needs the token of its job";
            return refuse(StatusCode::UNAUTHORIZED, "authentication_error", why);
        }
        let counts = match (request.method(), request.uri().path()) {
            (&Method::POST, "/v1/messages") => true,
            (&Method::POST, "/v1/messages/count_tokens") => false,
            // The CLI looks whether there is a server.
            (&Method::GET | &Method::HEAD, "/") => return whole(StatusCode::OK, "{}".into()),
            (_, path) => {
                let why = format!("this endpoint does not pass on {path:?}, only /v1/messages");
                return refuse(StatusCode::NOT_FOUND, "not_found_error", &why);
            }
        };
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "api_error", "the job has ended");
        };
        let peer = request.extensions().get::<Peer>().cloned();
        let mut gone: Gone = Box::pin(async move {
            match peer {
                Some(peer) => peer.disconnects().await,
                None => std::future::pending().await,
            }
        });
        let sent = tokio::select! {
            sent = self.upstream.send(request) => sent,
            // An agent that was interrupted is not to be billed for the answer. Nobody reads this one.
            () = &mut gone => {
                return refuse(StatusCode::REQUEST_TIMEOUT, "api_error", "the agent has disconnected");
            }
        };
        match sent {
            Ok(answer) => {
                let totals = (counts && answer.status().is_success()).then_some(&self.totals);
                let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
                answer.map(|body| {
                    Metered::new(body, kind.as_ref(), totals, gone, permit).boxed_unsync()
                })
            }
            Err(error) => {
                let why = format!("{UNREACHABLE}: {error}");
                warn!(%error, "the Messages API cannot be reached");
                refuse(StatusCode::BAD_GATEWAY, "api_error", &why)
            }
        }
    }

    /// Whether a request has the job's token, as an API key or as an OAuth token.
    fn is_agent(&self, headers: &HeaderMap) -> bool {
        let key = headers.get("x-api-key").map(|value| value.as_bytes());
        let bearer = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let bearer = bearer.and_then(|value| value.strip_prefix(b"Bearer "));
        let token = self.token.expose().as_bytes();
        key.into_iter().chain(bearer).any(|given| bool::from(given.ct_eq(token)))
    }
}

/// An error in the form of the Messages API, <https://docs.anthropic.com/en/api/errors>.
fn refuse(status: StatusCode, kind: &str, message: &str) -> Response<Body> {
    let error = serde_json::json!({"type": "error", "error": {"type": kind, "message": message}});
    whole(status, error.to_string())
}

fn whole(status: StatusCode, json: String) -> Response<Body> {
    let body = Full::new(Bytes::from(json)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests;
