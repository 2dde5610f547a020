//! A closed stack: who has a token may use it, and nobody sees what belongs to another caller.

use std::{
    fs,
    path::{Path, PathBuf},
};

use contract::{CallerLimits, Scope, TokenRequest};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    AgentScript, CommandOutput, GitServer, PATIENCE, RunningCommand, Stack, http_json,
    target_binary, wait_for,
};
use tokio::process::Command;
use workspace::Workspace;

/// A stack, and the files with the tokens of its callers.
struct Scene {
    stack: Stack,
    files: TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self { stack: Stack::builder().start().await, files: TempDir::new().unwrap() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    async fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> CommandOutput {
        let mut command = Command::new(target_binary("stackctl"));
        command.args(arguments).env_clear().envs(environment.iter().copied());
        RunningCommand::start(command).finish().await
    }

    /// `stackctl token create` on the machine of the volume. Its output goes into a file, as in a script.
    async fn token(&self, name: &str, more: &[&str]) -> PathBuf {
        let workspace = self.stack.workspace().to_str().unwrap();
        let create = ["token", "create", "--name", name, "--workspace", workspace];
        let output = self.run(&[&create[..], more].concat(), &[]).await;
        assert_eq!((output.code, output.stdout.lines().count()), (0, 1), "{output:?}");
        assert!(!output.stderr.contains(output.stdout.trim()), "{output:?}");
        let file = self.file(name);
        fs::write(&file, &output.stdout).unwrap();
        file
    }

    /// A command of the client with the token in `file`.
    async fn client(&self, file: &Path, arguments: &[&str]) -> CommandOutput {
        let (url, file) = (self.stack.workflow_url(), file.to_str().unwrap());
        self.run(arguments, &[("STACK_URL", &url), ("STACK_TOKEN_FILE", file)]).await
    }

    /// The status and the body of a request with the token in `file`.
    async fn get(&self, file: Option<&PathBuf>, path: &str) -> (u16, Value) {
        let url = format!("{}{path}", self.stack.workflow_url());
        let token = file.map(|file| fs::read_to_string(file).unwrap());
        let bearer = token.map(|token| format!("Bearer {}", token.trim()));
        let headers: Vec<_> =
            bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        let (status, _, body) = http_json("GET", &url, None, &headers).await;
        (status.as_u16(), body)
    }
}

#[tokio::test]
async fn a_closed_stack_runs_the_workflows_of_its_callers_and_shows_them_to_nobody_else() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("README.md", "hello\n")]);
    let scene = Scene::new().await;
    assert_eq!(scene.get(None, "/health").await.1["open"], true);
    // What was made before belongs to everybody, as long as the stack is open.
    assert_eq!(scene.get(None, "/api/jobs").await.0, 200);
    let boss = scene.token("boss", &["--admin"]).await;
    wait_for("the stack to close", PATIENCE, || async {
        (scene.get(None, "/api/jobs").await.0 == 401).then_some(())
    })
    .await;
    assert!(scene.get(None, "/health").await.1.get("open").is_none());
    let (ann, bob) = (scene.token("ann", &[]).await, scene.token("bob", &[]).await);
    wait_for("the tokens to be known", PATIENCE, || async {
        (scene.get(Some(&bob), "/api/jobs").await.0 == 200).then_some(())
    })
    .await;
    let (repo, prompt) = (git.url("app"), AgentScript::new().say("done").prompt());
    let run = ["run", "--repo", &repo, "--prompt", &prompt, "--directory", "app"];
    let refused = scene.run(&run, &[("STACK_URL", &scene.stack.workflow_url())]).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("STACK_TOKEN"), "{refused:?}");
    // The workflow's own jobs pass without a token: it has a capability.
    let done = scene.client(&ann, &run).await;
    assert_eq!(done.code, 0, "{done:?}");
    let (_, jobs) = scene.get(Some(&ann), "/api/jobs").await;
    let jobs = jobs["jobs"].as_array().unwrap();
    // Besides, `run` may have looked at what has changed.
    let is_look = |job: &&Value| job.get("changesOf").is_some();
    assert_eq!(jobs.iter().filter(|job| !is_look(job)).count(), 3, "{jobs:?}");
    for job in jobs {
        assert_eq!((&job["caller"], &job["state"]), (&json!("ann"), &json!("succeeded")), "{job}");
    }
    // The session that the agent has started is hers as well.
    let (_, sessions) = scene.get(Some(&ann), "/api/sessions").await;
    assert_eq!(sessions["count"], 1, "{sessions}");
    let session = sessions["sessions"][0]["sessionId"].as_str().unwrap();
    assert_eq!(scene.get(Some(&ann), "/api/repos").await.1["count"], 1);
    // Nothing of it is there for another caller.
    for path in ["/api/jobs", "/api/sessions", "/api/repos"] {
        assert_eq!(scene.get(Some(&bob), path).await.1["count"], 0, "{path}");
        assert_eq!(scene.get(Some(&boss), path).await.0, 200, "{path}");
    }
    let id = jobs[0]["jobId"].as_str().unwrap();
    for path in [format!("/api/jobs/{id}"), format!("/api/sessions/{session}")] {
        assert_eq!(scene.get(Some(&bob), &path).await.0, 404, "{path}");
        assert_eq!(scene.get(Some(&boss), &path).await.0, 200, "{path}");
    }
    let refused = scene.client(&bob, &run).await;
    assert_eq!(refused.code, 2, "the directory is Ann's: {refused:?}");
    let refused = scene
        .client(&bob, &["run", "--repo", &repo, "--prompt", &prompt, "--resume", session])
        .await;
    assert_eq!(refused.code, 2, "the session is Ann's: {refused:?}");
    assert_eq!(scene.client(&bob, &["attach", id]).await.code, 2);
    // She resumes it herself.
    let resumed = scene
        .client(&ann, &["run", "--repo", &repo, "--prompt", &prompt, "--resume", session])
        .await;
    assert_eq!(resumed.code, 0, "{resumed:?}");
    // An administrator elsewhere lists and revokes tokens over HTTP.
    let listed = scene.client(&boss, &["token", "list", "--json"]).await;
    let tokens = listed.json();
    let of_ann =
        tokens["tokens"].as_array().unwrap().iter().find(|it| it["name"] == "ann").unwrap();
    assert!(of_ann["lastUsed"].is_string(), "{tokens}");
    assert_eq!(scene.client(&ann, &["token", "list"]).await.code, 2);
    let revoked = scene.client(&boss, &["token", "revoke", of_ann["id"].as_str().unwrap()]).await;
    assert_eq!(revoked.code, 0, "{revoked:?}");
    assert_eq!(scene.get(Some(&ann), "/api/jobs").await.0, 401);
    assert_eq!(scene.get(Some(&bob), "/api/jobs").await.0, 200);
    // A new token of the same name continues with what is hers.
    let again = scene.client(&boss, &["token", "create", "--name", "ann"]).await;
    fs::write(&ann, &again.stdout).unwrap();
    let (_, jobs) = scene.get(Some(&ann), "/api/jobs").await;
    assert_eq!(jobs["jobs"].as_array().unwrap().iter().filter(|job| !is_look(job)).count(), 5);
    // A token that the stack did not sign counts once an operator has signed it.
    let (workspace, old) = (scene.stack.workspace().to_owned(), scene.file("old"));
    let request = TokenRequest {
        name: "old".parse().unwrap(),
        scopes: [Scope::Read].into(),
        limits: CallerLimits::default(),
        expires: None,
    };
    let (record, token) = Workspace::open(&workspace).unwrap().create_token(&request).unwrap();
    fs::write(&old, token.expose()).unwrap();
    assert_eq!(scene.get(Some(&old), "/api/jobs").await.0, 401);
    let adopt = ["adopt", "--workspace", workspace.to_str().unwrap()];
    let listed = scene.run(&adopt, &[]).await;
    assert_eq!(listed.code, 0, "{listed:?}");
    let first = format!("token {} of 'old' (read)", record.id);
    assert_eq!(listed.stdout.lines().next(), Some(&*first), "{listed:?}");
    assert!(
        listed.stdout.contains("1 without a proof") && listed.stdout.contains("--yes"),
        "{listed:?}"
    );
    assert_eq!(scene.get(Some(&old), "/api/jobs").await.0, 401);
    let signed = scene.run(&[&adopt[..], &["--yes"]].concat(), &[]).await;
    assert!(signed.code == 0 && signed.stdout.ends_with("1 signed\n"), "{signed:?}");
    wait_for("the token to be known", PATIENCE, || async {
        (scene.get(Some(&old), "/api/jobs").await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(scene.run(&adopt, &[]).await.stdout, "everything has a proof\n");
}
