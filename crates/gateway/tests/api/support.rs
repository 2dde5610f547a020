//! A gateway, and the jobs on its volume.

use std::{net::SocketAddr, time::Duration};

use contract::{
    BearerToken, CallerLimits, CallerName, JobId, JobRequest, PullRequest, Scope, Service,
    Timestamp, TokenRequest, WorkflowRequest,
};
use gateway::{Config, Gateway};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use workspace::{ClaimedJob, Job, JobRecord, NewJob, Outcome, RequestDigest, Statement, Workspace};

/// How long anything may take that has no limit of its own. This matters only when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A repository that is never pulled.
pub(crate) const REPO: &str = "https://host.example/r.git";

/// A volume that no gateway has used.
pub(crate) struct Volume {
    pub(crate) _dir: TempDir,
    pub(crate) workspace: Workspace,
}

impl Volume {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        Self { _dir: dir, workspace }
    }

    /// Starts a gateway on it, with the default settings as changed by `change`.
    pub(crate) async fn gateway(&self, change: impl FnOnce(&mut Config)) -> Gateway {
        let mut config = Config::on_loopback(self.workspace.root());
        change(&mut config);
        Gateway::start(config).await.unwrap()
    }

    /// A queued pull, created `age` ago.
    pub(crate) fn pull(&self, parent: Option<JobId>, age: Duration) -> Job {
        let body = format!(r#"{{"repoUrl":"{REPO}"}}"#);
        self.create::<PullRequest>(&body, parent, age)
    }

    /// A workflow that runs until this is dropped, in a shared checkout.
    pub(crate) fn running_workflow(&self, directory: &str) -> ClaimedJob {
        self.running_workflow_of(directory, "anonymous")
    }

    /// The same for a workflow of this caller.
    pub(crate) fn running_workflow_of(&self, directory: &str, caller: &str) -> ClaimedJob {
        let body = format!(r#"{{"prompt":"x","repoUrl":"{REPO}","directory":"{directory}"}}"#);
        let (caller, age) = (caller.parse().unwrap(), Duration::ZERO);
        let job = self.create_for::<WorkflowRequest>(&body, None, age, caller);
        job.claim("test").unwrap().unwrap()
    }

    /// The headers by which a workflow asks for its jobs.
    pub(crate) fn as_workflow(&self, id: JobId) -> String {
        let capability = self.workspace.stack_secret().unwrap().prove(Statement::JobsOf(id));
        format!("x-parent-job-id: {id}\r\nx-job-capability: {capability}\r\n")
    }

    /// A token of the caller `name`.
    pub(crate) fn token(&self, name: &str, scopes: &[Scope]) -> BearerToken {
        self.limited_token(name, scopes, CallerLimits::default())
    }

    /// The same with limits.
    pub(crate) fn limited_token(
        &self,
        name: &str,
        scopes: &[Scope],
        limits: CallerLimits,
    ) -> BearerToken {
        let (name, scopes) = (name.parse().unwrap(), scopes.iter().copied().collect());
        let request = TokenRequest { name, scopes, limits, expires: None };
        self.workspace.create_token(&request).unwrap().1
    }

    /// A queued job of this caller.
    pub(crate) fn job_of<R: JobRequest>(&self, body: &str, caller: &str) -> Job {
        self.create_for::<R>(body, None, Duration::ZERO, caller.parse().unwrap())
    }

    fn create<R: JobRequest>(&self, body: &str, parent: Option<JobId>, age: Duration) -> Job {
        self.create_for::<R>(body, parent, age, CallerName::anonymous())
    }

    fn create_for<R: JobRequest>(
        &self,
        body: &str,
        parent: Option<JobId>,
        age: Duration,
        caller: CallerName,
    ) -> Job {
        let (workspace, body) = (&self.workspace, body.as_bytes());
        let request = R::parse(body, workspace.root_text(), &contract::Policy::default()).unwrap();
        let digest = RequestDigest::of(&request, body, None);
        let mut record = JobRecord::of(workspace, &request, digest, JobId::new(), parent).unwrap();
        record.caller = caller;
        let age = i64::try_from(age.as_millis()).unwrap();
        record.created = Timestamp::from_millisecond(record.created.as_millisecond() - age);
        match Job::create_for(workspace, &record).unwrap() {
            NewJob::Created(job) => job,
            NewJob::Exists(_) => unreachable!("the id is new"),
        }
    }
}

/// Waits until a job has ended.
pub(crate) async fn ended(job: &Job) -> Outcome {
    let mut watch = job.workspace().watcher().watch(&job.directory());
    let outcome = async {
        loop {
            if let Some(outcome) = job.outcome().unwrap() {
                return outcome;
            }
            watch.changed().await;
        }
    };
    tokio::time::timeout(PATIENCE, outcome).await.unwrap()
}

/// Sends these bytes and returns the [`answer`].
pub(crate) async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    answer(&mut stream).await
}

/// An answer up to its end or, if it is a stream, up to its first event.
pub(crate) async fn answer(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let read = async {
        while stream.read_buf(&mut seen).await.unwrap_or(0) > 0 {
            if String::from_utf8_lossy(&seen).contains(r#""type":"queued""#) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
    String::from_utf8(seen).unwrap()
}

/// The status and the JSON of an answer, or of its first event.
pub(crate) fn parse(answer: &str) -> (u16, Value) {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let json = body.find('{').and_then(|at| body.get(at..)).unwrap_or_default();
    let value = serde_json::Deserializer::from_str(json).into_iter().next();
    (status.unwrap_or_else(|| panic!("{answer:?}")), value.and_then(Result::ok).unwrap_or_default())
}

/// The status and the JSON of a `GET`.
pub(crate) async fn get(gateway: &Gateway, service: Service, target: &str) -> (u16, Value) {
    let head = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    parse(&raw(gateway.address(service), head.as_bytes()).await)
}

/// A request with these additional header lines, and a body if there is one. Returns the head of the answer, its status and
/// its JSON, or that of its first event.
pub(crate) async fn ask(
    gateway: &Gateway,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (String, u16, Value) {
    let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{kind}{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(gateway.address(Service::Claude), request.as_bytes()).await;
    let (status, value) = parse(&answer);
    let head = answer.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
    (head, status, value)
}

/// The header line of a token.
pub(crate) fn bearer(token: &BearerToken) -> String {
    format!("authorization: Bearer {}\r\n", token.expose())
}

/// Waits until `is` holds.
pub(crate) async fn until(mut is: impl AsyncFnMut() -> bool) {
    let look = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("the change is seen in time");
}
