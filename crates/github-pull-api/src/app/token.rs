//! Installation tokens: <https://docs.github.com/rest/apps/apps>.

use std::{collections::BTreeMap, time::SystemTime};

use ::http::{Method, StatusCode};
use contract::{Code, RepoUrl};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{GitHubApp, jwt};
use crate::{
    api::{Answer, Api, escaped},
    connector::Connector,
    failure::{Failure, Result, quote},
};

/// What all requests to GitHub say of themselves.
pub(crate) const HEADERS: [(&str, &str); 2] =
    [("accept", "application/vnd.github+json"), ("x-github-api-version", "2022-11-28")];
/// The longest token, in characters. GitHub does not say how long they get.
const LONGEST_TOKEN: usize = 4096;

/// A repository at GitHub, or GitHub Enterprise, and where its API is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AppRepository {
    /// The host of the API, with its port if that is not the scheme's default.
    pub(crate) authority: String,
    pub(crate) is_https: bool,
    /// What stands before each path.
    pub(crate) prefix: String,
    pub(crate) owner: String,
    pub(crate) name: String,
}

/// What a job does to its repositories. Its tokens allow that and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// It only reads them.
    Read,
    /// It pushes a branch.
    Write {
        /// And opens a pull request for it.
        pull_requests: bool,
        /// And may change what GitHub runs, which GitHub asks a permission of its own for.
        workflows: bool,
    },
}

/// The permissions of an installation or of a token, of those that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Permissions(BTreeMap<String, String>);

/// <https://docs.github.com/rest/apps/apps#get-a-repository-installation-for-the-authenticated-app>
#[derive(Debug, Deserialize)]
struct Installation {
    id: u64,
    permissions: Permissions,
    #[serde(default)]
    suspended_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Made {
    token: String,
}

impl Permissions {
    fn grants(&self, name: &str, level: &str) -> bool {
        self.0.get(name).is_some_and(|granted| {
            granted == level || granted == "admin" || (level, granted.as_str()) == ("read", "write")
        })
    }
}

impl Need {
    /// The permissions that a token takes, of those that the installation has.
    ///
    /// # Errors
    /// The one that it does not have.
    fn of(
        self,
        granted: &Permissions,
    ) -> std::result::Result<Permissions, (&'static str, &'static str)> {
        let (mut wanted, mut optional) = (vec![("metadata", "read")], None);
        match self {
            Self::Read => wanted.push(("contents", "read")),
            Self::Write { pull_requests, workflows } => {
                wanted.push(("contents", "write"));
                wanted.extend(pull_requests.then_some(("pull_requests", "write")));
                // Not every delivery that may change them does, and GitHub says itself when one does.
                optional = workflows.then_some(("workflows", "write"));
            }
        }
        if let Some(missing) = wanted.iter().find(|(name, level)| !granted.grants(name, level)) {
            return Err(*missing);
        }
        let all =
            wanted.into_iter().chain(optional.filter(|(name, level)| granted.grants(name, level)));
        Ok(Permissions(all.map(|(name, level)| (name.to_owned(), level.to_owned())).collect()))
    }
}

/// Makes a token for the one repository; `None` if the App is not installed on it.
///
/// # Errors
/// If GitHub gives none for another reason, in words for the caller.
pub(crate) async fn make(
    app: &GitHubApp,
    connector: &Connector,
    repo: &RepoUrl,
    repository: &AppRepository,
    need: Need,
) -> Result<Option<String>> {
    let jwt = jwt::sign(app, SystemTime::now()).map_err(|why| {
        Failure::told(Code::Internal, format!("the GitHub App's key cannot be used: {why}"))
    })?;
    let talk = Talk { api: repository.api(connector, jwt), repo };
    let AppRepository { owner, name, .. } = repository;
    let path = format!("/repos/{}/{}/installation", escaped(owner), escaped(name));
    let answer = talk.ask(Method::GET, &path, None).await?;
    let installation: Installation = match answer.status.as_u16() {
        200 => talk.read(&answer)?,
        // Not installed, not there at all, or moved: where to, only those may know who may see it.
        404 | 300..=399 => return Ok(None),
        _ => return Err(talk.refused(&answer)),
    };
    if installation.suspended_at.is_some() {
        let sentence = format!(
            "the GitHub App is suspended on {repo}: have the owner of the repository lift that, then send the job again"
        );
        return Err(Failure::told(Code::AuthenticationFailed, sentence));
    }
    let permissions = need.of(&installation.permissions).map_err(|(name, level)| {
        let sentence = format!(
            "the GitHub App is installed on {repo} without the permission '{name}: {level}': grant it in the settings of the \
             App, and have the owner of the repository accept it"
        );
        Failure::told(Code::AuthenticationFailed, sentence)
    })?;
    let body = json!({"repositories": [name], "permissions": permissions});
    let path = format!("/app/installations/{}/access_tokens", installation.id);
    let answer = talk.ask(Method::POST, &path, Some(&body)).await?;
    match answer.status {
        StatusCode::CREATED => {}
        StatusCode::NOT_FOUND => return Ok(None),
        _ => return Err(talk.refused(&answer)),
    }
    let Made { token } = talk.read(&answer)?;
    // git gets it in a line of its own.
    let is_token = (1..=LONGEST_TOKEN).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token { Ok(Some(token)) } else { Err(talk.unclear("it is no token")) }
}

/// Revokes a token.
///
/// # Errors
/// Why it stays valid until it expires, which takes an hour.
pub(crate) async fn revoke(
    connector: &Connector,
    repository: &AppRepository,
    token: String,
) -> std::result::Result<(), String> {
    let api = repository.api(connector, token);
    let answer = api.ask(Method::DELETE, "/installation/token", &HEADERS, None).await?;
    match answer.status {
        StatusCode::NO_CONTENT => Ok(()),
        status => Err(format!("HTTP {}: {}", status.as_u16(), answer.error_words())),
    }
}

impl AppRepository {
    fn api<'a>(&self, connector: &'a Connector, bearer: String) -> Api<'a> {
        Api {
            connector,
            authority: self.authority.clone(),
            is_https: self.is_https,
            prefix: self.prefix.clone(),
            authorization: format!("Bearer {bearer}"),
            secrets: vec![bearer],
        }
    }
}

