//! The Messages API itself, or the server that `ANTHROPIC_BASE_URL` names.

use std::{fmt, io, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::sync::OnceCell;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::Credential;

/// How the failure begins that the agent is told if there is no answer from the API.
pub(crate) const UNREACHABLE: &str = "the Messages API cannot be reached";

const DEFAULT: &str = "https://api.anthropic.com";

/// How long a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(15);

/// Headers that belong to one connection (RFC 9110, section 7.6.1), or that are not passed on: the agent's token, its
/// encodings (a compressed answer could not be counted), and cookies.
const NOT_PASSED_ON: [HeaderName; 13] = [
    header::AUTHORIZATION,
    header::HOST,
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    header::COOKIE,
    header::SET_COOKIE,
];

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Where the Messages API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagesUrl {
    scheme: Scheme,
    authority: Authority,
    /// The part before each path, without a trailing slash.
    prefix: String,
}

impl MessagesUrl {
    pub(crate) const EXPECTED: &str =
        "an http or https URL without credentials and without a query";

    /// The host. An IPv6 address is in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host()
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        let default = if self.is_encrypted() { 443 } else { 80 };
        self.authority.port_u16().unwrap_or(default)
    }

    fn is_encrypted(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The URL of a request with this path and query.
    fn at(&self, wanted: &Uri) -> Result<Uri, http::Error> {
        let path = wanted.path_and_query().map_or("/", PathAndQuery::as_str);
        let builder = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        builder.path_and_query(format!("{}{path}", self.prefix)).build()
    }
}

impl Default for MessagesUrl {
    fn default() -> Self {
        Self {
            scheme: Scheme::HTTPS,
            authority: Authority::from_static(DEFAULT.trim_start_matches("https://")),
            prefix: String::new(),
        }
    }
}

impl std::str::FromStr for MessagesUrl {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let uri: Uri = text.parse().map_err(drop)?;
        let parts = uri.into_parts();
        let scheme =
            parts.scheme.filter(|it| *it == Scheme::HTTP || *it == Scheme::HTTPS).ok_or(())?;
        let authority = parts.authority.filter(|it| !it.as_str().contains('@')).ok_or(())?;
        let path = parts.path_and_query.filter(|it| it.query().is_none()).ok_or(())?;
        Ok(Self { scheme, authority, prefix: path.path().trim_end_matches('/').to_owned() })
    }
}

impl fmt::Display for MessagesUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Incoming>;

/// Sends requests on with the credential.
pub(super) struct Upstream {
    url: MessagesUrl,
    header: (HeaderName, HeaderValue),
    client: OnceCell<HttpClient>,
}

impl Upstream {
    /// # Errors
    /// If the credential cannot be sent in a header.
    pub(super) fn new(url: MessagesUrl, credential: &Credential) -> io::Result<Self> {
        let (name, text) = match credential {
            Credential::ApiKey(key) => (API_KEY, key.expose().to_owned()),
            Credential::OAuthToken { token, .. } => {
                (header::AUTHORIZATION, format!("Bearer {}", token.expose()))
            }
        };
        let invalid = |_| io::Error::other("the credential is no header");
        let mut value = HeaderValue::from_str(&text).map_err(invalid)?;
        value.set_sensitive(true);
        Ok(Self { url, header: (name, value), client: OnceCell::new() })
    }

    /// Reads the root certificates, so that the first request does not have to wait for them.
    pub(super) async fn prepare(&self) {
        // The first request tries again, and reports the error.
        let _ = self.client().await;
    }

    async fn client(&self) -> io::Result<&HttpClient> {
        let is_encrypted = self.url.is_encrypted();
        let make = || async move {
            let made = tokio::task::spawn_blocking(move || client(is_encrypted)).await;
            made.unwrap_or_else(|error| Err(io::Error::other(error)))
        };
        self.client.get_or_try_init(make).await
    }

    /// Sends a request on. The answer is the API's, whatever its status.
    ///
    /// # Errors
    /// A sentence, without secrets, that says why there is no answer.
    pub(super) async fn send(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Incoming>, String> {
        let client = self.client().await.map_err(|error| error.to_string())?;
        let (mut head, body) = request.into_parts();
        head.uri = self.url.at(&head.uri).map_err(|error| error.to_string())?;
        head.version = Version::HTTP_11;
        head.extensions.clear();
        strip(&mut head.headers);
        head.headers.remove(&API_KEY);
        head.headers.remove(header::ACCEPT_ENCODING);
        let (name, value) = self.header.clone();
        head.headers.insert(name, value);
        let mut answer = client
            .request(Request::from_parts(head, body))
            .await
            .map_err(|error| format!("{}: {}", self.url, causes(&error)))?;
        strip(answer.headers_mut());
        *answer.version_mut() = Version::HTTP_11;
        Ok(answer)
    }
}

/// Removes what belongs to one connection, and what it lists as such.
fn strip(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in listed.iter().chain(&NOT_PASSED_ON) {
        headers.remove(name);
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn client(is_encrypted: bool) -> io::Result<HttpClient> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let config = if is_encrypted {
        config.with_native_roots()?
    } else {
        config.with_root_certificates(RootCertStore::empty())
    };
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIME));
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(config.with_no_client_auth())
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new()).build(https))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_urls_are_accepted() {
        for (text, shown) in [
            ("https://api.anthropic.com", Some("https://api.anthropic.com")),
            ("http://127.0.0.1:8080/", Some("http://127.0.0.1:8080")),
            ("https://h/a/b/", Some("https://h/a/b")),
            ("http://[::1]:1/v", Some("http://[::1]:1/v")),
            ("ftp://h", None),
            ("h", None),
            ("https://user:pass@h", None),
            ("https://h/?a=b", None),
            ("https://", None),
            ("", None),
        ] {
            let parsed = text.parse::<MessagesUrl>().ok().map(|url| url.to_string());
            assert_eq!(parsed.as_deref(), shown, "{text}");
        }
        assert_eq!(MessagesUrl::default().to_string(), DEFAULT);
    }

    #[test]
    fn a_path_stays_behind_the_prefix() {
        let url: MessagesUrl = "https://h/a".parse().unwrap();
        let at = |path: &str| url.at(&path.parse().unwrap()).unwrap().to_string();
        assert_eq!(at("/v1/messages?beta=true"), "https://h/a/v1/messages?beta=true");
        assert_eq!(at("http://elsewhere/v1/messages"), "https://h/a/v1/messages");
    }

    #[test]
    fn headers_of_one_connection_are_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("authorization", "Bearer t"),
            ("cookie", "a=b"),
            ("anthropic-version", "2023-06-01"),
        ] {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        strip(&mut headers);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["anthropic-version"]);
    }
}
