//! A git server: the real `git http-backend` behind hyper, with faults on demand.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    git_repo::{BareRepos, Entry, ISOLATION, key},
    host::{Body, Host, full, respond},
    lfs::{self, LfsFiles},
};

/// How much of a stalled response is sent before it stalls, by default.
const STALL_AFTER: usize = 8;

/// A fault in all further requests for a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Sends the headers and eight bytes of the real response, and then nothing more.
    Stall,
    /// Sends this many bytes of each response, and then nothing more.
    StallAfter(usize),
    /// Answers with this status and a short text.
    Status(u16),
    /// Sends this many bytes of each response, and then closes the connection.
    CloseMidway(usize),
    /// Delays the beginning of each response by this time.
    Delay(Duration),
    /// Answers 302 with the same request below this repository URL.
    RedirectTo(String),
}

/// A request for the API of the host.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    /// The method.
    pub method: String,
    /// The path, with the query.
    pub path: String,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body; `null` if there is none.
    pub body: serde_json::Value,
}

/// What a server says to a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may do that.
    Accepted,
    /// Nobody has it: 401.
    Unknown,
    /// It may do less: 403.
    Forbidden,
}

/// Decides about the value of an `Authorization` header, and whether it may write if that is asked.
#[derive(Clone)]
struct Judge(Arc<Judging>);

type Judging = dyn Fn(Option<&str>, bool) -> Verdict + Send + Sync;

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Judge")
    }
}

type Api = dyn Fn(&ApiRequest) -> (u16, serde_json::Value) + Send + Sync;

/// A git server on a free loopback port. When dropped, it stops and deletes its repositories.
#[derive(Debug)]
pub struct GitServer {
    host: Host,
    shared: Arc<Shared>,
}

struct Shared {
    root: TempDir,
    repos: BareRepos,
    records: Mutex<HashMap<String, Record>>,
    api: Mutex<Option<Arc<Api>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("root", &self.root).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default)]
struct Record {
    requests: usize,
    authorization: Vec<String>,
    judge: Option<Judge>,
    fault: Option<Fault>,
    old_protocol: bool,
    lfs: LfsFiles,
}

impl GitServer {
    /// Starts a server without repositories.
    pub async fn start() -> Self {
        let root = TempDir::new().expect("failed to create a temporary directory");
        let repos = BareRepos::new(root.path().to_owned());
        let shared =
            Arc::new(Shared { root, repos, records: Mutex::default(), api: Mutex::default() });
        let of_host = Arc::clone(&shared);
        let host = Host::start(move |request| Arc::clone(&of_host).serve(request));
        Self { host, shared }
    }

