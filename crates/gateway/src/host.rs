//! The names that the gateway answers to.
//!
//! A web page can make its own name point here (DNS rebinding). In its visitor's browser, the page then has the same origin as
//! the stack, but its requests have a different `Host`. `ALLOWED_HOSTS` lists the accepted names. Without it, a gateway on
//! loopback answers to local names and to addresses, and any other gateway answers to every name.

use std::{
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use contract::{Code, RequestError};
use http::{HeaderMap, Uri, Version, header, uri::Authority};

/// The default port of `http`.
const HTTP_PORT: u16 = 80;

/// `ALLOWED_HOSTS`: names separated by commas. `*.example.org` stands for every name below `example.org`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHosts(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exactly(String),
    /// The end of a name, with its dot.
    Below(String),
}

impl AllowedHosts {
    /// What the setting must look like.
    pub const EXPECTED: &str =
        "names without ports, separated by commas, such as stack.example.org,*.example.com";
}

impl FromStr for AllowedHosts {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let patterns = names.map(Pattern::parse).collect::<Option<Vec<_>>>();
        match patterns {
            Some(patterns) if !patterns.is_empty() => Ok(Self(patterns)),
            _ => Err(
                "use names without ports, separated by commas, such as stack.example.org,*.example.com",
            ),
        }
    }
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        if let Some(address) = address(&text) {
            return Some(Self::Exactly(address.to_string()));
        }
        let is_name = |name: &str| {
            !name.is_empty()
                && name.split('.').all(|label| {
                    !label.is_empty()
                        && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
                })
        };
        match text.strip_prefix("*.") {
            Some(rest) => is_name(rest).then(|| Self::Below(format!(".{rest}"))),
            None => is_name(&text).then_some(Self::Exactly(text)),
        }
    }

    fn covers(&self, host: &Host) -> bool {
        match self {
            Self::Exactly(name) => host.name == *name,
            Self::Below(end) => host.name.len() > end.len() && host.name.ends_with(end),
        }
    }
}

/// The host that a request is for: its `Host`, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// In lower case, without a final dot; an IPv6 address has no brackets.
    name: String,
    port: u16,
}

