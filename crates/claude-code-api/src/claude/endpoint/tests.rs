use std::time::Duration;

use serde_json::{Value, json};
use testkit::{MockApi, Turn, free_port, http_json, wait_for};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

const KEY: &str = "sk-ant-the-real-one";
const SOON: Duration = Duration::from_secs(10);

fn api_key() -> Credential {
    Credential::ApiKey(Secret::new(KEY.to_owned()))
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint::start(&url.parse().unwrap(), &api_key()).unwrap()
}

/// What the CLI sends for a turn of its main conversation.
fn message(stream: bool) -> Bytes {
    let tools = [json!({"name": "Bash"})];
    json!({"model": "opus", "stream": stream, "tools": tools, "messages": []}).to_string().into()
}

async fn ask(endpoint: &Endpoint, path: &str, headers: &[(&str, &str)]) -> (StatusCode, Value) {
    let url = format!("{}{path}", endpoint.url());
    let (status, _, body) = http_json("POST", &url, Some(message(false)), headers).await;
    (status, body)
}

#[tokio::test]
async fn the_token_is_replaced_by_the_credential() {
    let api = MockApi::start(vec![]).await;
    let by_key = endpoint(&api.url());
    let token = Secret::new(KEY.to_owned());
    let oauth = Credential::OAuthToken { token, expires_at: None };
    let by_token = Endpoint::start(&api.url().parse().unwrap(), &oauth).unwrap();
    let bearer = format!("Bearer {}", by_token.token().expose());
    let (status, body) =
        ask(&by_key, "/v1/messages?beta=true", &[("x-api-key", by_key.token().expose())]).await;
    assert_eq!((status, &body["content"][0]["text"]), (StatusCode::OK, &json!("done")));
    let (status, _) = ask(&by_token, "/v1/messages", &[("authorization", &bearer)]).await;
    assert_eq!(status, StatusCode::OK);
    let seen: Vec<_> = api
        .requests()
        .into_iter()
        .map(|it| (it.path, it.api_key, it.authorization, it.body["model"].clone()))
        .collect();
    let expected = [
        ("/v1/messages?beta=true".to_owned(), Some(KEY.to_owned()), None, json!("opus")),
        ("/v1/messages".to_owned(), None, Some(format!("Bearer {KEY}")), json!("opus")),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn only_the_agent_is_served_and_only_what_an_agent_needs() {
    let api = MockApi::start(vec![]).await;
    let endpoint = endpoint(&api.url());
    let other = super::Endpoint::start(&api.url().parse().unwrap(), &api_key()).unwrap();
    let token = endpoint.token().expose().to_owned();
    for given in ["", KEY, &token[1..], &format!("{token}x"), other.token().expose()] {
        for headers in [[("x-api-key", given)], [("authorization", given)]] {
            let (status, body) = ask(&endpoint, "/v1/messages", &headers).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{given}");
            assert_eq!(body["error"]["type"], "authentication_error");
        }
    }
    for path in [
        "/v1/files",
        "/v1/models",
        "/v1/messages/batches",
        "/v1/messages/",
        "/v1/messages/../files",
        "/v1/messages%2f..%2ffiles",
        "//v1/messages",
        "/v1/organizations/api_keys",
    ] {
        let (status, body) = ask(&endpoint, path, &[("x-api-key", &token)]).await;
        assert_eq!(
            (status, &body["error"]["type"]),
            (StatusCode::NOT_FOUND, &json!("not_found_error"))
        );
    }
    let url = format!("{}/v1/messages", endpoint.url());
    let (status, _, _) = http_json("GET", &url, None, &[("x-api-key", &token)]).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(api.requests(), []);
    // The control: the same request with the token, at the path that is passed on.
    assert_eq!(ask(&endpoint, "/v1/messages", &[("x-api-key", &token)]).await.0, StatusCode::OK);
    assert_eq!(api.requests().len(), 1);
}

#[tokio::test]
async fn errors_are_passed_on_and_all_answers_are_counted() {
    let script = vec![Turn::status(429), Turn::text("one"), Turn::status(529), Turn::text("two")];
    let api = MockApi::start(script).await;
    let endpoint = endpoint(&api.url());
    let token = endpoint.token().expose();
    let headers = [("x-api-key", token), ("accept-encoding", "gzip")];
    let mut statuses = Vec::new();
    for stream in [false, true, false, false] {
        let url = format!("{}/v1/messages", endpoint.url());
        let (status, answered, body) =
            http_json("POST", &url, Some(message(stream)), &headers).await;
        statuses.push(status.as_u16());
        if stream {
            assert!(body.as_str().unwrap().contains("event: message_stop"), "{body}");
            assert!(answered["request-id"].to_str().unwrap().starts_with("req_mock"));
        }
        if !status.is_success() {
            assert!(body["error"]["message"].as_str().unwrap().starts_with("mock: "), "{body}");
        }
    }
    assert_eq!(statuses, [429, 200, 529, 200]);
    let counted = ask(&endpoint, "/v1/messages/count_tokens", &headers).await;
    assert_eq!(counted, (StatusCode::OK, json!({"input_tokens": 1000})));
    // As the mock reports them for each answer.
    let usage = endpoint.usage()["opus"];
    assert_eq!((usage.requests, usage.input_tokens, usage.output_tokens), (2, 2000, 100));
    assert_eq!((usage.cache_read_tokens, usage.cache_write_tokens), (600, 400));
}

#[tokio::test]
async fn an_api_that_cannot_be_reached_is_a_502_that_says_so() {
    let endpoint = endpoint(&format!("http://127.0.0.1:{}", free_port()));
    let (status, body) =
        ask(&endpoint, "/v1/messages", &[("x-api-key", endpoint.token().expose())]).await;
    let said = body["error"]["message"].as_str().unwrap();
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(said.starts_with(UNREACHABLE) && said.contains("refused"), "{said}");
    assert!(!said.contains(KEY));
}

/// An API that sends a piece of its answer, and the next one only when the test says so.
struct Slow {
    url: String,
    connection: tokio::task::JoinHandle<TcpStream>,
}

impl Slow {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connection = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"{}") {
                assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            stream
        });
        Self { url, connection }
    }
}

