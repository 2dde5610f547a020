//! The address of a stack.

use std::{fmt, net::SocketAddr, str::FromStr};

use url::Url;
use web::BaseUrl;

/// The default address of a stack on this machine.
pub const DEFAULT_URL: &str = "http://127.0.0.1:5000";

/// The address of a stack: `http[s]://host[:port][/prefix]`.
#[derive(Clone, PartialEq, Eq)]
pub struct StackUrl {
    pub(crate) scheme: Scheme,
    /// An IPv6 address is in brackets.
    host: String,
    port: u16,
    pub(crate) prefix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl StackUrl {
    /// `host:port`, without the scheme's default port.
    pub(crate) fn authority(&self) -> String {
        match (self.scheme, self.port) {
            (Scheme::Http, 80) | (Scheme::Https, 443) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    /// The address to connect to.
    pub(crate) fn target(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The name in the server's certificate.
    pub(crate) fn server_name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether requests are encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::Https
    }
}

impl FromStr for StackUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text)
            .map_err(|error| format!("not a URL ({error}); use one such as {DEFAULT_URL}"))?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err("use a URL that begins with http:// or https://".into()),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "leave the credentials out of the URL, where others can see them; put a token in STACK_TOKEN, or in a file for --token-file"
                    .into(),
            );
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("remove everything from '?' or '#' on".into());
        }
        let host = url.host_str().ok_or("the URL has no host")?.to_owned();
        let prefix = url.path().trim_end_matches('/').to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        Ok(Self { scheme, host, port, prefix })
    }
}

impl fmt::Display for StackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

impl fmt::Debug for StackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<SocketAddr> for StackUrl {
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        };
        Self { scheme: Scheme::Http, host, port: address.port(), prefix: String::new() }
    }
}

impl From<BaseUrl> for StackUrl {
    fn from(url: BaseUrl) -> Self {
        let (host, port) = (url.host().to_owned(), url.port());
        Self { scheme: Scheme::Http, host, port, prefix: url.prefix().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<StackUrl, String> {
        text.parse()
    }

    #[test]
    fn addresses() {
        for (text, shown, target) in [
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000", "127.0.0.1:5000"),
            ("http://stack.example", "http://stack.example", "stack.example:80"),
            ("https://stack.example:443/a/", "https://stack.example/a", "stack.example:443"),
            ("https://[::1]:8443", "https://[::1]:8443", "[::1]:8443"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.target().as_str()), (shown, target));
            assert_eq!(parse(shown).unwrap(), url);
        }
        assert_eq!(parse("https://[::1]:8443").unwrap().server_name(), "::1");
    }

    properties::fuzz! {
        /// It is shown to people and put on command lines, and must mean the same there.
        #[test]
        fn what_is_accepted_round_trips_without_credentials(
            text in prop_oneof![
                any::<String>(),
                "(https?|ftp)://([a-z0-9:]{0,5}@)?(\\[[0-9a-f:]{0,9}\\]|[a-zA-Z0-9.%-]{0,12})(:[0-9]{0,6})?(/[ -~]{0,12})?",
            ],
        ) {
            let Ok(url) = parse(&text) else { return Ok(()) };
            let shown = url.to_string();
            prop_assert!(!shown.contains(|c: char| c.is_control() || c.is_whitespace()), "{shown:?}");
            let authority = url.authority();
            prop_assert!(!authority.contains(['@', '/', '?', '#']) && !authority.is_empty(), "{shown}");
            prop_assert_eq!(parse(&shown), Ok(url), "{} from {}", shown, text);
        }
    }

    #[test]
    fn invalid_addresses_are_refused_with_a_hint() {
        for (text, hint) in [
            ("https://user:s3cret@stack.example", "--token-file"),
            ("https://wfs_x@stack.example", "STACK_TOKEN"),
            ("ftp://stack.example", "https://"),
            ("https://stack.example/?x", "'?'"),
            ("stack.example", "not a URL"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(hint) && !error.contains("s3cret"), "{text}: {error}");
        }
    }
}
