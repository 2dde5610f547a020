//! Responses.

use std::{convert::Infallible, io, time::Duration};

use bytes::Bytes;
use contract::{Code, JobId, RequestError};
use futures_util::{Stream, StreamExt};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use serde::Serialize;

use crate::Peer;

/// The body of every response.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// After this much silence, a stream sends a comment, so that no proxy closes the connection as idle.
pub const PING: Duration = Duration::from_secs(15);

/// After this much silence, a stream of ours is dead: three comments are missing.
pub const SILENCE: Duration = Duration::from_secs(3 * PING.as_secs() + 5);

/// The same as [`PING`] for a caller that has closed its sending side and may be gone.
const HALF_CLOSED_PING: Duration = Duration::from_secs(1);

/// A refusal. Boxed, because it is the rare side of many results.
pub type Refusal = Box<Response<Body>>;

/// The only place that chooses the status of an error.
fn status(code: Code) -> StatusCode {
    match code {
        Code::InvalidJson
        | Code::InvalidField
        | Code::UnknownField
        | Code::SchemeNotAllowed
        | Code::HttpsRequired => StatusCode::BAD_REQUEST,
        Code::Unauthorized => StatusCode::UNAUTHORIZED,
        Code::BudgetExceeded => StatusCode::PAYMENT_REQUIRED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound | Code::SessionNotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::Deadline => StatusCode::REQUEST_TIMEOUT,
        Code::Claimed
        | Code::Running
        | Code::WorkspaceGone
        | Code::NothingToDeliver
        | Code::Superseded
        | Code::NoBase
        | Code::SessionDamaged
        | Code::DifferentRepository => StatusCode::CONFLICT,
        Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::Busy | Code::QueueFull | Code::QueueTimeout | Code::Terminated => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Code::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        // Reasons for a job to fail. If a request is refused for one of them, this software is at fault.
        Code::BranchNotFound
        | Code::AuthenticationFailed
        | Code::RepositoryUnreachable
        | Code::RemoteStalled
        | Code::NotARepository
        | Code::Diverged
        | Code::CheckoutConflict
        | Code::RepositoryInvalid
        | Code::TooLarge
        | Code::GitFailed
        | Code::PushRejected
        | Code::PullRequestFailed
        | Code::BranchExists
        | Code::ProtectedPaths
        | Code::SecretInResult
        | Code::AgentNotFound
        | Code::AgentRefusesRoot
        | Code::IsolationUnavailable
        | Code::AgentFailed
        | Code::AgentNoResult
        | Code::AgentApiError
        | Code::MaxTurns
        | Code::Cancelled
        | Code::CallerLeft
        | Code::Silence
        | Code::ReplicaLost
        | Code::JournalFull
        | Code::JournalDamaged
        | Code::RecordForged
        | Code::EmptyRepository
        | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A JSON response.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(full(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body of known length.
#[must_use]
pub fn full(body: Bytes) -> Body {
    Full::from(body).map_err(never).boxed_unsync()
}

/// A response whose body is sent as it comes. Its length, if it is known, is for the caller to set.
pub fn streamed(bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response<Body> {
    Response::new(StreamBody::new(bytes.map(|bytes| bytes.map(Frame::data))).boxed_unsync())
}

/// A response without a body.
#[must_use]
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(never).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// An error as JSON, with the status of its code.
#[must_use]
pub fn error(error: &RequestError) -> Response<Body> {
    let status = status(error.code);
    let mut response = json(status, &error.body());
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// 404 for a path that is not one of `routes`.
#[must_use]
pub fn no_such_path(routes: &str) -> Response<Body> {
    error(&RequestError::new(Code::NotFound, format!("no such path: use one of {routes}")))
}

/// 405 for a path that has only the methods in `allow`.
#[must_use]
pub fn method_not_allowed(allow: &str) -> Response<Body> {
    let mut response =
        error(&RequestError::new(Code::MethodNotAllowed, format!("use {allow} on this path")));
    if let Ok(allow) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// A stream of events for `peer`. The connection closes after its end.
pub fn event_stream(
    job: JobId,
    peer: Option<Peer>,
    frames: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response<Body> {
    let frames = with_pings(peer, frames).map(|frame| frame.map(Frame::data));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    if let Ok(job) = HeaderValue::from_str(&job.to_string()) {
        headers.insert(crate::header::JOB_ID, job);
    }
    response
}

/// What a stream knows about its caller's connection.
enum PeerState {
    /// Nothing.
    Unknown,
    /// It is open in both directions.
    Open(Peer),
    /// The caller has closed its sending side.
    HalfClosed(Peer),
}

impl PeerState {
    /// How long the stream may be silent.
    fn ping(&self) -> Duration {
        if matches!(self, Self::HalfClosed(_)) { HALF_CLOSED_PING } else { PING }
    }

    /// Waits for the next sign that the caller is gone.
    async fn leaves(&self) {
        match self {
            Self::Unknown => std::future::pending().await,
            Self::Open(peer) => peer.closes_its_side().await,
            Self::HalfClosed(peer) => peer.resets().await,
        }
    }
}

/// Fills silence with comments, and ends the stream with an error when the connection is reset.
fn with_pings(
    peer: Option<Peer>,
    frames: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let ping = || Ok(Bytes::from_static(b": ping\n\n"));
    let state = (Box::pin(frames), peer.map_or(PeerState::Unknown, PeerState::Open));
    futures_util::stream::unfold(state, move |(mut frames, caller)| async move {
        let silence = tokio::time::sleep(caller.ping());
        tokio::select! {
            biased;
            frame = frames.next() => Some((frame?, (frames, caller))),
            () = caller.leaves() => match caller {
                // A closed socket responds to a comment with a reset.
                PeerState::Open(peer) => Some((ping(), (frames, PeerState::HalfClosed(peer)))),
                PeerState::HalfClosed(_) | PeerState::Unknown => {
                    Some((Err(io::ErrorKind::ConnectionReset.into()), (frames, PeerState::Unknown)))
                }
            },
            () = silence => Some((ping(), (frames, caller))),
        }
    })
}

fn never(never: Infallible) -> io::Error {
    match never {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_filled_with_separate_comments() {
        let frames = async_frames();
        let response = event_stream(JobId::new(), None, frames);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, ": ping\n\n: ping\n\ndata: {}\n\n");
    }

    fn async_frames() -> impl Stream<Item = io::Result<Bytes>> {
        futures_util::stream::once(async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            Ok(crate::frame(None, b"{}"))
        })
    }
}
