//! Helpers for these tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    path::PathBuf,
    time::Duration,
};

use http::HeaderMap;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    AgentScript, GitServer, SseClient, SseEvent, SseRequest, Stack, http_json, is_alive, scratch,
    wait_for,
};

pub(crate) use testkit::PATIENCE;

/// A server with the repository `app`, which takes pushes, and a stack.
pub(crate) async fn stack_and_repository() -> (GitServer, Stack) {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "1\n")]);
    git.allow_push("app");
    (git, Stack::builder().start().await)
}

/// The body of a workflow request.
pub(crate) fn workflow(repo_url: &str, script: &AgentScript) -> Value {
    json!({"repoUrl": repo_url, "prompt": script.prompt()})
}

/// The body of an `execute` request.
pub(crate) fn execute(script: &AgentScript) -> Value {
    json!({"prompt": script.prompt()})
}

/// Sends `POST /api/workflow` as a browser or an original client does.
pub(crate) fn post_workflow(stack: &Stack, body: &Value) -> SseRequest {
    SseClient::post(&format!("{}/api/workflow", stack.workflow_url()), body)
}

/// `POST /api/pull`.
pub(crate) fn post_pull(stack: &Stack, body: &Value) -> SseRequest {
    SseClient::post(&format!("{}/api/pull", stack.pull_url()), body)
}

/// `POST /api/execute`.
pub(crate) fn post_execute(stack: &Stack, body: &Value) -> SseRequest {
    SseClient::post(&format!("{}/api/execute", stack.claude_url()), body)
}

/// `GET /api/jobs/:id/events`.
pub(crate) fn events_of(stack: &Stack, id: &str, service: contract::Service) -> SseRequest {
    SseClient::get(&format!("{}/api/jobs/{id}/events", stack.workflow_url())).service(service)
}

/// A GET of JSON.
pub(crate) async fn get(url: &str) -> (u16, Value) {
    let (status, _, body) = http_json("GET", url, None, &[]).await;
    (status.as_u16(), body)
}

/// The answer to `GET /api/jobs/:id`.
pub(crate) async fn job(stack: &Stack, id: &str) -> Value {
    let (status, body) = get(&format!("{}/api/jobs/{id}", stack.workflow_url())).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// Every job, newest first.
pub(crate) async fn all_jobs(stack: &Stack) -> Vec<Value> {
    let (status, body) = get(&format!("{}/api/jobs?limit=1000", stack.workflow_url())).await;
    assert_eq!(status, 200, "{body}");
    body["jobs"].as_array().unwrap().clone()
}

/// Waits until a job is in this state.
pub(crate) async fn wait_for_state(stack: &Stack, id: &str, state: &str) -> Value {
    wait_for(&format!("job {id} to be {state}"), PATIENCE, || async {
        let job = job(stack, id).await;
        (job["state"] == state).then_some(job)
    })
    .await
}

/// `POST /api/jobs/:id/cancel`.
pub(crate) async fn cancel(stack: &Stack, id: &str) -> (u16, Value) {
    let url = format!("{}/api/jobs/{id}/cancel", stack.workflow_url());
    let (status, _, body) = http_json("POST", &url, None, &[]).await;
    (status.as_u16(), body)
}

/// The last event, which is the terminal event of a complete stream.
pub(crate) fn terminal(events: &[SseEvent]) -> &Value {
    &events.last().expect("a stream has a terminal event").json
}

/// All events except `queued`: the job's own, which are in no journal, and those of the jobs it
/// started.
pub(crate) fn without_waits(mut events: Vec<SseEvent>) -> Vec<SseEvent> {
    events.retain(|event| {
        event.kind() != "queued"
            && !(event.kind() == "pull_progress" && event.json["data"]["type"] == "queued")
    });
    events
}

/// The value of a header that must be present.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).unwrap_or_else(|| panic!("the header {name} is missing")).to_str().unwrap()
}

/// The registry entries of a service's idle replicas, by ID.
pub(crate) fn registry(stack: &Stack, service: &str) -> BTreeMap<String, Value> {
    let directory = stack.workspace().join(".stack/replicas").join(service);
    let entry = |path: PathBuf| {
        let id = path.file_stem()?.to_str()?.to_owned();
        // The replica may withdraw it at this moment.
        Some((id, serde_json::from_slice(&fs::read(&path).ok()?).ok()?))
    };
    fs::read_dir(directory).unwrap().filter_map(|it| entry(it.unwrap().path())).collect()
}

/// The IDs of all jobs that were ever created.
pub(crate) fn named_jobs(stack: &Stack) -> BTreeSet<String> {
    let jobs = fs::read_dir(stack.workspace().join(".stack/jobs")).unwrap();
    jobs.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The process of a part that has exactly one.
pub(crate) fn process_of(stack: &Stack, part: &str) -> u32 {
    let found = stack.processes_of(part);
    let [pid] = *found else { panic!("not exactly one process of {part}: {found:?}") };
    pid
}

/// Sends a signal to one process.
pub(crate) fn send_signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("the process is running");
}

/// Waits until all of these have exited.
pub(crate) async fn wait_until_gone(pids: &[u32], deadline: Duration) {
    wait_for(&format!("the end of {pids:?}"), deadline, || async {
        pids.iter().all(|&pid| !is_alive(pid)).then_some(())
    })
    .await;
}

/// Files outside the workspace: marks that agents leave, and gates that they wait for.
#[derive(Debug)]
pub(crate) struct Marks {
    directory: TempDir,
}

impl Marks {
    pub(crate) fn new() -> Self {
        Self { directory: scratch() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Creates this file, which releases everything that waits for it.
    pub(crate) fn open(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }

    /// Waits until this file exists.
    pub(crate) async fn wait(&self, name: &str) {
        wait_for(name, PATIENCE, || async { self.exists(name).then_some(()) }).await;
    }

    /// The lines of this file, or none if it does not exist.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Every file in a directory and below it, except links.
pub(crate) fn every_file(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                found.push((entry.path().display().to_string(), fs::read(entry.path()).unwrap()));
            }
        }
    }
    found
}