/// A conversation as the App.
struct Talk<'a> {
    api: Api<'a>,
    repo: &'a RepoUrl,
}

impl Talk<'_> {
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let (repo, host) = (self.repo, &self.api.authority);
        self.api.ask(method, path, &HEADERS, body).await.map_err(|why| {
            let sentence = format!(
                "the API of {host} does not answer ({why}), so there is no token for {repo}: send the job again later"
            );
            Failure::told(Code::RepositoryUnreachable, sentence)
        })
    }

    fn read<T: serde::de::DeserializeOwned>(&self, answer: &Answer) -> Result<T> {
        // What was not understood may be a token.
        answer.json().map_err(|_| self.unclear("it is not what GitHub documents"))
    }

    fn unclear(&self, why: &str) -> Failure {
        let sentence = format!(
            "the answer of the API of {} about the GitHub App cannot be understood ({why}): check GIT_FORGES",
            self.api.authority
        );
        Failure::told(Code::RepositoryUnreachable, sentence)
    }

    fn refused(&self, answer: &Answer) -> Failure {
        let said = answer.error_words();
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let (status, host, repo) = (answer.status.as_u16(), &self.api.authority, self.repo);
        let is_limit = status == 429 || (status == 403 && answer.says("rate limit"));
        let (code, what) = match status {
            401 => (
                Code::AuthenticationFailed,
                "check GITHUB_APP_ID, GITHUB_APP_PRIVATE_KEY_SECRET and the clock of this machine",
            ),
            400..=499 if !is_limit => (
                Code::AuthenticationFailed,
                "check the permissions of the App and its installation on the repository",
            ),
            _ => (Code::RepositoryUnreachable, "send the job again later"),
        };
        let sentence = quote(
            &format!(
                "{host} gives the GitHub App no token for {repo} (HTTP {status}{said}): {what}"
            ),
            &self.api.secrets,
        );
        Failure::told(code, sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(pairs: &[(&str, &str)]) -> Permissions {
        let own = |&(name, level): &(&str, &str)| (name.to_owned(), level.to_owned());
        Permissions(pairs.iter().map(own).collect())
    }

    #[test]
    fn a_token_gets_what_its_job_needs_and_no_more() {
        let (read, write) = (("metadata", "read"), ("contents", "write"));
        let (pulls, flows) = (("pull_requests", "write"), ("workflows", "write"));
        let all = permissions(&[read, write, pulls, flows, ("issues", "write")]);
        let need = |pull_requests, workflows| Need::Write { pull_requests, workflows };
        for (need, expected) in [
            (Need::Read, vec![read, ("contents", "read")]),
            (need(false, false), vec![read, write]),
            (need(true, false), vec![read, write, pulls]),
            (need(true, true), vec![read, write, pulls, flows]),
        ] {
            assert_eq!(need.of(&all), Ok(permissions(&expected)), "{need:?}");
        }
        let few = permissions(&[read, ("contents", "read")]);
        assert_eq!(Need::Read.of(&few), Ok(few.clone()));
        assert_eq!(need(true, false).of(&few), Err(write));
        assert_eq!(need(true, false).of(&permissions(&[read, write])), Err(pulls));
        // Only GitHub knows whether it is needed.
        let granted = permissions(&[read, write]);
        assert_eq!(need(false, true).of(&granted), Ok(granted.clone()));
    }
}
