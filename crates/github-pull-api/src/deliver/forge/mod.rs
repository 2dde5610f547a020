//! Pull requests: which software runs on a git host, and how it is asked.
//!
//! Forges are asked over their REST APIs, with the credentials of the repository. GitLab also takes its orders as options of a
//! push, so that it needs no token then; its API is asked if the push did not say where the merge request is.

mod gitea;
mod github;
mod gitlab;
mod http;

use std::collections::BTreeMap;

use contract::{Code, Deliver, DeliveryBranch, RepoUrl, Scheme};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use self::http::Api;
use super::{commit::Words, refuse, settings::DeliverSettings, source::Source};
use crate::{
    api::{self, escaped},
    app::AppRepository,
    drive::Site,
    failure::{Failure, Result},
    remote::without_port,
};

/// The software of a git host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    GitHub,
    GitLab,
    /// Forgejo has the same API.
    Gitea,
}

/// Which software runs on which host.
#[derive(Clone, Debug)]
pub(crate) struct Forges(BTreeMap<String, Kind>);

impl Default for Forges {
    fn default() -> Self {
        let known = [
            ("github.com", Kind::GitHub),
            ("gitlab.com", Kind::GitLab),
            ("codeberg.org", Kind::Gitea),
            ("gitea.com", Kind::Gitea),
        ];
        Self(known.map(|(host, kind)| (host.to_owned(), kind)).into())
    }
}

impl Forges {
    /// The well-known hosts and those in `entries`: `host=github`, with the port that its URLs have.
    ///
    /// # Errors
    /// What is wrong with an entry.
    pub(super) fn parse(entries: &[String]) -> std::result::Result<Self, String> {
        let mut forges = Self::default();
        for entry in entries {
            let wrong =
                || format!("'{entry}': write host=github, host=gitlab, host=gitea or host=forgejo");
            let (host, kind) = entry.split_once('=').ok_or_else(wrong)?;
            let kind = match kind.trim() {
                "github" => Kind::GitHub,
                "gitlab" => Kind::GitLab,
                "gitea" | "forgejo" => Kind::Gitea,
                _ => return Err(wrong()),
            };
            let host = host.trim().to_ascii_lowercase();
            if host.is_empty() || host.contains(['/', '@', ' ']) {
                return Err(wrong());
            }
            forges.0.insert(host, kind);
        }
        Ok(forges)
    }

    /// The forge of `repo`.
    ///
    /// # Errors
    /// If it is not known what runs there, or the URL has no owner and name.
    pub(super) fn of(&self, repo: &RepoUrl) -> Result<Forge> {
        let Some(kind) = self.kind_of(repo) else {
            let host = repo.host();
            let host = if host.is_empty() { "this machine" } else { host };
            return refuse(
                Code::InvalidField,
                format!(
                    "'mode': no pull request can be opened, because it is not known which software runs on {host}: set \
                     GIT_FORGES={host}=github, or gitlab, gitea or forgejo, or deliver a branch"
                ),
            );
        };
        Forge::at(kind, repo.path()).ok_or_else(|| {
            let sentence =
                format!("'mode': {repo} has no owner and name that a pull request could be for");
            Failure::told(Code::InvalidField, sentence)
        })
    }

    /// The repository as its GitHub knows it; `None` if it is not known that GitHub runs on the host.
    pub(crate) fn github(&self, repo: &RepoUrl) -> Option<AppRepository> {
        let kind = self.kind_of(repo).filter(|kind| *kind == Kind::GitHub)?;
        let Forge { prefix, owner, repository: name, .. } = Forge::at(kind, repo.path())?;
        let (authority, prefix) = github_api(authority_of(repo), &prefix);
        let is_https = repo.scheme() != Scheme::Http;
        Some(AppRepository { authority, is_https, prefix, owner, name })
    }

