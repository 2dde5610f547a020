//! A mock Messages API that works with the real Claude CLI (`ANTHROPIC_BASE_URL`).

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

use crate::{
    host::{Body, Host, respond},
    messages_api::{Content, Message, error, error_kind},
};

/// What the model does in its next turn.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn {
    /// It says something and ends its turn.
    Text(String),
    /// It uses a tool; the CLI asks again with the result.
    ToolUse {
        /// The tool, such as `Bash` or `Write`.
        name: String,
        /// The tool's input.
        input: Value,
    },
    /// The API answers with an error of this status and type; an empty type selects the default for
    /// the status.
    Status(u16, String),
    /// The request is never answered.
    Hang,
    /// The answer begins with this text and never ends.
    Stall(String),
}

impl Turn {
    /// A turn that says this.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// A turn that runs a shell command.
    #[must_use]
    pub fn bash(command: &str) -> Self {
        let input = json!({"command": command, "description": "Run", "timeout": 600_000});
        Self::ToolUse { name: "Bash".to_owned(), input }
    }

    /// A turn that writes a file at an absolute path.
    #[must_use]
    pub fn write(path: &str, content: &str) -> Self {
        let input = json!({"file_path": path, "content": content});
        Self::ToolUse { name: "Write".to_owned(), input }
    }

    /// A turn in which the API answers with this status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Status(status, String::new())
    }
}

/// A request that the mock has received.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The method.
    pub method: Method,
    /// The path and the query.
    pub path: String,
    /// The `x-api-key` header.
    pub api_key: Option<String>,
    /// The `authorization` header.
    pub authorization: Option<String>,
    /// The body, or null if there was none.
    pub body: Value,
    /// The turn it was answered with, if it belonged to the main conversation.
    pub turn: Option<Turn>,
}

type Model = dyn FnMut(&Value) -> Turn + Send;

/// A running mock. It stops when it is dropped.
#[derive(Debug)]
pub struct MockApi {
    host: Host,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
}

struct State {
    model: Box<Model>,
    requests: Vec<Recorded>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("requests", &self.lock().requests).finish_non_exhaustive()
    }
}

impl MockApi {
    /// Takes the turns in order, and answers `done` when there are none left.
    ///
    /// A retry by the CLI is a request like any other and takes the next turn.
    pub async fn start(script: Vec<Turn>) -> Self {
        let mut script = VecDeque::from(script);
        Self::start_with(move |_| script.pop_front().unwrap_or_else(|| Turn::text("done"))).await
    }

    /// Takes the same turn each time.
    pub async fn always(turn: Turn) -> Self {
        Self::start_with(move |_| turn.clone()).await
    }

    /// Calls `model` with the body of each request of the main conversation, and takes the turn
    /// that it returns.
    pub async fn start_with(model: impl FnMut(&Value) -> Turn + Send + 'static) -> Self {
        let state = State { model: Box::new(model), requests: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state) });
        let of_host = Arc::clone(&shared);
        let host = Host::start(move |request| Arc::clone(&of_host).serve(request));
        Self { host, shared }
    }

    /// The value for `ANTHROPIC_BASE_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.host.address())
    }

    /// Every request so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.lock().requests.clone()
    }

    /// The requests of the main conversation, which have taken a turn.
    #[must_use]
    pub fn turns(&self) -> Vec<Recorded> {
        self.requests().into_iter().filter(|request| request.turn.is_some()).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return respond(StatusCode::BAD_REQUEST, "text/plain", "incomplete body\n");
        };
        let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null);
        let is_message = parts.method == Method::POST && parts.uri.path() == "/v1/messages";
        // Requests for titles, quota checks and the like have no tools. They take no turn.
        let has_tools = body["tools"].as_array().is_some_and(|tools| !tools.is_empty());
        let (turn, number) = {
            let mut state = self.lock();
            let turn = (is_message && has_tools).then(|| (state.model)(&body));
            state.requests.push(Recorded {
                method: parts.method.clone(),
                path: parts.uri.to_string(),
                api_key: text_header(&parts.headers, "x-api-key"),
                authorization: text_header(&parts.headers, "authorization"),
                body: body.clone(),
                turn: turn.clone(),
            });
            (turn, state.requests.len())
        };
        match (parts.method, parts.uri.path()) {
            (Method::POST, "/v1/messages") => {
                answer(turn.unwrap_or_else(|| Turn::text("ok")), &body, number).await
            }
            (Method::POST, "/v1/messages/count_tokens") => {
                json_response(StatusCode::OK, &json!({"input_tokens": 1000}))
            }
            (Method::GET | Method::HEAD, "/") => json_response(StatusCode::OK, &json!({})),
            _ => json_response(StatusCode::NOT_FOUND, &error("not_found_error", number)),
        }
    }
}

async fn answer(turn: Turn, request: &Value, number: usize) -> Response<Body> {
    let is_stalled = matches!(turn, Turn::Stall(_));
    let content = match turn {
        Turn::Text(text) | Turn::Stall(text) => Content::Text(text),
        Turn::ToolUse { name, input } => Content::ToolUse { name, input },
        Turn::Status(status, kind) => {
            let kind = if kind.is_empty() { error_kind(status) } else { &kind };
            let status = StatusCode::from_u16(status).expect("a turn's status is valid");
            return json_response(status, &error(kind, number));
        }
        Turn::Hang => std::future::pending().await,
    };
    let model = request["model"].as_str().unwrap_or("mock").to_owned();
    let message = Message { number, model, content };
    if request["stream"] != true {
        return json_response(StatusCode::OK, &message.whole());
    }
    let (begin, end) = message.events();
    let begin = stream::iter([begin]);
    let frame = |bytes: Vec<u8>| Ok::<_, io::Error>(Frame::data(Bytes::from(bytes)));
    let body = if is_stalled {
        StreamBody::new(begin.chain(stream::pending()).map(frame)).boxed_unsync()
    } else {
        StreamBody::new(begin.chain(stream::iter([end])).map(frame)).boxed_unsync()
    };
    Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")
        .header("request-id", format!("req_mock{number:05}"))
        .body(body)
        .expect("a valid response")
}

fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    respond(status, "application/json", body.to_string())
}

fn text_header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}
