//! The way to a host: straight to an address that was checked, or through the operator's proxy.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use boot::Settings;
use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::policy::{AddressPolicy, Target};

/// How long one address has to take a connection.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long a name server has to answer.
const RESOLVE_TIME: Duration = Duration::from_secs(15);
/// The longest answer of a proxy.
const LONGEST_ANSWER: usize = 8 * 1024;

/// The proxy that https goes through, from `HTTPS_PROXY` and `NO_PROXY`.
#[derive(Clone, Default)]
pub struct UpstreamProxy(Option<Arc<Matcher>>);

/// Why there is no connection. For the log: a caller is told the same in all cases.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    #[error("the name does not resolve: {0}")]
    Name(io::Error),
    #[error(
        "{0} is not a public address: name the host in GIT_ALLOWED_HOSTS, or the network in \
         GIT_ALLOWED_NETWORKS, if repositories may be there"
    )]
    NotAllowed(IpAddr),
    #[error("{0}: {1}")]
    Address(IpAddr, io::Error),
    #[error("the proxy {0} does not connect: {1}")]
    Proxy(String, io::Error),
}

impl UpstreamProxy {
    /// Reads `HTTPS_PROXY` and `NO_PROXY`.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let no_proxy = settings.text("NO_PROXY").unwrap_or_default();
        let Some(proxy) = settings.text("HTTPS_PROXY") else { return Self(None) };
        // What does not parse is dropped in silence there, so a matcher without exceptions is asked first.
        let example = Uri::from_static("https://example.com/");
        let found = Matcher::builder().https(&proxy).build().intercept(&example);
        if found.is_none_or(|proxy| proxy.uri().scheme_str() != Some("http")) {
            settings.problem("HTTPS_PROXY", "use the URL of an HTTP proxy, like http://proxy:3128");
        }
        Self(Some(Arc::new(Matcher::builder().https(proxy).no(no_proxy).build())))
    }

    fn intercept(&self, target: &Target) -> Option<Intercept> {
        let uri = format!("https://{target}/").parse::<Uri>().ok()?;
        self.0.as_ref()?.intercept(&uri)
    }
}

impl fmt::Debug for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.write_str(if self.0.is_some() { "UpstreamProxy(***)" } else { "UpstreamProxy(none)" })
    }
}

/// Connects to `target`, if `policy` allows an address that it has.
pub(super) async fn connect(
    policy: &AddressPolicy,
    proxy: Option<&UpstreamProxy>,
    target: &Target,
) -> Result<TcpStream, Unreachable> {
    let proxy = proxy.and_then(|proxy| proxy.intercept(target));
    let addresses = match (resolve(target).await, &proxy) {
        (Ok(addresses), _) => addresses,
        // Behind a proxy there is often no name server for the names outside.
        (Err(_), Some(_)) => Vec::new(),
        (Err(error), None) => return Err(Unreachable::Name(error)),
    };
    let mut failure = Unreachable::Name(io::ErrorKind::NotFound.into());
    let mut allowed = Vec::new();
    for address in addresses {
        if policy.allows(target, address) {
            allowed.push(address);
        } else {
            failure = Unreachable::NotAllowed(address);
        }
    }
    if let Some(proxy) = proxy {
        if allowed.is_empty() && matches!(failure, Unreachable::NotAllowed(_)) {
            return Err(failure);
        }
        return through(&proxy, target)
            .await
            .map_err(|error| Unreachable::Proxy(proxy.uri().to_string(), error));
    }
    // The very addresses that were checked: the name is not asked again.
    for address in allowed {
        match dial(SocketAddr::new(address, target.port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Unreachable::Address(address, error),
        }
    }
    Err(failure)
}

/// The addresses of a host. The system's resolver also reads `2130706433` and `127.1`.
async fn resolve(target: &Target) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return Ok(vec![address]);
    }
    let lookup = tokio::net::lookup_host((target.host.as_str(), target.port));
    let found = timeout(RESOLVE_TIME, lookup).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(found.map(|address| address.ip().to_canonical()).collect())
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT_TIME, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Has `proxy` connect to `target`. It resolves the name itself.
async fn through(proxy: &Intercept, target: &Target) -> io::Result<TcpStream> {
    let uri = proxy.uri();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(80);
    let connected = timeout(CONNECT_TIME, TcpStream::connect((host, port))).await;
    let mut stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(login) = proxy.basic_auth() {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(login.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    let head = timeout(CONNECT_TIME, head(&mut stream))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let line = head.lines().next().unwrap_or_default();
    match line.split_ascii_whitespace().nth(1) {
        Some(status) if line.starts_with("HTTP/1.") && status.starts_with('2') => Ok(stream),
        _ => Err(io::Error::other(format!("it answers '{line}'"))),
    }
}

/// The head of an answer, and not a byte of what follows it.
async fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LONGEST_ANSWER {
            return Err(io::Error::other("its answer does not end"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
