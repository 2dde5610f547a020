//! Helpers for these tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use contract::Service;
use serde_json::Value;
use tempfile::TempDir;
use testkit::{
    AgentScript, CommandOutput, GitServer, PATIENCE, RunningCommand, SseClient, Stack, http_json,
    target_binary, wait_for,
};
use tokio::process::Command;

/// `stackctl` with these arguments, on the stack at `url`, in an environment with nothing of this one.
pub(crate) fn stackctl(url: &str, arguments: &[&str]) -> Command {
    let program = target_binary("stackctl");
    let mut command = Command::new(&program);
    command.args(arguments).env_clear().env("STACK_URL", url).kill_on_drop(true);
    // A shell would find it, so that hints call it `stackctl`.
    command.env("PATH", program.parent().unwrap());
    command.stdin(Stdio::null());
    command
}

/// Runs a command until it exits.
pub(crate) async fn ran(url: &str, arguments: &[&str]) -> CommandOutput {
    RunningCommand::start(stackctl(url, arguments)).finish().await
}

/// A stack of one replica each, a git host with one small repository, and a place for marks.
pub(crate) struct Scene {
    pub(crate) stack: Stack,
    pub(crate) git: GitServer,
    marks: TempDir,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let git = GitServer::start().await;
        git.create_repo("app", &[("README.md", "hello\n")]);
        Self { stack: Stack::builder().start().await, git, marks: testkit::scratch() }
    }

    pub(crate) fn url(&self) -> String {
        self.stack.workflow_url()
    }

    pub(crate) fn repo(&self) -> String {
        self.git.url("app")
    }

    /// `stackctl run` with this script, and more arguments.
    pub(crate) fn run(&self, url: &str, script: &AgentScript, more: &[&str]) -> Command {
        let (repo, prompt) = (self.repo(), script.prompt());
        let arguments = [&["run", "--repo", &repo, "--prompt", &prompt], more].concat();
        stackctl(url, &arguments)
    }

    pub(crate) fn mark(&self, name: &str) -> PathBuf {
        self.marks.path().join(name)
    }

    /// Creates a file that an agent waits for.
    pub(crate) fn open(&self, name: &str) {
        fs::write(self.mark(name), "").unwrap();
    }

    /// Waits until an agent has created this file.
    pub(crate) async fn marked(&self, name: &str) {
        let path = self.mark(name);
        wait_for(name, PATIENCE, || async { Path::exists(&path).then_some(()) }).await;
    }

    /// An agent that says `began`, and goes on when `gate` is opened.
    pub(crate) fn gated(&self) -> AgentScript {
        AgentScript::new()
            .say("began")
            .log_run(self.mark("began"))
            .wait_file(self.mark("gate"))
            .say("went on")
    }

    /// Every job, newest first.
    pub(crate) async fn jobs(&self) -> Vec<Value> {
        let url = format!("{}/api/jobs?limit=1000", self.url());
        http_json("GET", &url, None, &[]).await.2["jobs"].as_array().unwrap().clone()
    }

    /// The newest workflow.
    pub(crate) async fn workflow(&self) -> Value {
        let jobs = self.jobs().await;
        jobs.into_iter().find(|job| job["service"] == "workflow-api").expect("a workflow")
    }

    /// Waits until the newest workflow is in that state.
    pub(crate) async fn workflow_is(&self, state: &str) -> Value {
        wait_for(&format!("the workflow to be {state}"), PATIENCE, || async {
            let job = self.workflow().await;
            (job["state"] == state).then_some(job)
        })
        .await
    }

    /// The events of a job, as its journal holds them.
    pub(crate) async fn journal(&self, id: &str) -> Vec<Value> {
        let url = format!("{}/api/jobs/{id}/events", self.url());
        let mut response = SseClient::get(&url).service(Service::Workflow).send().await;
        response.collect_all().await.into_iter().map(|event| event.json).collect()
    }
}

/// The id of a job.
pub(crate) fn id_of(job: &Value) -> String {
    job["jobId"].as_str().expect("a job has an id").to_owned()
}

/// The events that are in a journal: all but the waits.
pub(crate) fn journalled(events: Vec<Value>) -> Vec<Value> {
    events.into_iter().filter(|event| event["type"] != "queued").collect()
}
