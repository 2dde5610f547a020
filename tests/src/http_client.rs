//! The smallest HTTP client that a test needs: one connection per request.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::task::AbortOnDropHandle;

use crate::wait::PATIENCE;

/// A response. Its connection lives as long as this.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) response: Response<Incoming>,
    pub(crate) connection: AbortOnDropHandle<()>,
}

/// Sends one request and returns when the headers of the response have arrived.
///
/// # Errors
/// If there is no connection or no valid response.
pub(crate) async fn exchange(
    method: Method,
    url: &str,
    headers: HeaderMap,
    body: Option<Bytes>,
) -> Result<Exchange, Box<dyn std::error::Error + Send + Sync>> {
    let uri: Uri = url.parse()?;
    let authority = uri.authority().ok_or("the URL has no host")?.clone();
    let stream = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // If the connection fails, so does the body of the response, where the test sees it.
        let _seen = connection.await;
    }));
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(method).uri(path);
    let all = request.headers_mut().ok_or("the request is malformed")?;
    *all = headers;
    all.insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    if body.is_some() && !all.contains_key(header::CONTENT_TYPE) {
        all.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let request = request.body(Full::new(body.unwrap_or_default()))?;
    let response = sender.send_request(request).await?;
    Ok(Exchange { response, connection })
}

/// Sends one request and returns the complete answer. A body is sent as JSON unless `headers`
/// contains a `content-type`. The returned value is `Null` for an empty body, and a string if the
/// answer's `Content-Type` is not JSON.
///
/// # Panics
/// If no complete answer arrives within [`PATIENCE`], or if its JSON is invalid.
pub async fn http_json(
    method: &str,
    url: &str,
    body: Option<Bytes>,
    headers: &[(&str, &str)],
) -> (StatusCode, HeaderMap, Value) {
    let what = format!("{method} {url}");
    let method = Method::from_bytes(method.as_bytes()).expect("a valid method");
    let answer = async {
        let exchange = exchange(method, url, header_map(headers), body).await;
        let exchange = exchange.unwrap_or_else(|error| panic!("{what} failed: {error}"));
        let (parts, body) = exchange.response.into_parts();
        let body = body.collect().await;
        (parts, body.unwrap_or_else(|error| panic!("{what}: incomplete body: {error}")).to_bytes())
    };
    let (parts, body) = tokio::time::timeout(PATIENCE, answer)
        .await
        .unwrap_or_else(|_| panic!("{what}: no answer in {PATIENCE:?}"));
    let value = parse_body(&what, &parts.headers, &body);
    (parts.status, parts.headers, value)
}

pub(crate) fn parse_body(what: &str, headers: &HeaderMap, body: &[u8]) -> Value {
    let text = || String::from_utf8_lossy(body).into_owned();
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if body.is_empty() {
        Value::Null
    } else if is_json {
        serde_json::from_slice(body)
            .unwrap_or_else(|error| panic!("{what}: {error} in the body {:?}", text()))
    } else {
        Value::String(text())
    }
}

pub(crate) fn header_map(headers: &[(&str, &str)]) -> HeaderMap {
    let pair = |&(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a valid header name");
        (name, HeaderValue::from_str(value).expect("a valid header value"))
    };
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter().map(pair) {
        map.append(name, value);
    }
    map
}

/// Sends raw bytes and returns what comes back until the server closes or resets the connection, or
/// until it has been silent for a second after its first bytes.
///
/// # Panics
/// If the connection fails, or if nothing happens within [`PATIENCE`].
pub async fn raw_request(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("failed to connect");
    // The server may refuse a long request before it is complete. Its answer must still be read.
    let _refused = stream.write_all(bytes).await;
    let started = Instant::now();
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let silence = Duration::from_secs(1);
        match tokio::time::timeout(silence, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return answer,
            Ok(Ok(read)) => answer.extend_from_slice(&buffer[..read]),
            Err(_) if !answer.is_empty() => return answer,
            Err(_) => assert!(started.elapsed() < PATIENCE, "no answer in {PATIENCE:?}"),
        }
    }
}
