//! GitHub's API, as far as this project asks it: GitHub Apps and pull requests, beside the repositories of a [`GitServer`].
//!
//! No test can reach GitHub. This stand-in refuses requests that the published descriptions do not allow
//! (<https://github.com/github/rest-api-description>: unknown fields, other values, missing headers), and answers with the shapes
//! of their examples. It verifies the signature of the App with the public key, by openssl and not by the library that signed, and
//! the tokens that it makes open what GitHub's would: one repository, with their permissions, until they expire or are revoked.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{ApiRequest, GitServer, Verdict};

/// What stands before the paths of GitHub Enterprise's API.
const PREFIX: &str = "/api/v3";

/// GitHub's API at a server.
#[derive(Clone, Debug)]
pub struct GitHubApi {
    state: Arc<Mutex<State>>,
    /// The keys of the App, if there is one.
    keys: Arc<TempDir>,
}

#[derive(Debug)]
struct State {
    authority: String,
    app_id: String,
    public_key: PathBuf,
    /// By `owner/name`.
    installations: BTreeMap<String, Installation>,
    issued: Vec<IssuedToken>,
    /// Tokens that people have made, which may do everything.
    personal: Vec<String>,
    pulls: Vec<OpenPull>,
    requests: Vec<String>,
    /// Requests that the published descriptions do not allow.
    invalid: Vec<String>,
}

#[derive(Clone, Debug)]
struct Installation {
    id: u64,
    permissions: BTreeMap<String, String>,
    suspended: bool,
}

/// A token that was made for the App.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    /// The token.
    pub token: String,
    /// The `owner/name` that it opens.
    pub repository: String,
    /// Its permissions.
    pub permissions: BTreeMap<String, String>,
    /// Whether it was revoked.
    pub is_revoked: bool,
    /// Whether it has expired.
    pub is_expired: bool,
}

/// A pull request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenPull {
    /// The `owner/name` of the repository.
    pub repository: String,
    /// The branch that is to be merged.
    pub head: String,
    /// The branch that it goes to.
    pub base: String,
    /// Its title.
    pub title: String,
    /// Its text.
    pub body: String,
    /// Whether it is a draft.
    pub draft: bool,
}

/// The body of `apps/create-installation-access-token`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateToken {
    repositories: Option<Vec<String>>,
    permissions: Option<BTreeMap<String, Level>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Read,
    Write,
}

/// The body of `pulls/create`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreatePull {
    title: String,
    head: String,
    base: String,
    body: String,
    draft: bool,
}

/// The body of `pulls/update`, as far as it is used.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdatePull {
    body: String,
}

type Answer = (u16, Value);

impl GitHubApi {
    /// The API at `server`.
    ///
    /// # Panics
    /// If there is no room for the keys of an App.
    #[must_use]
    pub fn start(server: &GitServer) -> Self {
        let keys = TempDir::new().unwrap();
        let state = State {
            authority: server.address().to_string(),
            app_id: String::new(),
            public_key: keys.path().join("public.pem"),
            installations: BTreeMap::new(),
            issued: Vec::new(),
            personal: Vec::new(),
            pulls: Vec::new(),
            requests: Vec::new(),
            invalid: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let of_server = Arc::clone(&state);
        server.serve_api(move |request| lock(&of_server).answer(request));
        Self { state, keys: Arc::new(keys) }
    }

    /// Makes the key of the App `id`. `false` on a machine without openssl.
    ///
    /// # Panics
    /// If openssl cannot make one.
    #[must_use]
    pub fn register_app(&self, id: &str) -> bool {
        if Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_err() {
            return false;
        }
        let openssl = |arguments: &[&str], path: &Path| {
            let mut command = Command::new("openssl");
            let made = command.args(arguments).arg(path).stderr(Stdio::null()).output().unwrap();
            assert!(made.status.success(), "openssl {arguments:?}");
            made.stdout
        };
        // In the form in which GitHub hands keys out (PKCS #1).
        openssl(&["genrsa", "-traditional", "-out"], &self.key_file());
        let public = openssl(&["rsa", "-pubout", "-in"], &self.key_file());
        fs::write(self.keys.path().join("public.pem"), public).unwrap();
        lock(&self.state).app_id = id.to_owned();
        true
    }

    /// The file with the App's private key.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.keys.path().join("app.pem")
    }

    /// The App's private key, in PEM.
    #[must_use]
    pub fn key(&self) -> String {
        fs::read_to_string(self.key_file()).unwrap()
    }

