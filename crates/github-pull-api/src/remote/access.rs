//! Which credentials git gets, and for which host.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use contract::{RepoUrl, Scheme};
use tokio::{runtime::Handle, time::timeout};
use url::{Host, Url};

use crate::{
    Config,
    app::{self, AppRepository, GitHubApp, Need},
    connector::Connector,
    failure::{Failure, Result},
    monitor::Monitor,
};

/// The user name that git hosts expect with a token for a password.
const TOKEN_USER: &str = "x-access-token";
/// Tokens of a GitHub App are valid for an hour.
const RENEW_AFTER: Duration = Duration::from_secs(50 * 60);
/// How long a job that is stopped waits for an answer that is on its way.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long the end of a job may wait until its tokens are revoked.
const REVOKE_WITHIN: Duration = Duration::from_secs(3);

/// A user and a password, for one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// The logins for one repository, in the order in which they are tried.
#[derive(Debug)]
pub(super) struct Logins {
    pub(super) list: Vec<Source>,
    /// There are some, and they do not go over plain http.
    pub(super) withheld: bool,
}

/// Where a login comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// From the URL or the settings.
    Given(Login),
    /// From the GitHub App, which makes it when its turn comes.
    App,
}

/// The way of one job to git hosts: by a connector, with the credentials of the job.
pub(crate) struct Access<'a> {
    pub(crate) config: Arc<Config>,
    pub(crate) connector: &'a Connector,
    monitor: Monitor,
    need: Need,
    /// What the GitHub App has given, last of all for each repository.
    made: Mutex<Vec<Made>>,
}

/// An answer to the question for a token.
struct Made {
    repository: AppRepository,
    /// `None` if the App is not installed there.
    token: Option<String>,
    at: Instant,
}

impl<'a> Access<'a> {
    /// For a job that does no more than it says it `need`s to.
    pub(crate) fn new(
        config: Arc<Config>,
        connector: &'a Connector,
        monitor: Monitor,
        need: Need,
    ) -> Self {
        Self { config, connector, monitor, need, made: Mutex::default() }
    }

