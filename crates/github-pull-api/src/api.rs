//! Requests to the API of a forge: under the same rules for addresses as git, and without redirects.
//!
//! What an answer means, and what a caller is told of it, is up to whoever asks.

use std::{io, sync::Arc, time::Duration};

use ::http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper_rustls::ConfigBuilderExt as _;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, crypto::ring, pki_types::ServerName},
};

use crate::{connector::Connector, failure::quote};

/// How long a request may take.
const TIME: Duration = Duration::from_secs(30);
/// The longest answer, in bytes: a list of one pull request, with all it contains.
const LONGEST: usize = 4 << 20;

/// An API, and how one authenticates there.
pub(crate) struct Api<'a> {
    pub(crate) connector: &'a Connector,
    /// The host, with its port if that is not the scheme's default.
    pub(crate) authority: String,
    pub(crate) is_https: bool,
    /// What stands before each path.
    pub(crate) prefix: String,
    pub(crate) authorization: String,
    /// What no sentence may repeat.
    pub(crate) secrets: Vec<String>,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    body: Vec<u8>,
    secrets: Vec<String>,
}

impl Api<'_> {
    /// Sends one request. An answer of any status is one.
    ///
    /// # Errors
    /// Why there is none, in words without secrets.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &'static str)],
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let answered = tokio::time::timeout(TIME, self.ask_it(method, path, headers, body)).await;
        answered
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| quote(&error.to_string(), &self.secrets))
    }

    async fn ask_it(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &'static str)],
        body: Option<&Value>,
    ) -> io::Result<Answer> {
        let mut authorization =
            HeaderValue::from_str(&self.authorization).map_err(io::Error::other)?;
        authorization.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, &self.authority)
            // GitHub refuses requests without one.
            .header(header::USER_AGENT, concat!("workflow-stack/", env!("CARGO_PKG_VERSION")))
            .header(header::AUTHORIZATION, authorization);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.into())).map_err(io::Error::other)?;
        let (host, port) = self.host_and_port()?;
        let stream = self.connector.connect(&host, port, self.is_https).await?;
        let answer = if self.is_https {
            web::ask_on(encrypt(&host, stream).await?, &self.authority, request).await
        } else {
            web::ask_on(stream, &self.authority, request).await
        };
        let answer = answer.map_err(io::Error::other)?;
        let status = answer.status;
        let body = answer.bytes(LONGEST).await.map_err(io::Error::other)?;
        Ok(Answer { status, body, secrets: self.secrets.clone() })
    }

    fn host_and_port(&self) -> io::Result<(String, u16)> {
        let scheme = if self.is_https { "https" } else { "http" };
        let url =
            url::Url::parse(&format!("{scheme}://{}", self.authority)).map_err(io::Error::other)?;
        let host = url.host_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        Ok((host, url.port_or_known_default().ok_or(io::ErrorKind::InvalidInput)?))
    }
}

impl Answer {
    /// What it says.
    ///
    /// # Errors
    /// If it says something else.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.body)
    }

    /// Whether the words are in it.
    pub(crate) fn says(&self, words: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(words)
    }

    /// The words of an error, on one line and without secrets; may be empty.
    pub(crate) fn error_words(&self) -> String {
        /// How GitHub, Gitea and Forgejo write errors. GitLab has several ways.
        #[derive(Default, Deserialize)]
        struct Refused {
            #[serde(default)]
            message: Value,
            #[serde(default)]
            error: String,
            #[serde(default)]
            errors: Vec<Value>,
        }
        let refused = self.json::<Refused>().unwrap_or_default();
        let details = refused.errors.iter().filter_map(|error| {
            error.get("message").and_then(Value::as_str).or_else(|| error.as_str())
        });
        let message = match &refused.message {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let said: Vec<&str> = [message.as_str(), refused.error.as_str()]
            .into_iter()
            .chain(details)
            .filter(|it| !it.is_empty())
            .collect();
        quote(&said.join(": "), &self.secrets)
    }
}

/// A part of a path, with everything that means something there escaped.
pub(crate) fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Encrypts a connection. The certificate is checked with the root certificates of the machine, or those of `SSL_CERT_FILE`.
async fn encrypt(host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_native_roots()?
        .with_no_client_auth();
    let bare = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(bare).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}