async fn post(endpoint: &Endpoint) -> TcpStream {
    let mut caller = TcpStream::connect(endpoint.server.address()).await.unwrap();
    let token = endpoint.token().expose();
    let request = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: h\r\nx-api-key: {token}\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    caller.write_all(request.as_bytes()).await.unwrap();
    caller
}

async fn read_until(stream: &mut TcpStream, end: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(end) {
        let read = tokio::time::timeout(SOON, stream.read_buf(&mut seen)).await;
        assert_ne!(read.unwrap().unwrap(), 0, "{}", String::from_utf8_lossy(&seen));
    }
}

#[tokio::test]
async fn each_piece_of_an_answer_arrives_before_the_next_one_is_sent() {
    let slow = Slow::start().await;
    let endpoint = endpoint(&slow.url);
    let mut caller = post(&endpoint).await;
    let mut api = slow.connection.await.unwrap();
    read_until(&mut caller, "\r\n\r\n").await;
    for piece in ["first", "secon", "third"] {
        api.write_all(format!("5\r\n{piece}\r\n").as_bytes()).await.unwrap();
        read_until(&mut caller, piece).await;
    }
}

/// An agent that is interrupted must not be billed for the rest of the answer.
#[tokio::test]
async fn an_answer_that_the_agent_gives_up_is_cancelled() {
    let slow = Slow::start().await;
    let endpoint = endpoint(&slow.url);
    let caller = post(&endpoint).await;
    let mut api = slow.connection.await.unwrap();
    api.write_all(b"5\r\nfirst\r\n").await.unwrap();
    drop(caller);
    // Although the API sends nothing more.
    let closed = tokio::time::timeout(SOON, api.read(&mut [0])).await.unwrap();
    assert_eq!(closed.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_request_that_the_agent_gives_up_before_the_answer_is_cancelled() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = endpoint(&format!("http://{}", listener.local_addr().unwrap()));
    let caller = post(&endpoint).await;
    let (mut api, _) = listener.accept().await.unwrap();
    read_until(&mut api, "{}").await;
    drop(caller);
    let closed = tokio::time::timeout(SOON, api.read(&mut [0])).await.unwrap();
    assert_eq!(closed.unwrap_or(0), 0);
}

/// The agent may be killed before the end of the answer, which is not free.
#[tokio::test]
async fn what_an_answer_has_reported_counts_before_its_end() {
    let slow = Slow::start().await;
    let endpoint = endpoint(&slow.url);
    let mut caller = post(&endpoint).await;
    let mut api = slow.connection.await.unwrap();
    let start = "data: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":7}}}\n\n";
    let chunk = format!("{:x}\r\n{start}\r\n", start.len());
    api.write_all(chunk.as_bytes()).await.unwrap();
    read_until(&mut caller, "message_start").await;
    let usage = endpoint.usage()["m"];
    assert_eq!((usage.requests, usage.input_tokens), (1, 7));
}

#[tokio::test]
async fn it_ends_with_its_job() {
    let slow = Slow::start().await;
    let endpoint = endpoint(&slow.url);
    let address = endpoint.server.address();
    let mut caller = post(&endpoint).await;
    let _api = slow.connection.await.unwrap();
    drop(endpoint);
    let mut left = Vec::new();
    tokio::time::timeout(SOON, caller.read_to_end(&mut left)).await.unwrap().ok();
    let refused = || async { TcpStream::connect(address).await.is_err().then_some(()) };
    wait_for("the port to be closed", SOON, refused).await;
}
