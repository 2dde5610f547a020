//! Which credentials git gets, and for which host.

use contract::{RepoUrl, Scheme};
use url::{Host, Url};

use crate::Config;

/// The user name that git hosts expect with a token for a password.
const TOKEN_USER: &str = "x-access-token";

/// A user and a password, for one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// The logins for one repository, in the order in which they are tried.
#[derive(Debug)]
pub(crate) struct Logins {
    pub(crate) list: Vec<Login>,
    /// There are some, and they do not go over plain http.
    pub(crate) withheld: bool,
}

/// Whether both URLs lead to the same scheme, host and port.
pub(crate) fn is_same_origin(one: &str, other: &str) -> bool {
    Origin::of(one).is_some_and(|one| Some(one) == Origin::of(other))
}

#[derive(PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: Host,
    port: Option<u16>,
}

impl Logins {
    /// The logins `config` and the URL itself have for `repo`: those of the URL come first.
    pub(crate) fn new(config: &Config, repo: &RepoUrl) -> Self {
        let mut list = Vec::new();
        if matches!(repo.scheme(), Scheme::Http | Scheme::Https) {
            let (user, password) = repo.credentials();
            if user.is_some() || password.is_some() {
                list.push(Login {
                    user: user.unwrap_or(TOKEN_USER).into(),
                    password: password.unwrap_or_default().into(),
                });
            }
            if let Some(token) = &config.token
                && config.credential_hosts.iter().any(|host| host == repo.host())
            {
                list.push(Login { user: TOKEN_USER.into(), password: token.expose().into() });
            }
        }
        let is_private = Origin::of(repo.address()).is_some_and(|origin| origin.is_private());
        let withheld = !is_private && !list.is_empty();
        if withheld {
            list.clear();
        }
        Self { list, withheld }
    }

    /// Every secret that may be sent to `repo`, to be kept out of messages.
    pub(crate) fn secrets(config: &Config, repo: &RepoUrl) -> Vec<String> {
        let (user, password) = repo.credentials();
        let user = user.filter(|_| repo.has_secret());
        let token = config.token.as_ref().map(boot::Secret::expose);
        let secrets = [user, password, token].into_iter().flatten();
        // A shorter one would hide half the words of a sentence, and can be guessed anyway.
        secrets.filter(|secret| secret.len() >= 4).map(str::to_owned).collect()
    }
}

impl Origin {
    fn of(url: &str) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        let host = url.host()?.to_owned();
        Some(Self { scheme: url.scheme().to_owned(), host, port: url.port_or_known_default() })
    }

    /// Whether nobody on the way can read what is sent.
    fn is_private(&self) -> bool {
        match (self.scheme.as_str(), &self.host) {
            ("https", _) => true,
            ("http", Host::Ipv4(address)) => address.is_loopback(),
            ("http", Host::Ipv6(address)) => address.is_loopback(),
            ("http", Host::Domain(name)) => name.trim_end_matches('.') == "localhost",
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

    fn given(hosts: &[&str], url: &str) -> (Vec<String>, bool) {
        let logins = Logins::new(&config(hosts), &repo(url));
        let list = logins.list.iter().map(|it| format!("{}:{}", it.user, it.password));
        (list.collect(), logins.withheld)
    }

    #[test]
    fn each_login_goes_to_its_own_host_and_not_over_plain_http() {
        let github = ["github.com"];
        for (url, logins, withheld) in [
            ("https://github.com/a/b", vec!["x-access-token:the-token"], false),
            ("https://me:pw@github.com/a/b", vec!["me:pw", "x-access-token:the-token"], false),
            ("https://key@other.com/a/b", vec!["key:"], false),
            ("https://other.com/a/b", vec![], false),
            ("https://github.com:8443/a/b", vec![], false),
            ("http://github.com/a/b", vec![], true),
            ("http://me:pw@10.0.0.1/a/b", vec![], true),
            ("http://10.0.0.1/a/b", vec![], false),
            ("http://me:pw@127.0.0.1:81/a", vec!["me:pw"], false),
            ("http://me:pw@[::1]:81/a", vec!["me:pw"], false),
            ("http://me:pw@localhost/a", vec!["me:pw"], false),
            ("http://me:pw@localhost./a", vec!["me:pw"], false),
            ("http://me:pw@localhost.evil.com/a", vec![], true),
            ("git@github.com:a/b", vec![], false),
        ] {
            let logins: Vec<_> = logins.into_iter().map(str::to_owned).collect();
            assert_eq!(given(&github, url), (logins, withheld), "{url}");
        }
    }

    #[test]
    fn origins_are_compared_by_scheme_host_and_port() {
        let url = "https://github.com/a/b";
        for (other, same) in [
            ("https://github.com", true),
            ("https://GitHub.com:443/c", true),
            ("https://evil.com/a/b", false),
            ("https://github.com:444/a/b", false),
            ("http://github.com/a/b", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_same_origin(url, other), same, "{other}");
        }
    }

    #[test]
    fn a_host_with_a_port_is_named_with_it() {
        let url = "https://git.example.com:8443/a/b";
        let (logins, _) = given(&["git.example.com:8443"], url);
        assert_eq!(logins, ["x-access-token:the-token"]);
    }
}