    /// The next login for `repo` that there is. Blocks; call it within a runtime.
    ///
    /// # Errors
    /// If the GitHub App cannot be asked.
    pub(super) fn next_login(
        &self,
        repo: &RepoUrl,
        left: &mut impl Iterator<Item = Source>,
    ) -> Result<Option<Login>> {
        for source in left {
            match source {
                Source::Given(login) => return Ok(Some(login)),
                Source::App => {
                    if let Some(password) = self.app_token(repo)? {
                        return Ok(Some(Login { user: TOKEN_USER.into(), password }));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The first token for the API of the forge of `repo`; `None` if there is none. Blocks; call it within a runtime.
    ///
    /// # Errors
    /// If the GitHub App cannot be asked.
    pub(crate) fn api_token(&self, repo: &RepoUrl) -> Result<Option<String>> {
        if matches!(repo.scheme(), Scheme::Http | Scheme::Https) {
            let mut logins = Logins::new(&self.config, repo).list.into_iter();
            let login = self.next_login(repo, &mut logins)?;
            return Ok(login.map(|it| if it.password.is_empty() { it.user } else { it.password }));
        }
        // The key is for ssh; the API takes the tokens, if they are for this host.
        if let Some(token) = self.app_token(repo)? {
            return Ok(Some(token));
        }
        let is_for_host = self.config.is_credential_host(without_port(repo.host()));
        Ok(self.config.token.as_ref().filter(|_| is_for_host).map(|it| it.expose().to_owned()))
    }

    /// Makes sure that there is something to push with, as far as that can be told before.
    ///
    /// # Errors
    /// If the GitHub App is all there could be, and is not installed.
    pub(crate) fn check_push(&self, repo: &RepoUrl) -> Result<()> {
        let logins = Logins::new(&self.config, repo);
        if logins.list != [Source::App] || self.app_token(repo)?.is_some() {
            return Ok(());
        }
        let sentence = format!(
            "the GitHub App is not installed on {repo}, and there are no other credentials: {}, then deliver again",
            self.how_to_give_credentials(repo)
        );
        Err(Failure::told(contract::Code::AuthenticationFailed, sentence))
    }

    /// What to do where credentials are missing, as a part of a sentence.
    pub(crate) fn how_to_give_credentials(&self, repo: &RepoUrl) -> &'static str {
        match self.config.app_for(repo) {
            Some(_) => "install the GitHub App on the repository, or give credentials in the URL",
            None => "give credentials in the URL, or set GITHUB_TOKEN and GIT_CREDENTIAL_HOSTS",
        }
    }

    /// Every secret that may be sent to `repo`, to be kept out of messages.
    pub(crate) fn secrets(&self, repo: &RepoUrl) -> Vec<String> {
        let mut secrets = Logins::secrets(&self.config, repo);
        secrets.extend(lock(&self.made).iter().filter_map(|made| made.token.clone()));
        secrets
    }

    /// Revokes the tokens that were made for this job, as far as that is possible. Blocks; call it within a runtime.
    pub(crate) fn revoke(&self) {
        let made = std::mem::take(&mut *lock(&self.made));
        let tokens = made.into_iter().filter_map(|it| Some((it.repository, it.token?)));
        let revoke = async {
            for (repository, token) in tokens {
                if let Err(why) = app::revoke(self.connector, &repository, token).await {
                    tracing::warn!(why, "a token of the GitHub App stays valid until it expires");
                }
            }
        };
        if Handle::current().block_on(timeout(REVOKE_WITHIN, revoke)).is_err() {
            tracing::warn!("tokens of the GitHub App stay valid until they expire: no answer");
        }
    }

    /// A token of the GitHub App for `repo`; `None` if there is no App for it.
    fn app_token(&self, repo: &RepoUrl) -> Result<Option<String>> {
        let Some((app, repository)) = self.config.app_for(repo) else { return Ok(None) };
        let known = lock(&self.made).iter().rev().find_map(|made| {
            let is_it = made.repository == repository && made.at.elapsed() < RENEW_AFTER;
            is_it.then(|| made.token.clone())
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let token = self.make_token(app, repo, &repository)?;
        self.remember(repository, &token);
        Ok(token)
    }

    fn remember(&self, repository: AppRepository, token: &Option<String>) {
        let made = Made { repository, token: token.clone(), at: Instant::now() };
        lock(&self.made).push(made);
    }

    fn make_token(
        &self,
        app: &GitHubApp,
        repo: &RepoUrl,
        repository: &AppRepository,
    ) -> Result<Option<String>> {
        self.monitor.check_stop()?;
        let stop = &self.monitor.stop;
        Handle::current().block_on(async {
            let asked = app::make(app, self.connector, repo, repository, self.need);
            let mut asked = std::pin::pin!(asked);
            tokio::select! {
                biased;
                made = &mut asked => made,
                _ = stop.requested() => {
                    // One that is on its way is there already, and has to be revoked.
                    if let Ok(Ok(token)) = timeout(ANSWER_WITHIN, asked).await {
                        self.remember(repository.clone(), &token);
                    }
                    Err(Failure::Stopped)
                }
            }
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host without its port.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
        _ => host,
    }
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
    /// The logins `config` and the URL itself have for `repo`: those of the URL come first, and those for one repository before
    /// those for a host.
    pub(super) fn new(config: &Config, repo: &RepoUrl) -> Self {
        let mut list = Vec::new();
        if matches!(repo.scheme(), Scheme::Http | Scheme::Https) {
            let (user, password) = repo.credentials();
            if user.is_some() || password.is_some() {
                list.push(Source::Given(Login {
                    user: user.unwrap_or(TOKEN_USER).into(),
                    password: password.unwrap_or_default().into(),
                }));
            }
            if config.app_for(repo).is_some() {
                list.push(Source::App);
            }
            if let Some(token) = &config.token
                && config.is_credential_host(repo.host())
            {
                let password = token.expose().into();
                list.push(Source::Given(Login { user: TOKEN_USER.into(), password }));
            }
        }
        let is_private = Origin::of(repo.address()).is_some_and(|origin| origin.is_private());
        let withheld = !is_private && !list.is_empty();
        if withheld {
            list.clear();
        }
        Self { list, withheld }
    }

    /// Those of the secrets that may be sent to `repo` which are known from the start.
    fn secrets(config: &Config, repo: &RepoUrl) -> Vec<String> {
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
        let list = logins.list.iter().map(|it| match it {
            Source::Given(login) => format!("{}:{}", login.user, login.password),
            Source::App => "app".to_owned(),
        });
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