    /// The URL of a repository. `name` and `name.git` are the same one, as on the well-known hosts.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{}", self.host.address(), name.trim_start_matches('/'))
    }

    /// The URL with a user and a password in it.
    #[must_use]
    pub fn url_with_credentials(&self, name: &str, user: &str, password: &str) -> String {
        format!("http://{user}:{password}@{}/{name}", self.host.address())
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.host.address()
    }

    /// The path of the bare repository.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.shared.repos.directory(name)
    }

    /// Creates a repository with one commit on `main`. Returns the commit's ID.
    pub fn create_repo(&self, name: &str, files: &[(&str, &str)]) -> String {
        self.shared.repos.init(name);
        self.commit(name, "main", files)
    }

    /// Creates a repository without commits.
    pub fn create_empty_repo(&self, name: &str) {
        self.shared.repos.init(name);
    }

    /// Creates a repository with one commit of `files` files of `bytes_each` bytes that do not
    /// compress. Returns the commit's ID.
    pub fn create_big_repo(&self, name: &str, files: usize, bytes_each: usize) -> String {
        self.shared.repos.init(name);
        self.shared.repos.commit_noise(name, files, bytes_each)
    }

    /// Adds a commit to `branch`, which starts at `main` if it is new. Returns the commit's ID.
    pub fn commit(&self, name: &str, branch: &str, files: &[(&str, &str)]) -> String {
        self.shared.repos.commit(name, branch, &as_files(files))
    }

    /// Adds a commit with one symbolic link. Returns the commit's ID.
    pub fn commit_symlink(&self, name: &str, branch: &str, path: &str, target: &str) -> String {
        self.shared.repos.commit(name, branch, &[(path, Entry::Symlink(target))])
    }

    /// Adds a commit with one executable file. Returns the commit's ID.
    pub fn commit_executable(&self, name: &str, branch: &str, path: &str, text: &str) -> String {
        self.shared.repos.commit(name, branch, &[(path, Entry::Executable(text))])
    }

    /// Rewrites history: replaces the last commit of the branch. Returns the new commit's ID.
    pub fn force_commit(&self, name: &str, branch: &str, files: &[(&str, &str)]) -> String {
        self.shared.repos.amend(name, branch, &as_files(files))
    }

    /// Deletes a branch.
    pub fn delete_branch(&self, name: &str, branch: &str) {
        self.shared.repos.delete_branch(name, branch);
    }

    /// The last commit of a branch.
    #[must_use]
    pub fn head(&self, name: &str, branch: &str) -> Option<String> {
        self.shared.repos.resolve(name, branch)
    }

    /// From now on, answers 401 to every request for the repository without this user and password.
    /// This comes before any fault.
    pub fn set_auth(&self, name: &str, user: &str, password: &str) {
        let expected = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        self.authorize(name, move |login, _| {
            if login == Some(&expected) { Verdict::Accepted } else { Verdict::Unknown }
        });
    }

    /// From now on, `judge` decides about each request for the repository: by the `Authorization` header, and whether the request
    /// writes. This comes before any fault.
    pub fn authorize(
        &self,
        name: &str,
        judge: impl Fn(Option<&str>, bool) -> Verdict + Send + Sync + 'static,
    ) {
        self.shared.with_record(name, |record| record.judge = Some(Judge(Arc::new(judge))));
    }

    /// From now on, accepts pushes to the repository; before, they are answered with 403.
    pub fn allow_push(&self, name: &str) {
        self.shared.repos.configure(name, "http.receivepack", "true");
        self.shared.repos.configure(name, "receive.advertisePushOptions", "true");
    }

    /// Sets a value in the repository's own configuration.
    pub fn configure(&self, name: &str, key: &str, value: &str) {
        self.shared.repos.configure(name, key, value);
    }

    /// Installs a hook of the repository, a shell script.
    pub fn set_hook(&self, name: &str, hook: &str, script: &str) {
        let hooks = self.path(name).join("hooks");
        std::fs::create_dir_all(&hooks).expect("failed to create the directory of hooks");
        crate::write_program(&hooks.join(hook), &format!("#!/bin/sh\n{script}\n"));
    }

    /// Runs git in the repository, and returns what it prints.
    pub fn git(&self, name: &str, arguments: &[&str]) -> String {
        self.shared.repos.run(name, arguments)
    }

    /// From now on, answers requests for paths below `/api/` with a status and JSON.
    pub fn serve_api(
        &self,
        answer: impl Fn(&ApiRequest) -> (u16, serde_json::Value) + Send + Sync + 'static,
    ) {
        *self.shared.api.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(answer));
    }

    /// From now on, applies this fault to requests for the repository, which does not have to
    /// exist.
    pub fn set_fault(&self, name: &str, fault: Fault) {
        self.shared.with_record(name, |record| record.fault = Some(fault));
    }

    /// From now on, answers requests for the repository normally.
    pub fn clear_fault(&self, name: &str) {
        self.shared.with_record(name, |record| record.fault = None);
    }

    /// From now on, serves the repository like a git that only knows protocol version 0.
    pub fn set_old_protocol(&self, name: &str) {
        self.shared.with_record(name, |record| record.old_protocol = true);
    }

    /// Adds a file to the repository's LFS server. `id` is its SHA-256 in hexadecimal.
    pub fn put_lfs(&self, name: &str, id: &str, content: impl Into<Bytes>) {
        self.shared.with_record(name, |record| {
            record.lfs.contents.insert(id.to_owned(), content.into());
        });
    }

    /// The contents of a file in the repository's LFS server.
    #[must_use]
    pub fn lfs_content(&self, name: &str, id: &str) -> Option<Bytes> {
        self.shared.with_record(name, |record| record.lfs.contents.get(id).cloned())
    }

    /// From now on, the LFS server refuses uploads or takes them.
    pub fn fill_lfs(&self, name: &str, is_full: bool) {
        self.shared.with_record(name, |record| record.lfs.is_full = is_full);
    }

    /// From now on, the LFS server says that its files are below the URL `elsewhere`.
    pub fn move_lfs(&self, name: &str, elsewhere: &str) {
        self.shared.with_record(name, |record| record.lfs.elsewhere = Some(elsewhere.to_owned()));
    }

    /// How many requests for the repository have arrived.
    #[must_use]
    pub fn requests(&self, name: &str) -> usize {
        self.shared.with_record(name, |record| record.requests)
    }

    /// Every `Authorization` header that has arrived for the repository, in order.
    #[must_use]
    pub fn seen_authorization(&self, name: &str) -> Vec<String> {
        self.shared.with_record(name, |record| record.authorization.clone())
    }
}