    fn kind_of(&self, repo: &RepoUrl) -> Option<Kind> {
        let host = repo.host();
        let over_ssh = || self.0.get(without_port(host)).filter(|_| repo.scheme() == Scheme::Ssh);
        self.0.get(host).or_else(over_ssh).copied()
    }
}

/// The host of an API, which is where that of https is.
fn authority_of(repo: &RepoUrl) -> &str {
    match repo.scheme() {
        Scheme::Http | Scheme::Https => repo.host(),
        _ => without_port(repo.host()),
    }
}

/// The host of GitHub's API, and what stands before its paths.
fn github_api(authority: &str, prefix: &str) -> (String, String) {
    match (authority, prefix) {
        ("github.com", _) => ("api.github.com".to_owned(), String::new()),
        (_, "") => (authority.to_owned(), "/api/v3".to_owned()),
        _ => (authority.to_owned(), format!("/{prefix}/api/v3")),
    }
}

/// A repository at a forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Forge {
    kind: Kind,
    /// What stands before the owner in paths.
    prefix: String,
    owner: String,
    repository: String,
}

/// A pull request to be.
struct Wanted<'a> {
    head: &'a str,
    base: &'a str,
    title: &'a str,
    /// Without the mark of [`signed`].
    body: &'a str,
    draft: bool,
}

/// A pull request that is open.
struct Open {
    number: u64,
    url: String,
    body: String,
}

/// A pull request, as GitHub and Gitea describe it.
#[derive(Debug, Deserialize)]
struct Pull {
    number: u64,
    html_url: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    body: Option<String>,
    head: Branch,
    base: Branch,
}

#[derive(Debug, Deserialize)]
struct Branch {
    #[serde(rename = "ref")]
    name: String,
}

impl Pull {
    /// Whether it is for the same branches.
    fn is_for(&self, wanted: &Wanted<'_>) -> bool {
        self.head.name == wanted.head && self.base.name == wanted.base
    }
}

impl From<Pull> for Open {
    fn from(pull: Pull) -> Self {
        Self { number: pull.number, url: pull.html_url, body: pull.body.unwrap_or_default() }
    }
}

impl Open {
    /// The new text for it, unless somebody else has changed the text that it has.
    fn new_body(&self, wanted: &Wanted<'_>) -> Option<String> {
        is_signed(&self.body).then(|| signed(wanted.body))
    }
}

impl Forge {
    /// The repository at this path; `None` if it has no owner or no name.
    fn at(kind: Kind, path: &str) -> Option<Self> {
        let (above, repository) = path.rsplit_once('/').unwrap_or(("", path));
        let (prefix, owner) = above.rsplit_once('/').unwrap_or(("", above));
        let own = |text: &str| text.to_owned();
        let (prefix, owner, repository) = (own(prefix), own(owner), own(repository));
        (!owner.is_empty() && !repository.is_empty()).then_some(Self {
            kind,
            prefix,
            owner,
            repository,
        })
    }

    /// The repository with what it takes to ask its forge.
    ///
    /// # Errors
    /// If it takes a token, and there is none.
    pub(super) fn connect<'a>(self, site: &'a Site<'_>, source: &Source) -> Result<Asked<'a>> {
        let api = self.api(site, source)?;
        if api.is_none() && self.kind != Kind::GitLab {
            return refuse(Code::AuthenticationFailed, no_token(site, &source.repo));
        }
        Ok(Asked { forge: self, api })
    }

