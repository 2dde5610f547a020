//! A client for other services. Each request has its own connection: a pooled one to a replica that exits after its job
//! would be stale.

use std::{fmt, io, str::FromStr, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinHandle,
};
use url::Url;

use crate::{Decoder, Frame, FrameError};

/// The largest event that is accepted from another service, in bytes.
const EVENT_LIMIT: usize = 64 << 20;

/// The URL of a service: `http://host[:port][/prefix]`.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl {
    host: String,
    port: u16,
    prefix: String,
}

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
        if url.scheme() != "http" {
            return Err("use a URL that begins with http://".into());
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err("use a URL without credentials and without a query".into());
        }
        let host = url.host_str().ok_or("the URL has no host")?.to_owned();
        let prefix = url.path().trim_end_matches('/').to_owned();
        Ok(Self { host, port: url.port_or_known_default().unwrap_or(80), prefix })
    }
}

impl BaseUrl {
    /// The host. An IPv6 address is in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The part before each path, without a trailing slash.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.prefix)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<std::net::SocketAddr> for BaseUrl {
    fn from(address: std::net::SocketAddr) -> Self {
        let host = match address {
            std::net::SocketAddr::V4(v4) => v4.ip().to_string(),
            std::net::SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        };
        Self { host, port: address.port(), prefix: String::new() }
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There was no connection, so the request has certainly not arrived.
    #[error("connect to {0}")]
    Connect(String, #[source] io::Error),
    /// The connection broke before the head of a response came. The request may have arrived.
    #[error("read the response of {0}")]
    Broken(String, #[source] hyper::Error),
    /// The response's body is incomplete.
    #[error("read the body of the response")]
    Body(#[source] hyper::Error),
    /// The response's body is longer than expected.
    #[error("the response is longer than {0} bytes")]
    TooLong(usize),
    /// The body is not a stream of events.
    #[error("read the stream of events")]
    Frame(#[from] FrameError),
    /// Nothing came for too long, not even a comment.
    #[error("nothing arrived for {} s", .0.as_secs())]
    Silent(Duration),
    /// A header cannot be sent.
    #[error("send a header")]
    Header(#[from] http::Error),
}

/// The head of a response, and its body.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    connection: Connection,
}

/// A connection to a service, for one request after the other.
#[derive(Debug)]
pub struct Connection {
    target: String,
    prefix: String,
    sender: http1::SendRequest<Full<Bytes>>,
    _task: ConnectionTask,
}

/// The task that drives a connection. It ends when this is dropped.
#[derive(Debug)]
struct ConnectionTask(JoinHandle<()>);

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends one request and waits for the head of the response. `connect_within` limits only the time to connect: a replica that
/// was killed may leave an address that does not answer at all.
///
/// # Errors
/// If there is no response.
pub async fn ask(
    base: &BaseUrl,
    method: Method,
    path: &str,
    headers: &[(&'static str, String)],
    body: Bytes,
    connect_within: Duration,
) -> Result<Answer, AskError> {
    Connection::open(base, connect_within).await?.ask(method, path, headers, body).await
}

/// A request to `host`, which may have a port.
///
/// # Errors
/// If a header cannot be sent.
pub fn request_to(
    host: &str,
    method: Method,
    uri: String,
    headers: &[(&'static str, String)],
    body: Bytes,
) -> Result<Request<Full<Bytes>>, AskError> {
    let request = Request::builder().method(method).uri(uri).header(header::HOST, host);
    let mut request = request.body(Full::new(body))?;
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).map_err(http::Error::from)?;
        request.headers_mut().insert(HeaderName::from_static(name), value);
    }
    Ok(request)
}

/// Sends a request on a new connection to `target`, which may be encrypted, and waits for the head of the response.
///
/// # Errors
/// If there is no response.
pub async fn ask_on<S>(
    stream: S,
    target: &str,
    request: Request<Full<Bytes>>,
) -> Result<Answer, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Connection::over(stream, target.to_owned(), String::new()).await?.send(request).await
}

impl Connection {
    /// Connects to a service.
    ///
    /// # Errors
    /// If it cannot be reached within this time.
    pub async fn open(base: &BaseUrl, within: Duration) -> Result<Self, AskError> {
        let target = format!("{}:{}", base.host, base.port);
        let stream = tokio::time::timeout(within, TcpStream::connect(&target))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| AskError::Connect(target.clone(), error))?;
        let _ = stream.set_nodelay(true);
        Self::over(stream, target, base.prefix.clone()).await
    }

    async fn over<S>(stream: S, target: String, prefix: String) -> Result<Self, AskError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| AskError::Broken(target.clone(), error))?;
        let task = ConnectionTask(tokio::spawn(async move {
            // The reader gets its error through the body.
            let _ = connection.await;
        }));
        Ok(Self { target, prefix, sender, _task: task })
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// # Errors
    /// If there is no response.
    pub async fn ask(
        self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Answer, AskError> {
        let uri = format!("{}{path}", self.prefix);
        let request = request_to(&self.target, method, uri, headers, body)?;
        self.send(request).await
    }

    async fn send(mut self, request: Request<Full<Bytes>>) -> Result<Answer, AskError> {
        let response = self.sender.send_request(request).await;
        let response = response.map_err(|error| AskError::Broken(self.target.clone(), error))?;
        let (head, body) = response.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body, connection: self })
    }
}

impl Answer {
    /// The value of a header, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The complete body, of at most `limit` bytes.
    ///
    /// # Errors
    /// If it is incomplete or longer.
    pub async fn bytes(self, limit: usize) -> Result<Vec<u8>, AskError> {
        Ok(self.into_parts(limit).await?.0)
    }

    /// The complete body, of at most `limit` bytes, and the connection for another request.
    ///
    /// # Errors
    /// If the body is incomplete or longer.
    pub async fn into_parts(mut self, limit: usize) -> Result<(Vec<u8>, Connection), AskError> {
        let mut content = Vec::new();
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(AskError::Body)?.into_data() {
                if content.len() + data.len() > limit {
                    return Err(AskError::TooLong(limit));
                }
                content.extend_from_slice(&data);
            }
        }
        Ok((content, self.connection))
    }

    /// The body as a stream of events. It ends with the body, even if that is incomplete.
    pub fn events(self) -> impl Stream<Item = Result<Frame, AskError>> + Send + 'static {
        self.events_within(Duration::MAX)
    }

    /// The same as [`events`](Self::events), but if nothing comes for `silence`, not even a comment, the connection counts as
    /// broken.
    pub fn events_within(
        self,
        silence: Duration,
    ) -> impl Stream<Item = Result<Frame, AskError>> + Send + 'static {
        self.event_batches(silence)
            .map_ok(|frames| futures_util::stream::iter(frames).map(Ok))
            .try_flatten()
    }

    /// The same as [`events_within`](Self::events_within), in batches of the events that arrive together.
    pub fn event_batches(
        self,
        silence: Duration,
    ) -> impl Stream<Item = Result<Vec<Frame>, AskError>> + Send + 'static {
        let Self { mut body, connection, .. } = self;
        async_stream::try_stream! {
            let _connection = connection;
            let mut decoder = Decoder::new(EVENT_LIMIT);
            loop {
                let next = tokio::time::timeout(silence, body.frame()).await;
                let Some(next) = next.map_err(|_| AskError::Silent(silence))? else { return };
                let Ok(data) = next.map_err(AskError::Body)?.into_data() else { continue };
                let mut frames = Vec::new();
                let pushed = decoder.push(&data, &mut frames);
                if !frames.is_empty() {
                    yield frames;
                }
                pushed?;
            }
        }
    }
}
