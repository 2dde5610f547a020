//! A stack that is called through proxies, a git host, and files that agents wait for.

use std::{fs, path::PathBuf};

use contract::Service;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    AgentScript, GitServer, PATIENCE, SseClient, SseResponse, Stack, http_json, wait_for,
};

use crate::recipe::HOST;

pub(crate) struct Scene {
    pub(crate) stack: Stack,
    git: GitServer,
    marks: TempDir,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let git = GitServer::start().await;
        git.create_repo("app", &[("README.md", "hello\n")]);
        let stack = Stack::builder().env("ALLOWED_HOSTS", HOST).replicas(5, 2, 5).start().await;
        Self { stack, git, marks: testkit::scratch() }
    }

    /// The port of the stack behind the proxies.
    pub(crate) fn port(&self) -> u16 {
        self.stack.ports()[Service::Workflow]
    }

    pub(crate) fn repo(&self) -> String {
        self.git.url("app")
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.marks.path().join(name)
    }

    /// An agent that says `before`, and says `after` once the gate is open.
    pub(crate) fn gated(&self, gate: &str) -> AgentScript {
        AgentScript::new().say("before").wait_file(self.mark(gate)).say("after")
    }

    /// The body of a workflow with such an agent.
    pub(crate) fn gated_workflow(&self, gate: &str) -> String {
        json!({"repoUrl": self.repo(), "prompt": self.gated(gate).prompt()}).to_string()
    }

    pub(crate) fn open(&self, gate: &str) {
        fs::write(self.mark(gate), "").unwrap();
    }

    /// The state of a job, read without a proxy.
    pub(crate) async fn state(&self, id: &str) -> Value {
        let url = format!("{}/api/jobs/{id}", self.stack.workflow_url());
        http_json("GET", &url, None, &[]).await.2["state"].clone()
    }

    /// Waits until a job is in this state.
    pub(crate) async fn wait_for_state(&self, id: &str, state: &str) {
        wait_for(&format!("{id} to be {state}"), PATIENCE, || async {
            (self.state(id).await == state).then_some(())
        })
        .await;
    }

    /// The events of the only workflow, read without a proxy.
    pub(crate) async fn only_workflow(&self) -> SseResponse {
        let jobs = format!("{}/api/jobs", self.stack.workflow_url());
        let id = wait_for("a workflow", PATIENCE, || async {
            let list = http_json("GET", &jobs, None, &[]).await.2;
            let mut jobs = list["jobs"].as_array()?.iter();
            let workflow = jobs.find(|job| job["service"] == Service::Workflow.name())?;
            Some(workflow["jobId"].as_str()?.to_owned())
        })
        .await;
        SseClient::get(&format!("{jobs}/{id}/events")).service(Service::Workflow).send().await
    }
}