    /// The API, with the credentials that git would use; `None` if there are none.
    fn api<'a>(&self, site: &'a Site<'_>, source: &Source) -> Result<Option<Api<'a>>> {
        let repo = &source.repo;
        let Some(token) = site.access.api_token(repo)? else { return Ok(None) };
        // Plain http is for loopback only; there is no token for others.
        let is_https = repo.scheme() != Scheme::Http;
        let authority = authority_of(repo);
        let (authority, prefix, scheme) = match self.kind {
            Kind::GitHub => {
                let (authority, prefix) = github_api(authority, &self.prefix);
                (authority, prefix, "Bearer")
            }
            // What stands before the owner are the groups above it.
            Kind::GitLab => (authority.to_owned(), "/api/v4".to_owned(), "Bearer"),
            Kind::Gitea if self.prefix.is_empty() => {
                (authority.to_owned(), "/api/v1".to_owned(), "token")
            }
            Kind::Gitea => (authority.to_owned(), format!("/{}/api/v1", self.prefix), "token"),
        };
        Ok(Some(Api(api::Api {
            connector: site.access.connector,
            authority,
            is_https,
            prefix,
            authorization: format!("{scheme} {token}"),
            secrets: site.access.secrets(repo),
        })))
    }
}

/// What to do without a token for the API.
fn no_token(site: &Site<'_>, repo: &RepoUrl) -> String {
    let (host, how) = (without_port(repo.host()), site.access.how_to_give_credentials(repo));
    format!("there is no token for the API of {host}: {how}, then deliver again")
}

/// A forge that can be asked.
pub(super) struct Asked<'a> {
    forge: Forge,
    api: Option<Api<'a>>,
}

impl Asked<'_> {
    /// What the push says about the pull request, if this forge is asked that way. A branch that is there already may have one,
    /// whose text people may have changed.
    pub(super) fn push_options(
        &self,
        base: &DeliveryBranch,
        deliver: &Deliver,
        words: &Words,
        source: &Source,
        settings: &DeliverSettings,
        is_new: bool,
    ) -> Vec<String> {
        if self.forge.kind != Kind::GitLab {
            return Vec::new();
        }
        let body = is_new.then(|| body(words, source, settings));
        let text =
            body.as_ref().map(|(text, link)| (words.title.as_str(), text.as_str(), link.as_str()));
        gitlab::push_options(base.as_str(), text, deliver.draft)
    }

    /// Opens the pull request from `head` to `base`, or updates the one that is open. Returns its URL, if the forge has named one
    /// that can be passed on. `said` is what the host answered to the push, if there was one. Blocks; call it within a runtime.
    ///
    /// # Errors
    /// If the forge refuses it; the branch is there all the same.
    pub(super) fn open(
        &self,
        site: &Site<'_>,
        source: &Source,
        deliver: &Deliver,
        (head, base): (&DeliveryBranch, &DeliveryBranch),
        words: &Words,
        said: Option<&str>,
    ) -> Result<Option<String>> {
        let forge = &self.forge;
        let secrets = site.access.secrets(&source.repo);
        let checked = |url: &str| {
            let link = link(url, &source.repo, &secrets);
            if link.is_none() {
                let host = without_port(source.repo.host());
                site.monitor.message(format!(
                    "The forge has named an address for the pull request that is not on {host}: look for it there"
                ));
            }
            link
        };
        if forge.kind == Kind::GitLab
            && let Some(url) = gitlab::url_in(said.unwrap_or_default())
        {
            return Ok(checked(&url));
        }
        let Some(api) = &self.api else {
            let sentence = format!(
                "the branch is pushed, but the host has not said where its merge request is, and {}",
                no_token(site, &source.repo)
            );
            return refuse(Code::PullRequestFailed, sentence);
        };
        site.monitor.message("Opening the pull request");
        let (text, link) = body(words, source, &site.config.deliver);
        let wanted = Wanted {
            head: head.as_str(),
            base: base.as_str(),
            title: &words.title,
            body: &format!("{text}{link}"),
            draft: deliver.draft,
        };
        let (owner, repository) = (forge.owner.as_str(), forge.repository.as_str());
        let asked = async {
            match forge.kind {
                Kind::GitHub => github::open(api, owner, repository, &wanted).await,
                Kind::Gitea => gitea::open(api, owner, repository, &wanted).await,
                Kind::GitLab => gitlab::open(api, source.repo.path(), &wanted).await,
            }
        };
        let stop = &site.monitor.stop;
        let opened = Handle::current().block_on(async {
            tokio::select! {
                biased;
                _ = stop.requested() => Err(Failure::Stopped),
                opened = asked => opened,
            }
        });
        Ok(checked(&opened?))
    }
}

