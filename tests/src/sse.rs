//! An SSE client that checks everything it reads against the wire contract.
//!
//! It panics at a violation and quotes the block. It checks the headers of the response, the form
//! of each block, that ids increase, that there is exactly one terminal event, and that nothing
//! follows it.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use contract::Service;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

pub use crate::sse_block::SseEvent;
use crate::{
    http_client::{Exchange, exchange, header_map, parse_body},
    sse_block::{Block, Ids, increases, parse_block, split_block},
    wait::PATIENCE,
};

/// Starts requests; see [`SseRequest`].
#[derive(Debug)]
pub struct SseClient;

impl SseClient {
    /// A POST of JSON.
    #[must_use]
    pub fn post(url: &str, json: &Value) -> SseRequest {
        SseRequest::new(Method::POST, url, Some(json.to_string().into()))
    }

    /// A GET.
    #[must_use]
    pub fn get(url: &str) -> SseRequest {
        SseRequest::new(Method::GET, url, None)
    }
}

/// What to do if a stream ends without its terminal event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Panics,
    IsNoted,
}

/// A request to send.
#[derive(Clone, Debug)]
pub struct SseRequest {
    method: Method,
    url: String,
    body: Option<Bytes>,
    headers: HeaderMap,
    service: Option<Service>,
    cut: Cut,
    patience: Duration,
}

impl SseRequest {
    fn new(method: Method, url: &str, body: Option<Bytes>) -> Self {
        Self {
            method,
            url: url.to_owned(),
            body,
            headers: HeaderMap::new(),
            service: None,
            cut: Cut::Panics,
            patience: PATIENCE,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.extend(header_map(&[(name, value)]));
        self
    }

    /// Adds `Accept: text/event-stream`, so that events carry ids.
    #[must_use]
    pub fn accept_event_stream(self) -> Self {
        self.header("accept", "text/event-stream")
    }

    /// Adds `Last-Event-ID`.
    #[must_use]
    pub fn last_event_id(self, id: &str) -> Self {
        self.header("last-event-id", id)
    }

    /// Sets the service whose terminal events end the stream, if the path does not imply it.
    #[must_use]
    pub fn service(mut self, service: Service) -> Self {
        self.service = Some(service);
        self
    }

    /// Allows the stream to end without its terminal event. The response then says whether it did.
    #[must_use]
    pub fn allow_cut(mut self) -> Self {
        self.cut = Cut::IsNoted;
        self
    }

    /// How long to wait for the headers of the response and for each event, not counting pings. The
    /// default is [`PATIENCE`].
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends the request, and checks the headers if the status is 200.
    ///
    /// # Panics
    /// If there is no response, or if the headers of a stream violate the contract.
    pub async fn send(self) -> SseResponse {
        self.try_send().await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Like [`send`](Self::send), for a server that may not be running.
    ///
    /// # Errors
    /// A sentence, if there is no connection or if it closes before the headers of the response.
    ///
    /// # Panics
    /// If there is no response in time, or if the headers of a stream violate the contract.
    pub async fn try_send(self) -> Result<SseResponse, String> {
        let what = format!("{} {}", self.method, self.url);
        let path = path_of(&self.url);
        let asks_for_ids =
            self.headers.get_all(header::ACCEPT).iter().any(|accept| {
                accept.to_str().is_ok_and(|accept| accept.contains("text/event-stream"))
            });
        let ids =
            if asks_for_ids || path.ends_with("/events") { Ids::Expected } else { Ids::Forbidden };
        let service = self.service.or_else(|| service_of(path));
        let sent = exchange(self.method, &self.url, self.headers, self.body);
        let Exchange { response, connection } = tokio::time::timeout(self.patience, sent)
            .await
            .unwrap_or_else(|_| panic!("{what}: no response in {:?}", self.patience))
            .map_err(|error| format!("{what} failed: {error}"))?;
        let (parts, body) = response.into_parts();
        if parts.status == StatusCode::OK {
            check_headers(&what, &parts.headers);
            assert!(service.is_some(), "{what}: set the service of this stream");
        }
        Ok(SseResponse {
            status: parts.status,
            headers: parts.headers,
            what,
            service,
            ids,
            cut: self.cut,
            patience: self.patience,
            body,
            buffer: Vec::new(),
            ready: VecDeque::new(),
            state: State::Open,
            last_id: None,
            pings: 0,
            _connection: connection,
        })
    }
}

/// How far a stream has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// After the terminal event. Only the end of the stream may follow.
    Terminated,
    Ended,
    EndedWithoutTerminal,
}

/// A response. Dropping it closes its connection.
#[derive(Debug)]
pub struct SseResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    what: String,
    service: Option<Service>,
    ids: Ids,
    cut: Cut,
    patience: Duration,
    body: Incoming,
    buffer: Vec<u8>,
    ready: VecDeque<SseEvent>,
    state: State,
    last_id: Option<String>,
    pings: usize,
    _connection: AbortOnDropHandle<()>,
}