impl Host {
    /// The host of a request; `None` for an HTTP/1.0 request that does not name one.
    ///
    /// # Errors
    /// If the request does not name exactly one host.
    pub(crate) fn of(
        version: Version,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Option<Self>, RequestError> {
        let invalid = |what: &str| RequestError::new(Code::InvalidField, format!("'Host': {what}"));
        let mut values = headers.get_all(header::HOST).iter();
        let named = match (values.next(), values.next()) {
            (None, _) if version == Version::HTTP_10 => None,
            (None, _) => return Err(invalid("HTTP/1.1 needs this header: send one")),
            (Some(_), Some(_)) => return Err(invalid("the request has two of them: send one")),
            (Some(value), None) => Some(
                value
                    .to_str()
                    .ok()
                    .and_then(Self::parse)
                    .ok_or_else(|| invalid("is not a host, or a host and a port"))?,
            ),
        };
        match (uri.authority(), named) {
            (Some(authority), Some(named))
                if Self::parse(authority.as_str()).as_ref() != Some(&named) =>
            {
                Err(invalid("names another host than the request's target: send the same"))
            }
            (_, named) => Ok(named),
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let authority: Authority = text.parse().ok()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host)?.strip_prefix(':') {
            // A colon without a number means the default port too (RFC 3986).
            None | Some("") => HTTP_PORT,
            Some(port) => port.parse().ok()?,
        };
        let name = match address(host) {
            Some(address) => address.to_string(),
            None => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
        };
        (!name.is_empty()).then_some(Self { name, port })
    }

    /// Whether `from` is an origin of this host. Behind a proxy with TLS, `from` has the default port of https, and this host
    /// has none.
    pub(crate) fn is_same_origin(&self, from: &Self) -> bool {
        self.name == from.name && self.port == from.port
    }

    /// The name as a part of a URL.
    pub(crate) fn in_url(&self) -> String {
        if self.name.contains(':') { format!("[{}]", self.name) } else { self.name.clone() }
    }

    /// Whether only this machine can have this name.
    fn is_local(&self) -> bool {
        self.name == "localhost"
            || self.name.ends_with(".localhost")
            || address(&self.name).is_some_and(|address| address.to_canonical().is_loopback())
    }
}

/// An IP address, with brackets or without.
fn address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// Checks whether a gateway that listens on `bind` answers to `host`. Local names and loopback addresses always pass, because
/// no page can have them and the stack's own probes and commands use them.
///
/// # Errors
/// What the caller or the operator can do.
pub(crate) fn check(
    bind: IpAddr,
    allowed: Option<&AllowedHosts>,
    host: &Host,
) -> Result<(), RequestError> {
    let passes = host.is_local()
        || match allowed {
            Some(AllowedHosts(patterns)) => patterns.iter().any(|pattern| pattern.covers(host)),
            None => !bind.is_loopback() || address(&host.name).is_some(),
        };
    if passes {
        return Ok(());
    }
    let name = &host.name;
    Err(RequestError::new(
        Code::InvalidField,
        match allowed {
            Some(_) => {
                format!("'Host': '{name}' is not in ALLOWED_HOSTS: add it, or use a name that is")
            }
            None => format!(
                "'Host': this stack listens on loopback, so call it by localhost or by an address; for a proxy in \
                 front of it, start the stack with ALLOWED_HOSTS={name}"
            ),
        },
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_answered(bind: &str, allowed: Option<&str>, host: &str) -> bool {
        let allowed = allowed.map(|text| text.parse().unwrap());
        let host = Host::parse(host);
        host.is_some_and(|host| check(bind.parse().unwrap(), allowed.as_ref(), &host).is_ok())
    }

    #[test]
    fn on_loopback_only_local_names_and_addresses_are_answered() {
        let local = ["localhost", "LOCALHOST:5000", "127.0.0.1:5000", "[::1]:5000", "10.0.0.7"];
        for host in local.into_iter().chain(["stack.localhost:1", "localhost."]) {
            assert!(is_answered("127.0.0.1", None, host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:5000", "127.0.0.1.evil.example:5000", "localhost.evil"]
        {
            assert!(!is_answered("127.0.0.1", None, host), "{host}");
            assert!(is_answered("0.0.0.0", None, host), "{host}");
        }
        for host in [":", "", "a b", "user@localhost", "localhost:99999"] {
            assert!(!is_answered("127.0.0.1", None, host), "{host}");
            assert!(!is_answered("0.0.0.0", None, host), "{host}");
        }
    }

    #[test]
    fn a_list_takes_the_place_of_both_rules() {
        let list = Some("Stack.example.org, *.example.com,10.0.0.7,[fd00::1]");
        for bind in ["127.0.0.1", "0.0.0.0", "::"] {
            for host in [
                "stack.example.org",
                "STACK.example.org:443",
                "stack.example.org.",
                "a.example.com",
                "a.b.example.com:8443",
                "10.0.0.7:5000",
                "[FD00::1]:5000",
                "localhost:5000",
                "127.0.0.1",
            ] {
                assert!(is_answered(bind, list, host), "{bind} {host}");
            }
            for host in [
                "example.org",
                "a.stack.example.org",
                "example.com",
                ".example.com",
                "evilexample.com",
                "a.example.com.evil",
                "10.0.0.8",
                "evil.example",
            ] {
                assert!(!is_answered(bind, list, host), "{bind} {host}");
            }
        }
        for bad in ["", ",", "*", "a b", "*.", "*.*.org", "https://a", "a:80", "a..b", "a/b"] {
            assert!(bad.parse::<AllowedHosts>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_names_one_host() {
        let of = |version, uri: &'static str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            Host::of(version, &Uri::from_static(uri), &headers).map_err(|error| error.code)
        };
        let invalid = Err(Code::InvalidField);
        let host = |name: &str, port| Ok(Some(Host { name: name.into(), port }));
        assert_eq!(of(Version::HTTP_11, "/", &[]), invalid);
        assert_eq!(of(Version::HTTP_10, "/", &[]), Ok(None));
        assert_eq!(of(Version::HTTP_11, "/", &["a", "a"]), invalid);
        assert_eq!(of(Version::HTTP_10, "/", &["a", "b"]), invalid);
        assert_eq!(of(Version::HTTP_11, "/", &["A:5000"]), host("a", 5000));
        assert_eq!(of(Version::HTTP_11, "http://a:5000/", &["a:5000"]), host("a", 5000));
        assert_eq!(of(Version::HTTP_11, "http://a/", &["a:80"]), host("a", 80));
        assert_eq!(of(Version::HTTP_11, "http://a/", &["b"]), invalid);
        assert_eq!(of(Version::HTTP_11, "http://a:1/", &["a:2"]), invalid);
        assert_eq!(of(Version::HTTP_11, "/", &[""]), invalid);
    }

    properties::fuzz! {
        /// A page can have any name but these.
        #[test]
        fn a_stack_on_loopback_answers_to_no_name_of_a_page(
            host in prop_oneof![any::<String>(), "[a-zA-Z0-9.:@%_\\[\\]-]{0,40}", "(127|10)\\.0\\.0\\.1[.a-z]{0,9}(:[0-9]{1,5})?"],
        ) {
            if is_answered("127.0.0.1", None, &host) {
                let name = Host::parse(&host).unwrap().name;
                let is_local = name == "localhost" || name.ends_with(".localhost");
                prop_assert!(is_local || name.parse::<IpAddr>().is_ok(), "{host:?} is {name:?}");
            }
        }

        #[test]
        fn only_names_below_a_pattern_are_answered(host in "[a-z.]{0,12}(stack\\.example\\.org)?[a-z.]{0,4}(:[0-9]{1,5})?") {
            if is_answered("0.0.0.0", Some("*.example.org"), &host) {
                let name = Host::parse(&host).unwrap().name;
                let is_local = name == "localhost" || name.ends_with(".localhost");
                prop_assert!(is_local || (name.ends_with(".example.org") && name.len() > 12), "{name:?}");
            }
        }

        #[test]
        fn any_request_has_a_host_or_is_refused(
            hosts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..3),
            target in "(http://[a-z.:@0-9]{1,20})?/[a-z]{0,5}",
        ) {
            let mut headers = HeaderMap::new();
            for value in hosts.iter().filter_map(|it| http::HeaderValue::from_bytes(it).ok()) {
                headers.append(header::HOST, value);
            }
            let Ok(uri) = target.parse::<Uri>() else { return Ok(()) };
            if let Ok(host) = Host::of(Version::HTTP_11, &uri, &headers) {
                prop_assert_eq!(headers.get_all(header::HOST).iter().count(), 1);
                prop_assert!(host.is_some());
            }
        }
    }
}