/// The address of a pull request, as far as it can be believed: at the host of the repository, and without secrets, which a host
/// might repeat there.
fn link(url: &str, repo: &RepoUrl, secrets: &[String]) -> Option<String> {
    const LONGEST: usize = 2048;
    let parsed = url::Url::parse(url).ok()?;
    let host = parsed.host_str()?;
    let is_there = host.eq_ignore_ascii_case(without_port(repo.host()));
    let is_plain = matches!(parsed.scheme(), "http" | "https") && parsed.username().is_empty();
    let has_secret = secrets.iter().any(|it| url.contains(it) || parsed.as_str().contains(it));
    let is_good = is_there && is_plain && !has_secret && parsed.as_str().len() <= LONGEST;
    is_good.then(|| parsed.to_string())
}

/// The text of a pull request: what the request or the agent says, and a link back.
fn body(words: &Words, source: &Source, settings: &DeliverSettings) -> (String, String) {
    let job = source.job;
    let link = match &settings.public_url {
        Some(url) => format!("[{job}]({url}/api/jobs/{job})"),
        None => job.to_string(),
    };
    let mut text = words.body.clone();
    if let Some((verified, output)) = &source.verification {
        let gap = if text.is_empty() { "" } else { "\n\n" };
        text.push_str(&format!("{gap}{}", verification(*verified, output)));
    }
    let line = if text.is_empty() { "" } else { "\n\n---\n" };
    (text, format!("{line}Job {link}"))
}

/// The outcome of the commands that checked the result, with the end of what they printed.
fn verification(verified: bool, output: &str) -> String {
    const LONGEST: usize = 3000;
    let what =
        if verified { "Verified: the checks pass." } else { "**Not verified: a check fails.**" };
    let output: String =
        output.chars().filter(|c| !c.is_control() || "\n\t".contains(*c)).collect();
    let output = output.trim_end();
    let from = output.char_indices().map(|(at, _)| at).find(|at| output.len() - at <= LONGEST);
    let output = output.get(from.unwrap_or(0)..).unwrap_or_default();
    if output.is_empty() {
        return what.to_owned();
    }
    // Longer than any in it, so that nothing in it ends the block.
    let longest = output.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{what}\n\n{fence}text\n{output}\n{fence}")
}

/// What stands before the digest of a text of ours.
const MARK: &str = "\n\n<!-- workflow-stack ";

/// The text with a mark by which it is known again, invisible in Markdown.
fn signed(body: &str) -> String {
    format!("{body}{MARK}{} -->", digest(body))
}

/// Whether a text is as [`signed`] made it, so that nobody's words are lost with it.
fn is_signed(body: &str) -> bool {
    let body = body.replace("\r\n", "\n");
    let parts = body.trim_end().rsplit_once(MARK);
    parts.is_some_and(|(text, end)| end.strip_suffix(" -->") == Some(&digest(text)))
}