fn as_files<'a>(files: &[(&'a str, &'a str)]) -> Vec<(&'a str, Entry<'a>)> {
    files.iter().map(|&(path, content)| (path, Entry::File(content))).collect()
}

impl Shared {
    fn with_record<T>(&self, name: &str, act: impl FnOnce(&mut Record) -> T) -> T {
        let mut records: MutexGuard<'_, _> =
            self.records.lock().unwrap_or_else(PoisonError::into_inner);
        act(records.entry(key(name).to_owned()).or_default())
    }

    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path().starts_with("/api/") {
            return self.serve_api(request).await;
        }
        let Some((name, suffix)) = split_path(request.uri().path()) else {
            return respond(StatusCode::NOT_FOUND, "text/plain", "not a git request\n");
        };
        let (name, suffix) = (name.to_owned(), suffix.to_owned());
        let authorization = request.headers().get(header::AUTHORIZATION);
        let authorization =
            authorization.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let record = self.with_record(&name, |record| {
            record.requests += 1;
            record.authorization.extend(authorization.clone());
            record.clone()
        });
        let query = request.uri().query().unwrap_or_default();
        let writes = suffix == "/git-receive-pack"
            || query == "service=git-receive-pack"
            || request.method() == http::Method::PUT;
        let verdict = match &record.judge {
            Some(Judge(judge)) => judge(authorization.as_deref(), writes),
            None => Verdict::Accepted,
        };
        if verdict == Verdict::Forbidden {
            let words = "Write access to repository not granted.\n";
            return respond(StatusCode::FORBIDDEN, "text/plain", words);
        }
        if verdict == Verdict::Unknown {
            let mut refusal =
                respond(StatusCode::UNAUTHORIZED, "text/plain", "authentication required\n");
            let challenge = header::HeaderValue::from_static("Basic realm=\"testkit\"");
            refusal.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            return refusal;
        }
        let cut = match record.fault {
            None => Cut::Never,
            Some(Fault::Stall) => Cut::Stall(STALL_AFTER),
            Some(Fault::StallAfter(bytes)) => Cut::Stall(bytes),
            Some(Fault::CloseMidway(bytes)) => Cut::Close(bytes),
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                Cut::Never
            }
            Some(Fault::Status(status)) => {
                let status = StatusCode::from_u16(status).expect("a fault's status is valid");
                return respond(status, "text/plain", format!("fault: {status}\n"));
            }
            Some(Fault::RedirectTo(target)) => return redirect(&request, &target, &suffix),
        };
        if suffix.starts_with(lfs::PATH) {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            if parts.method == http::Method::PUT {
                let id = suffix.rsplit('/').next().unwrap_or_default().to_owned();
                if !lfs::is_object(&id, &body) {
                    return respond(StatusCode::UNPROCESSABLE_ENTITY, "text/plain", "not it\n");
                }
                self.with_record(&name, |record| record.lfs.contents.insert(id, body));
                return respond(StatusCode::OK, "text/plain", "");
            }
            return record.lfs.answer((&name, &suffix), &parts.headers, &body);
        }
        self.run_backend(&name, &suffix, request, cut, record.old_protocol).await.unwrap_or_else(
            |error| {
                let text = format!("failed to run git http-backend: {error}\n");
                respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", text)
            },
        )
    }

    async fn serve_api(&self, request: Request<Incoming>) -> Response<Body> {
        let api = self.api.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(api) = api else {
            return respond(StatusCode::NOT_FOUND, "application/json", "{}");
        };
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let asked = ApiRequest {
            method: head.method.to_string(),
            path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            headers: head.headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        let (status, answer) = api(&asked);
        let status = StatusCode::from_u16(status).expect("a status is valid");
        respond(status, "application/json", answer.to_string())
    }

    async fn run_backend(
        &self,
        name: &str,
        suffix: &str,
        request: Request<Incoming>,
        cut: Cut,
        old_protocol: bool,
    ) -> io::Result<Response<Body>> {
        let mut command = Command::new("git");
        command.arg("http-backend").current_dir(self.root.path()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs(ISOLATION);
        command.env("GIT_PROJECT_ROOT", self.root.path()).env("GIT_HTTP_EXPORT_ALL", "1");
        command.env("PATH_INFO", format!("/{name}.git{suffix}"));
        command.env("REQUEST_METHOD", request.method().as_str());
        command.env("QUERY_STRING", request.uri().query().unwrap_or_default());
        command.env("REMOTE_ADDR", "127.0.0.1");
        for (variable, header) in [
            ("CONTENT_TYPE", header::CONTENT_TYPE),
            ("CONTENT_LENGTH", header::CONTENT_LENGTH),
            ("HTTP_CONTENT_ENCODING", header::CONTENT_ENCODING),
            ("HTTP_GIT_PROTOCOL", header::HeaderName::from_static("git-protocol")),
        ] {
            if old_protocol && variable == "HTTP_GIT_PROTOCOL" {
                continue;
            }
            if let Some(value) = request.headers().get(header) {
                command.env(variable, value.to_str().map_err(io::Error::other)?);
            }
        }
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        let mut body = request.into_body();
        let feed = tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                // A backend that has read enough closes its standard input. Its answer says why.
                if stdin.write_all(&data).await.is_err() {
                    return;
                }
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let response = read_cgi_headers(&mut stdout).await?;
        let backend = Backend { stdout, cut, _child: child, _feed: AbortOnDropHandle::new(feed) };
        let frames = stream::unfold(backend, Backend::next).map(|data| data.map(Frame::data));
        response.body(StreamBody::new(frames).boxed_unsync()).map_err(io::Error::other)
    }
}

/// Cuts a response short.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Never,
    Stall(usize),
    Close(usize),
}