    /// Installs the App on `owner/name`, with these permissions.
    pub fn install(&self, repository: &str, permissions: &[(&str, &str)]) {
        let own = |&(name, level): &(&str, &str)| (name.to_owned(), level.to_owned());
        let permissions = permissions.iter().map(own).collect();
        let mut state = lock(&self.state);
        let known = state.installations.get(repository).map(|it| it.id);
        let id = known.unwrap_or(4000 + state.installations.len() as u64);
        let installation = Installation { id, permissions, suspended: false };
        state.installations.insert(repository.to_owned(), installation);
    }

    /// Removes the installation on `owner/name`.
    pub fn uninstall(&self, repository: &str) {
        lock(&self.state).installations.remove(repository);
    }

    /// Suspends the installation on `owner/name`.
    pub fn suspend(&self, repository: &str) {
        lock(&self.state).installations.get_mut(repository).unwrap().suspended = true;
    }

    /// Adds a token of a person, which may do everything.
    pub fn add_token(&self, token: &str) {
        lock(&self.state).personal.push(token.to_owned());
    }

    /// Lets only those read and write the repository at `server` whose tokens allow it.
    pub fn protect(&self, server: &GitServer, repository: &str) {
        let (state, name) = (Arc::clone(&self.state), repository.to_owned());
        server.authorize(repository, move |login, writes| {
            let Some(token) = login.and_then(password) else { return Verdict::Unknown };
            lock(&state).judge(&token, &name, ("contents", if writes { "write" } else { "read" }))
        });
    }

    /// Makes a token without being asked.
    #[must_use]
    pub fn issue(&self, repository: &str, permissions: &[(&str, &str)]) -> String {
        let own = |&(name, level): &(&str, &str)| (name.to_owned(), level.to_owned());
        lock(&self.state).issue(repository, permissions.iter().map(own).collect())
    }

    /// Lets a token expire.
    pub fn expire(&self, token: &str) {
        let mut state = lock(&self.state);
        let found = state.issued.iter_mut().find(|it| it.token == token);
        found.unwrap().is_expired = true;
    }

    /// The tokens that were made.
    #[must_use]
    pub fn issued(&self) -> Vec<IssuedToken> {
        lock(&self.state).issued.clone()
    }

    /// The pull requests that were opened.
    #[must_use]
    pub fn pulls(&self) -> Vec<OpenPull> {
        lock(&self.state).pulls.clone()
    }