/// Enough of a digest to notice changes.
fn digest(text: &str) -> String {
    Sha256::digest(text.trim_end()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use contract::Policy;

    use super::*;

    fn repo(url: &str) -> RepoUrl {
        RepoUrl::parse(url, &Policy::default()).unwrap()
    }

    #[test]
    fn hosts_are_known_or_named() {
        let named =
            ["git.corp:8443=gitlab", " GHE.corp = github", "code.corp=forgejo"].map(str::to_owned);
        let forges = Forges::parse(&named).unwrap();
        for (url, kind, prefix, owner) in [
            ("https://github.com/o/r.git", Kind::GitHub, "", "o"),
            ("git@github.com:o/r", Kind::GitHub, "", "o"),
            ("https://gitlab.com/a/b/r", Kind::GitLab, "a", "b"),
            ("https://codeberg.org/o/r", Kind::Gitea, "", "o"),
            ("https://git.corp:8443/o/r", Kind::GitLab, "", "o"),
            ("https://ghe.corp/o/r", Kind::GitHub, "", "o"),
            ("ssh://git@code.corp:2222/o/r", Kind::Gitea, "", "o"),
            ("https://code.corp/sub/o/r", Kind::Gitea, "sub", "o"),
        ] {
            let forge = forges.of(&repo(url)).unwrap();
            let found = (forge.kind, forge.prefix.as_str(), forge.owner.as_str());
            assert_eq!((found, forge.repository.as_str()), ((kind, prefix, owner), "r"), "{url}");
        }
        for (url, api) in [
            ("https://github.com/o/r.git", Some("https api.github.com ")),
            ("git@github.com:o/r", Some("https api.github.com ")),
            ("https://ghe.corp/o/r", Some("https ghe.corp /api/v3")),
            ("https://ghe.corp/sub/o/r", Some("https ghe.corp /sub/api/v3")),
            ("http://ghe.corp/o/r", Some("http ghe.corp /api/v3")),
            ("https://gitlab.com/o/r", None),
            ("https://github.com.evil.example/o/r", None),
            ("https://github.com/r", None),
        ] {
            let found = forges.github(&repo(url)).map(|it| {
                assert_eq!((it.owner.as_str(), it.name.as_str()), ("o", "r"));
                let scheme = if it.is_https { "https" } else { "http" };
                format!("{scheme} {} {}", it.authority, it.prefix)
            });
            assert_eq!(found.as_deref(), api, "{url}");
        }
        for url in ["https://example.org/o/r", "https://github.com:444/o/r", "https://github.com/r"]
        {
            let Failure::Told { code, sentence } = forges.of(&repo(url)).unwrap_err() else {
                panic!()
            };
            assert_eq!(code, Code::InvalidField);
            assert!(sentence.contains("GIT_FORGES") || sentence.contains("owner"), "{sentence}");
        }
        for bad in ["git.corp", "git.corp=cvs", "=github", "https://x=github"] {
            assert!(Forges::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_that_are_passed_on() {
        let (https, ssh) = (repo("https://git.corp:8443/o/r"), repo("ssh://git@git.corp:2222/o/r"));
        let secrets = ["t0ken".to_owned()];
        for good in ["https://git.corp:8443/o/r/pulls/1", "http://GIT.corp/o/r/pulls/1"] {
            for repo in [&https, &ssh] {
                assert!(link(good, repo, &secrets).is_some(), "{good}");
            }
        }
        let long = format!("https://git.corp/{}", "x".repeat(2048));
        for bad in [
            "javascript:alert(1)",
            "https://evil.example/o/r/pulls/1",
            "https://git.corp.evil.example/1",
            "https://git.corp/o/r/pulls/1?t0ken",
            "https://x@git.corp/1",
            "git.corp/1",
            &long,
        ] {
            assert_eq!(link(bad, &https, &secrets), None, "{bad}");
        }
    }

    #[test]
    fn the_outcome_of_checks_stays_in_its_block() {
        assert_eq!(verification(true, " \n"), "Verified: the checks pass.");
        assert_eq!(
            verification(false, "```\n# no\u{1b}[0m"),
            "**Not verified: a check fails.**\n\n````text\n```\n# no[0m\n````"
        );
        let long = verification(true, &"é".repeat(4000));
        assert!(long.len() < 3100, "{}", long.len());
    }

    #[test]
    fn a_text_that_somebody_has_changed_is_known() {
        let text = signed("Why\n\n---\nJob 1");
        assert!(is_signed(&text) && is_signed(&format!("{}\r\n", text.replace('\n', "\r\n"))));
        for changed in [text.replace("Why", "Why not"), format!("{text}\nMore"), "Why".into()] {
            assert!(!is_signed(&changed), "{changed}");
        }
    }
}