impl SseResponse {
    /// The value of `X-Job-Id`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn job_id(&self) -> String {
        let id =
            self.headers.get("x-job-id").unwrap_or_else(|| panic!("{}: no X-Job-Id", self.what));
        id.to_str().expect("an id is ASCII").to_owned()
    }

    /// The next event, or `None` after the proper end of the stream.
    ///
    /// # Panics
    /// If a rule is violated, or if nothing arrives in time.
    pub async fn next_event(&mut self) -> Option<SseEvent> {
        assert_eq!(self.status, StatusCode::OK, "{}: not a stream", self.what);
        let (what, patience) = (self.what.clone(), self.patience);
        tokio::time::timeout(patience, self.next_unbounded())
            .await
            .unwrap_or_else(|_| panic!("{what}: no event in {patience:?}"))
    }

    /// Skips to the next event of this type.
    ///
    /// # Panics
    /// Like [`Self::next_event`], and if the stream ends first.
    pub async fn next_of_kind(&mut self, kind: &str) -> SseEvent {
        loop {
            match self.next_event().await {
                Some(event) if event.kind() == kind => return event,
                Some(_) => {}
                None => panic!("{}: ended without a {kind}", self.what),
            }
        }
    }

    /// All events up to the proper end of the stream.
    ///
    /// # Panics
    /// Like [`Self::next_event`].
    pub async fn collect_all(&mut self) -> Vec<SseEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.next_event().await {
            events.push(event);
        }
        events
    }

    /// Whether the stream has ended without its terminal event.
    #[must_use]
    pub fn ended_without_terminal(&self) -> bool {
        self.state == State::EndedWithoutTerminal
    }

    /// How many pings have arrived so far.
    #[must_use]
    pub fn pings(&self) -> usize {
        self.pings
    }

    /// The complete body of a response that is not a stream, as in [`http_json`](crate::http_json).
    ///
    /// # Panics
    /// If the body does not arrive completely.
    pub async fn json(self) -> Value {
        let what = self.what;
        let body = tokio::time::timeout(self.patience, self.body.collect())
            .await
            .unwrap_or_else(|_| panic!("{what}: no complete body in {:?}", self.patience))
            .unwrap_or_else(|error| panic!("{what}: incomplete body: {error}"));
        parse_body(&what, &self.headers, &body.to_bytes())
    }

    async fn next_unbounded(&mut self) -> Option<SseEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.state {
                State::Open | State::Terminated => {}
                State::Ended | State::EndedWithoutTerminal => return None,
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.take(&data);
                    }
                }
                Some(Err(error)) => self.end(Some(error)),
                None => self.end(None),
            }
        }
    }

    fn take(&mut self, data: &[u8]) {
        let what = &self.what;
        self.buffer.extend_from_slice(data);
        while let Some(block) = split_block(&mut self.buffer) {
            assert_ne!(self.state, State::Terminated, "{what}: {block:?} after the terminal event");
            let event = match parse_block(&block, self.ids) {
                Ok(Block::Event(event)) => event,
                Ok(Block::Ping) => {
                    self.pings += 1;
                    continue;
                }
                Err(rule) => panic!("{what}: the block {block:?} is invalid: {rule}"),
            };
            if let Some(id) = &event.id {
                if let Some(last) = &self.last_id {
                    assert!(increases(last, id), "{what}: the id {id} does not come after {last}");
                }
                self.last_id = Some(id.clone());
            }
            if self.service.is_some_and(|service| is_terminal(service, event.kind())) {
                self.state = State::Terminated;
            }
            self.ready.push_back(event);
        }
        assert!(
            self.state != State::Terminated || self.buffer.is_empty(),
            "{what}: {:?} after the terminal event",
            Bytes::copy_from_slice(&self.buffer)
        );
    }

    fn end(&mut self, error: Option<hyper::Error>) {
        let what = &self.what;
        self.state = match (self.state, error) {
            (State::Terminated, None) => State::Ended,
            (State::Terminated, Some(error)) => {
                panic!("{what}: cut off after the terminal event: {error}")
            }
            (_, _) if self.cut == Cut::IsNoted => State::EndedWithoutTerminal,
            (_, error) => panic!(
                "{what}: ended without a terminal event ({}), after {:?}",
                error.map_or_else(|| "cleanly".to_owned(), |error| error.to_string()),
                Bytes::copy_from_slice(&self.buffer)
            ),
        };
    }
}

fn check_headers(what: &str, headers: &HeaderMap) {
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
    ] {
        let found: Vec<_> = headers.get_all(name).iter().collect();
        assert_eq!(found, [value], "{what}: the header {name} is wrong");
    }
    let ids = headers.get_all("x-job-id").iter().count();
    assert_eq!(ids, 1, "{what}: there must be one X-Job-Id");
    assert!(!headers.contains_key(header::CONTENT_ENCODING), "{what}: the stream is encoded");
}

/// Written out here and not taken from `contract`, which is also under test.
fn is_terminal(service: Service, kind: &str) -> bool {
    match service {
        Service::Workflow => ["workflow_complete", "workflow_error"].contains(&kind),
        Service::Pull | Service::Claude => ["completed", "error"].contains(&kind),
    }
}

fn service_of(path: &str) -> Option<Service> {
    match path {
        "/api/workflow" => Some(Service::Workflow),
        "/api/pull" => Some(Service::Pull),
        "/api/execute" => Some(Service::Claude),
        _ => path.starts_with("/api/stream/").then_some(Service::Claude),
    }
}

fn path_of(url: &str) -> &str {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = after_scheme.find('/').map_or("/", |slash| &after_scheme[slash..]);
    path.split(['?', '#']).next().unwrap_or(path)
}