/// The rest of a running backend's output. When dropped, it kills the backend.
struct Backend {
    stdout: BufReader<ChildStdout>,
    cut: Cut,
    _child: Child,
    _feed: AbortOnDropHandle<()>,
}

impl Backend {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let mut room = 64 * 1024;
        match self.cut {
            Cut::Never => {}
            Cut::Stall(0) => std::future::pending().await,
            Cut::Close(0) => return Some((Err(io::Error::other("cut off")), self)),
            Cut::Stall(left) | Cut::Close(left) => room = room.min(left),
        }
        let mut buffer = vec![0; room];
        let read = match self.stdout.read(&mut buffer).await {
            Ok(0) => return None,
            Ok(read) => read,
            Err(error) => return Some((Err(error), self)),
        };
        buffer.truncate(read);
        match &mut self.cut {
            Cut::Never => {}
            Cut::Stall(left) | Cut::Close(left) => *left -= read,
        }
        Some((Ok(buffer.into()), self))
    }
}

async fn read_cgi_headers(
    stdout: &mut BufReader<ChildStdout>,
) -> io::Result<http::response::Builder> {
    let mut response = Response::builder();
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(response);
        }
        let (name, value) = line.split_once(": ").ok_or(io::ErrorKind::InvalidData)?;
        response = if name == "Status" {
            response.status(value.get(..3).unwrap_or_default())
        } else {
            response.header(name, value)
        };
    }
}

fn redirect(request: &Request<Incoming>, target: &str, suffix: &str) -> Response<Body> {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    Response::builder()
        .status(StatusCode::FOUND)
        .header(header::LOCATION, format!("{}{suffix}{query}", target.trim_end_matches('/')))
        .body(full("moved\n"))
        .expect("the target of a redirect is a URL")
}

/// Splits the path of a request into the name of the repository and the part for git.
fn split_path(path: &str) -> Option<(&str, &str)> {
    ["/info/refs", "/git-upload-pack", "/git-receive-pack", "/HEAD", lfs::PATH, "/objects/"]
        .into_iter()
        .find_map(|suffix| path.rfind(suffix))
        .map(|at| path.split_at(at))
        .map(|(name, suffix)| (key(name), suffix))
        .filter(|(name, _)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_into_repository_and_git_request() {
        assert_eq!(split_path("/a.git/info/refs"), Some(("a", "/info/refs")));
        assert_eq!(split_path("/o/a/git-upload-pack"), Some(("o/a", "/git-upload-pack")));
        assert_eq!(split_path("/a.git/objects/12/34"), Some(("a", "/objects/12/34")));
        assert_eq!(split_path("/a.git"), None);
        assert_eq!(split_path("/info/refs"), None);
    }
}
