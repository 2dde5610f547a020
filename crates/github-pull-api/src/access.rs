//! Who gets which credentials.

use contract::{RepoUrl, Scheme};
use url::{Host, Url};

use crate::Config;

/// The user name git hosts take with a token for a password.
const TOKEN_USER: &str = "x-access-token";

/// A user and a password, for one attempt.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// Why no credentials were given, or no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// There are none for this host.
    None,
    /// There were, and the host refused them.
    Refused,
    /// There are, and they do not go over plain HTTP.
    PlainHttp,
    /// The host sent us on to another one, and that one asked.
    Redirected,
    /// The host asked for a kind of credentials that we do not have.
    Kind,
    /// There is no ssh key.
    NoSshKey,
    /// The host's ssh key is not a known one.
    UnknownHostKey,
    /// The host's ssh key is another than the known one, or a revoked one.
    WrongHostKey,
}

/// The logins for one repository, each given out once.
pub(crate) struct Logins {
    origin: Option<Origin>,
    plain_http: bool,
    left: Vec<Login>,
    given: bool,
}

#[derive(PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: Host,
    port: Option<u16>,
}

impl Logins {
    /// The logins `config` and the URL itself have for `repo`.
    pub(crate) fn new(config: &Config, repo: &RepoUrl) -> Self {
        let origin = Origin::of(repo.address());
        // In the order they are taken from the end: the URL's own come first.
        let mut left = Vec::new();
        let is_web = matches!(repo.scheme(), Scheme::Http | Scheme::Https);
        if let Some(token) = &config.token
            && is_web
            && config.credential_hosts.iter().any(|host| host == repo.host())
        {
            left.push(Login { user: TOKEN_USER.into(), password: token.expose().into() });
        }
        match repo.credentials() {
            _ if !is_web => {}
            (None, None) => {}
            (user, password) => left.push(Login {
                user: user.unwrap_or(TOKEN_USER).into(),
                password: password.unwrap_or_default().into(),
            }),
        }
        let plain_http = origin.as_ref().is_none_or(|origin| !origin.is_private());
        Self { origin, plain_http, left, given: false }
    }

    /// The next login for the one who asks at `url`.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn next(&mut self, url: &str) -> Result<Login, Denial> {
        if Origin::of(url) != self.origin || self.origin.is_none() {
            return Err(Denial::Redirected);
        }
        if self.plain_http && !self.left.is_empty() {
            return Err(Denial::PlainHttp);
        }
        let given = std::mem::replace(&mut self.given, true);
        self.left.pop().ok_or(if given { Denial::Refused } else { Denial::None })
    }

    /// Every secret here, to be kept out of messages.
    pub(crate) fn secrets(config: &Config, repo: &RepoUrl) -> Vec<String> {
        let (user, password) = repo.credentials();
        let user = user.filter(|_| repo.has_secret());
        let token = config.token.as_ref().map(boot::Secret::expose);
        let secrets = [user, password, token].into_iter().flatten();
        // Shorter ones would blot out half the words of a sentence, and guessing them is no work.
        secrets.filter(|secret| secret.len() >= 4).map(str::to_owned).collect()
    }
}

impl Origin {
    fn of(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let host = url.host()?.to_owned();
        Some(Self { scheme: url.scheme().to_owned(), host, port: url.port_or_known_default() })
    }

    /// Whether nobody between here and there can read along.
    fn is_private(&self) -> bool {
        match (self.scheme.as_str(), &self.host) {
            ("https", _) => true,
            ("http", Host::Ipv4(address)) => address.is_loopback(),
            ("http", Host::Ipv6(address)) => address.is_loopback(),
            ("http", Host::Domain(name)) => name == "localhost",
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use boot::Secret;
    use contract::Policy;

    use super::*;

    fn repo(url: &str) -> RepoUrl {
        RepoUrl::parse(url, &Policy::default()).unwrap()
    }

    fn config(hosts: &[&str]) -> Config {
        Config {
            token: Some(Secret::new("the-token".into())),
            credential_hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            ..Config::default()
        }
    }

    fn given(hosts: &[&str], url: &str, asked_at: &str) -> (Vec<String>, Denial) {
        let mut logins = Logins::new(&config(hosts), &repo(url));
        let mut given = Vec::new();
        loop {
            match logins.next(asked_at) {
                Ok(login) => given.push(format!("{}:{}", login.user, login.password)),
                Err(denial) => return (given, denial),
            }
        }
    }

    #[test]
    fn each_login_is_given_once_to_its_own_host() {
        let github = ["github.com"];
        for (url, asked_at, logins, denial) in [
            (
                "https://github.com/a/b",
                "https://github.com/a/b",
                vec!["x-access-token:the-token"],
                Denial::Refused,
            ),
            (
                "https://me:pw@github.com/a/b",
                "https://github.com/a/b",
                vec!["me:pw", "x-access-token:the-token"],
                Denial::Refused,
            ),
            ("https://key@other.com/a/b", "https://other.com/a/b", vec!["key:"], Denial::Refused),
            ("https://other.com/a/b", "https://other.com/a/b", vec![], Denial::None),
            ("https://github.com:8443/a/b", "https://github.com:8443/a/b", vec![], Denial::None),
            ("https://github.com/a/b", "https://evil.com/a/b", vec![], Denial::Redirected),
            ("https://github.com/a/b", "https://github.com:444/a/b", vec![], Denial::Redirected),
            ("https://github.com/a/b", "http://github.com/a/b", vec![], Denial::Redirected),
            ("http://github.com/a/b", "http://github.com/a/b", vec![], Denial::PlainHttp),
            ("http://me:pw@10.0.0.1/a/b", "http://10.0.0.1/a/b", vec![], Denial::PlainHttp),
            (
                "http://me:pw@127.0.0.1:81/a",
                "http://127.0.0.1:81/a",
                vec!["me:pw"],
                Denial::Refused,
            ),
            ("http://me:pw@[::1]:81/a", "http://[::1]:81/a", vec!["me:pw"], Denial::Refused),
            ("http://me:pw@localhost/a", "http://localhost/a", vec!["me:pw"], Denial::Refused),
            (
                "http://me:pw@localhost.evil.com/a",
                "http://localhost.evil.com/a",
                vec![],
                Denial::PlainHttp,
            ),
        ] {
            let logins = logins.into_iter().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(given(&github, url, asked_at), (logins, denial), "{url} {asked_at}");
        }
    }

    #[test]
    fn a_host_with_a_port_is_named_with_it() {
        let url = "https://git.example.com:8443/a/b";
        let (logins, _) = given(&["git.example.com:8443"], url, url);
        assert_eq!(logins, ["x-access-token:the-token"]);
    }
}