    /// What was asked, as `METHOD path`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state).requests.clone()
    }

    /// Makes sure that every request so far was one that GitHub documents.
    ///
    /// # Panics
    /// If one was not.
    #[track_caller]
    pub fn assert_valid(&self) {
        let invalid = lock(&self.state).invalid.clone();
        assert_eq!(invalid, [] as [String; 0]);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The password in the value of an `Authorization` header of git, if its user is that of tokens.
fn password(login: &str) -> Option<String> {
    let decoded = BASE64_STANDARD.decode(login.strip_prefix("Basic ")?).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    decoded.strip_prefix("x-access-token:").map(str::to_owned)
}

fn message(status: u16, text: &str) -> Answer {
    (
        status,
        json!({"message": text, "documentation_url": "https://docs.github.com/rest", "status": status.to_string()}),
    )
}

impl State {
    fn answer(&mut self, request: &ApiRequest) -> Answer {
        self.requests.push(format!("{} {}", request.method, request.path));
        let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
        let expected =
            [("accept", "application/vnd.github+json"), ("x-github-api-version", "2022-11-28")];
        for (name, value) in expected {
            if header(name) != Some(value) {
                self.invalid.push(format!("{}: {name}: {:?}", request.path, header(name)));
            }
        }
        if header("user-agent").is_none() {
            return message(403, "Request forbidden by administrative rules.");
        }
        let Some(bearer) = header("authorization").and_then(|it| it.strip_prefix("Bearer ")) else {
            return message(401, "Requires authentication");
        };
        let Some(path) = request.path.strip_prefix(PREFIX) else {
            return message(404, "Not Found");
        };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let as_app = matches!(parts.as_slice(), ["app", ..] | ["repos", _, _, "installation"]);
        if as_app && let Some(refusal) = self.refuse_jwt(bearer) {
            return refusal;
        }
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["repos", owner, name, "installation"]) => {
                self.installation(&format!("{owner}/{name}"))
            }
            ("POST", ["app", "installations", id, "access_tokens"]) => {
                self.create_token(id, &request.body)
            }
            ("DELETE", ["installation", "token"]) => self.revoke(bearer),
            (method, ["repos", owner, name, "pulls", rest @ ..]) => {
                let repository = format!("{owner}/{name}");
                match self.judge(bearer, &repository, ("pull_requests", "write")) {
                    Verdict::Accepted => {}
                    Verdict::Unknown => return message(401, "Bad credentials"),
                    Verdict::Forbidden => {
                        return message(403, "Resource not accessible by integration");
                    }
                }
                match (method, rest) {
                    ("GET", []) => self.list(&repository, query),
                    ("POST", []) => self.create_pull(&repository, &request.body),
                    ("PATCH", [number]) => self.update_pull(number, &request.body),
                    _ => message(404, "Not Found"),
                }
            }
            _ => message(404, "Not Found"),
        }
    }

    /// The refusal of a token that does not prove that the App asks.
    fn refuse_jwt(&mut self, jwt: &str) -> Option<Answer> {
        let undecodable = || Some(message(401, "A JSON web token could not be decoded"));
        let parts: Vec<&str> = jwt.split('.').collect();
        let decoded: Vec<_> =
            parts.iter().filter_map(|it| BASE64_URL_SAFE_NO_PAD.decode(it).ok()).collect();
        let [header, claims, signature] = decoded.as_slice() else { return undecodable() };
        let signed = format!("{}.{}", parts[0], parts[1]);
        let header: Value = serde_json::from_slice(header).unwrap_or_default();
        let claims: Value = serde_json::from_slice(claims).unwrap_or_default();
        let times = (claims["iat"].as_u64(), claims["exp"].as_u64());
        let (Some(iat), Some(exp)) = times else { return undecodable() };
        if header["alg"] != "RS256" || !self.is_signed(&signed, signature) {
            return undecodable();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        if exp <= now || exp > now + 600 {
            return Some(message(401, "'Expiration time' claim ('exp') is too far in the future"));
        }
        // GitHub refuses only the future, and advises a minute, against clocks that differ.
        if iat > now - 55 {
            self.invalid.push(format!("iat is not a minute ago: {iat}, {now}"));
        }
        let is_app = claims["iss"] == self.app_id.as_str();
        (!is_app).then(|| message(404, "Integration not found"))
    }

    fn is_signed(&self, signed: &str, signature: &[u8]) -> bool {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(signature).unwrap();
        let mut child = Command::new("openssl")
            .args(["dgst", "-sha256", "-verify"])
            .arg(&self.public_key)
            .arg("-signature")
            .arg(file.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(signed.as_bytes()).unwrap();
        child.wait().unwrap().success()
    }

    fn installation(&self, repository: &str) -> Answer {
        let Some(found) = self.installations.get(repository) else {
            return message(404, "Not Found");
        };
        let (owner, _) = repository.split_once('/').unwrap();
        let suspended = found.suspended.then_some("2026-01-01T00:00:00Z");
        let answer = json!({
            "id": found.id,
            "account": {"login": owner, "id": 1, "type": "Organization"},
            "access_tokens_url": format!("http://{}{PREFIX}/app/installations/{}/access_tokens", self.authority, found.id),
            "repository_selection": "selected",
            "app_id": 1, "target_id": 1, "target_type": "Organization",
            "permissions": found.permissions,
            "events": [],
            "suspended_at": suspended, "suspended_by": null,
        });
        (200, answer)
    }

    fn create_token(&mut self, id: &str, body: &Value) -> Answer {
        let asked: CreateToken = match serde_json::from_value(body.clone()) {
            Ok(asked) => asked,
            Err(error) => {
                self.invalid.push(format!("access_tokens: {error}: {body}"));
                return message(422, "Invalid request.");
            }
        };
        let mut installations = self.installations.iter();
        let Some((repository, found)) = installations.find(|(_, it)| it.id.to_string() == id)
        else {
            return message(404, "Not Found");
        };
        let repository = repository.clone();
        if found.suspended {
            return message(403, "This installation has been suspended");
        }
        let name = repository.split_once('/').unwrap().1;
        // Without the two, a token would open everything that the App may.
        let Some(permissions) = asked.permissions.filter(|it| !it.is_empty()) else {
            self.invalid.push(format!("access_tokens: all permissions: {body}"));
            return message(422, "Invalid request.");
        };
        if asked.repositories.as_deref() != Some(&[name.to_owned()]) {
            self.invalid.push(format!("access_tokens: other repositories: {body}"));
            return message(
                422,
                "There is at least one repository that does not exist or is not accessible to the parent installation.",
            );
        }
        let permissions: BTreeMap<String, String> = permissions
            .into_iter()
            .map(|(name, level)| {
                let level = match level {
                    Level::Read => "read",
                    Level::Write => "write",
                };
                (name, level.to_owned())
            })
            .collect();
        let is_granted = |(name, level): (&String, &String)| {
            found.permissions.get(name).is_some_and(|it| it == level || it == "write")
        };
        if !permissions.iter().all(is_granted) {
            return message(422, "The permissions requested are not granted to this installation.");
        }
        let token = self.issue(&repository, permissions.clone());
        let answer = json!({
            "token": token,
            "expires_at": "2099-01-01T00:00:00Z",
            "permissions": permissions,
            "repository_selection": "selected",
            "repositories": [{"id": 1, "name": name, "full_name": repository, "private": true}],
        });
        (201, answer)
    }

    fn issue(&mut self, repository: &str, permissions: BTreeMap<String, String>) -> String {
        let token = format!("ghs_{}", uuid::Uuid::new_v4().simple());
        self.issued.push(IssuedToken {
            token: token.clone(),
            repository: repository.to_owned(),
            permissions,
            is_revoked: false,
            is_expired: false,
        });
        token
    }

    fn revoke(&mut self, token: &str) -> Answer {
        match self.issued.iter_mut().find(|it| it.token == token && !it.is_revoked) {
            Some(found) => {
                found.is_revoked = true;
                (204, Value::Null)
            }
            None => message(401, "Bad credentials"),
        }
    }

    /// Whether `token` has a permission for a repository.
    fn judge(&self, token: &str, repository: &str, (name, level): (&str, &str)) -> Verdict {
        if self.personal.iter().any(|it| it == token) {
            return Verdict::Accepted;
        }
        let found = self.issued.iter().find(|it| it.token == token);
        match found.filter(|it| !it.is_revoked && !it.is_expired) {
            Some(found) if found.repository == repository => match found.permissions.get(name) {
                Some(granted) if granted == level || granted == "write" => Verdict::Accepted,
                _ => Verdict::Forbidden,
            },
            _ => Verdict::Unknown,
        }
    }

    fn pull_json(&self, index: usize) -> Value {
        let pull = &self.pulls[index];
        let number = index + 1;
        let url = format!("http://{}/{}/pull/{number}", self.authority, pull.repository);
        json!({"number": number, "html_url": url, "state": "open", "draft": pull.draft, "title": pull.title, "body": pull.body,
            "head": {"ref": pull.head}, "base": {"ref": pull.base}})
    }

    /// `pulls/list`.
    fn list(&mut self, repository: &str, query: &str) -> Answer {
        let values: BTreeMap<_, _> = url_pairs(query).collect();
        let value = |name: &str| values.get(name).cloned().unwrap_or_default();
        if values.keys().any(|it| !["state", "head", "base"].contains(&it.as_str())) {
            self.invalid.push(format!("pulls: unknown parameter: {query}"));
        }
        let owner = repository.split_once('/').unwrap().0;
        let found = self.pulls.iter().enumerate().filter(|(_, it)| {
            it.repository == repository
                && format!("{owner}:{}", it.head) == value("head")
                && it.base == value("base")
        });
        let found: Vec<_> = found.map(|(index, _)| self.pull_json(index)).collect();
        (200, found.into())
    }

    fn create_pull(&mut self, repository: &str, body: &Value) -> Answer {
        let CreatePull { title, head, base, body, draft } =
            match serde_json::from_value(body.clone()) {
                Ok(asked) => asked,
                Err(error) => {
                    self.invalid.push(format!("pulls: {error}: {body}"));
                    return message(422, "Invalid request.");
                }
            };
        if title.is_empty() {
            self.invalid.push("pulls: no title".to_owned());
        }
        let is_it =
            |it: &&OpenPull| it.repository == repository && it.head == head && it.base == base;
        if self.pulls.iter().any(|it| is_it(&it)) {
            let owner = repository.split_once('/').unwrap().0;
            let text = format!("A pull request already exists for {owner}:{head}.");
            let error = json!({"resource": "PullRequest", "code": "custom", "message": text});
            return (422, json!({"message": "Validation Failed", "errors": [error]}));
        }
        self.pulls.push(OpenPull {
            repository: repository.to_owned(),
            head,
            base,
            title,
            body,
            draft,
        });
        (201, self.pull_json(self.pulls.len() - 1))
    }

    fn update_pull(&mut self, number: &str, body: &Value) -> Answer {
        let index = number.parse::<usize>().ok().and_then(|it| it.checked_sub(1));
        let Some(index) = index.filter(|index| *index < self.pulls.len()) else {
            return message(404, "Not Found");
        };
        match serde_json::from_value(body.clone()) {
            Ok(UpdatePull { body }) => self.pulls[index].body = body,
            Err(error) => {
                self.invalid.push(format!("pulls: {error}: {body}"));
                return message(422, "Invalid request.");
            }
        }
        (200, self.pull_json(index))
    }
}

/// The parameters of a query.
fn url_pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    let decode =
        |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    query.split('&').filter_map(move |pair| {
        let (name, value) = pair.split_once('=')?;
        Some((decode(name), decode(value)))
    })
}
