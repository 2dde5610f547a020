//! A stack, and a shell in which the page's commands reach it.

use std::{fs, os::unix::fs::symlink, process::Stdio};

use contract::Service;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    Fault, GitServer, PATIENCE, SseClient, SseEvent, Stack, free_ports, http_json, target_binary,
    wait_for, write_program,
};
use tokio::process::Command;

/// Names on the page, which the tests replace.
const REPOSITORY: &str = "https://github.com/user/repo.git";
const WORKFLOWS: &str = "localhost:5000";
const PULLS: &str = "localhost:4000";
const AGENTS: &str = "localhost:3000";
const SHORT_ID: &str = "7c3e91d2";
const KEY: &str = "sk-ant-…";

/// `cargo stack …` and `stackctl …` run the program that was just built, with free ports.
const SHIM: &str = r#"#!/bin/sh
if [ "${0##*/}" = cargo ]; then
  [ "$1" = stack ] || { echo "not available here: cargo $*" >&2; exit 99; }
  shift
  export CARGO=cargo
fi
case $1 in up | doctor) set -- "$@" $FREE_PORTS ;; esac
exec "$STACKCTL" "$@"
"#;

/// A stack with the rehearsal agent, a git server and a home directory.
pub(crate) struct Scene {
    pub(crate) stack: Stack,
    git: GitServer,
    home: TempDir,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let git = GitServer::start().await;
        git.create_repo("repo", &[("README.md", "hello\n"), ("src/main.rs", "fn main() {}\n")]);
        git.allow_push("repo");
        // A pull of this repository does not end until somebody ends it.
        git.create_repo("slow", &[("README.md", "hello\n")]);
        git.set_fault("slow", Fault::Stall);
        let home = TempDir::new().unwrap();
        let agent = home.path().join("claude-rehearsal");
        symlink(target_binary("stackctl"), &agent).unwrap();
        let bin = home.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for name in ["cargo", "stackctl"] {
            write_program(&bin.join(name), SHIM);
        }
        let stack = Stack::builder().env("CLAUDE_BIN", agent).start().await;
        Self { stack, git, home }
    }

    pub(crate) fn workspace(&self) -> &std::path::Path {
        self.stack.workspace()
    }

    /// Makes a clone of the repository in the home directory, in place of an earlier one.
    pub(crate) async fn make_clone(&self, name: &str) {
        let _ = fs::remove_dir_all(self.home.path().join(name));
        let identity = "[user]\n\tname = Somebody\n\temail = somebody@example.org\n";
        fs::write(self.home.path().join(".gitconfig"), identity).unwrap();
        let mut clone = self.program("git", &["clone", "-q", &self.git.url("repo.git"), name]);
        assert!(clone.status().await.unwrap().success());
    }

    /// A text from the page, with its names replaced by those of the test.
    pub(crate) fn localized(&self, text: &str, short_id: &str) -> String {
        // Not `localhost`: the free port may begin like one that is replaced next.
        let address = |url: String| format!("127.0.0.1:{}", url.rsplit_once(':').unwrap().1);
        text.replace(REPOSITORY, &self.git.url("repo.git"))
            .replace(WORKFLOWS, &address(self.stack.workflow_url()))
            .replace(PULLS, &address(self.stack.pull_url()))
            .replace(AGENTS, &address(self.stack.claude_url()))
            .replace(SHORT_ID, short_id)
            .replace(KEY, "sk-ant-test-0123456789abcdef")
    }

    /// A program in the home directory, without this process's environment except `PATH`.
    pub(crate) fn program(&self, program: &str, arguments: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", self.home.path().join("bin").display());
        let [workflow, pull, claude] = *free_ports().as_array();
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir(self.home.path());
        command.env("PATH", path).env("HOME", self.home.path());
        command.env("STACKCTL", target_binary("stackctl"));
        command.env(
            "FREE_PORTS",
            format!("--port-workflow {workflow} --port-pull {pull} --port-claude {claude}"),
        );
        command.env("STACK_URL", self.stack.workflow_url());
        command.env("CLAUDE_BIN", self.home.path().join("claude-rehearsal"));
        command
            .env("IS_SANDBOX", "1")
            .env("AGENT_USER", "none")
            .env("ANTHROPIC_API_KEY", "sk-ant-test-0123456789abcdef");
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// Starts a workflow on one of the repositories. Nobody follows it once it runs.
    async fn workflow(&self, repository: &str) -> String {
        let url = format!("{}/api/workflow", self.stack.workflow_url());
        let body = json!({"prompt": "Look around", "repoUrl": self.git.url(repository)});
        let response = SseClient::post(&url, &body).service(Service::Workflow).send().await;
        let id = response.job_id();
        self.job_leaves(&id, "queued").await;
        id
    }

    /// A workflow that has completed.
    pub(crate) async fn done(&self) -> String {
        let id = self.workflow("repo").await;
        self.job_leaves(&id, "running").await;
        assert_eq!(self.job(&id).await["state"], "succeeded");
        id
    }

    /// A workflow that runs until somebody cancels it.
    pub(crate) async fn endless(&self) -> String {
        self.workflow("slow").await
    }

    /// A session that nobody has used yet.
    pub(crate) async fn session(&self) -> String {
        let url = format!("{}/api/sessions", self.stack.claude_url());
        let (status, _, answer) = http_json("POST", &url, None, &[]).await;
        assert_eq!(status, 200, "{answer}");
        answer["sessionId"].as_str().unwrap().to_owned()
    }

    /// The events of a job, with their IDs.
    pub(crate) async fn events(&self, id: &str) -> Vec<SseEvent> {
        let url = format!("{}/api/jobs/{id}/events", self.stack.workflow_url());
        let mut response = SseClient::get(&url).service(Service::Workflow).send().await;
        response.collect_all().await
    }

    pub(crate) async fn job(&self, id: &str) -> Value {
        let url = format!("{}/api/jobs/{id}", self.stack.workflow_url());
        http_json("GET", &url, None, &[]).await.2
    }

    /// Waits until the job is no longer in this state.
    pub(crate) async fn job_leaves(&self, id: &str, state: &str) {
        wait_for(&format!("the job to leave the state {state}"), PATIENCE, || async {
            (self.job(id).await["state"] != state).then_some(())
        })
        .await;
    }
}
