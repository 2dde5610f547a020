//! Requests to the API of a forge: under the same rules for addresses as git, and without redirects.

use std::{io, sync::Arc, time::Duration};

use ::http::{HeaderValue, Method, Request, StatusCode, header};
use contract::Code;
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

use crate::{
    connector::Connector,
    failure::{Failure, Result, quote},
};

/// How long a request may take.
const TIME: Duration = Duration::from_secs(30);
/// The longest answer, in bytes: a list of one pull request, with all it contains.
const LONGEST: usize = 4 << 20;

/// An API, and how one authenticates there.
pub(super) struct Api<'a> {
    pub(super) connector: &'a Connector,
    /// The host, with its port if that is not the scheme's default.
    pub(super) authority: String,
    pub(super) is_https: bool,
    /// What stands before each path.
    pub(super) prefix: String,
    pub(super) authorization: String,
    /// What no sentence may repeat.
    pub(super) secrets: Vec<String>,
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Vec<u8>,
    authority: String,
    secrets: Vec<String>,
}

impl Api<'_> {
    /// Sends one request. An answer of any status is one.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &'static str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let answered = tokio::time::timeout(TIME, self.ask_it(method, path, headers, body)).await;
        answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| {
            let why = quote(&error.to_string(), &self.secrets);
            let sentence = format!(
                "the branch is pushed, but the API of {} does not answer ({why}): deliver again later",
                self.authority
            );
            Failure::told(Code::PullRequestFailed, sentence)
        })
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
        Ok(Answer {
            status,
            body,
            authority: self.authority.clone(),
            secrets: self.secrets.clone(),
        })
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
    /// What an answer with one of the statuses `ok` says.
    ///
    /// # Errors
    /// If it has another status, or says something else.
    pub(super) fn read<T: DeserializeOwned>(&self, ok: &[StatusCode]) -> Result<T> {
        if !ok.contains(&self.status) {
            return Err(self.refusal());
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            let sentence = format!(
                "the branch is pushed, but the answer of {} cannot be understood ({error}): check GIT_FORGES",
                self.authority
            );
            Failure::told(Code::PullRequestFailed, sentence)
        })
    }

    /// Whether the words are in it.
    pub(super) fn says(&self, words: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(words)
    }

    fn refusal(&self) -> Failure {
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
        let refused = serde_json::from_slice::<Refused>(&self.body).unwrap_or_default();
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
        let said = quote(&said.join(": "), &self.secrets);
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let (status, host) = (self.status.as_u16(), &self.authority);
        let (code, what) = match status {
            401 => (Code::AuthenticationFailed, "give a token that is valid"),
            403 => (Code::PullRequestFailed, "give the token the right to open pull requests"),
            404 => (
                Code::PullRequestFailed,
                "check that the token may see the repository and that GIT_FORGES is right",
            ),
            // A redirect would take the token to wherever it says.
            300..=399 => (
                Code::PullRequestFailed,
                "the repository has moved, so run the job with its new URL",
            ),
            _ => (Code::PullRequestFailed, "change what it objects to"),
        };
        let sentence = format!(
            "the branch is pushed, but {host} refuses the pull request (HTTP {status}{said}): {what}, then deliver again"
        );
        Failure::told(code, sentence)
    }
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
