//! Checkouts and sessions of agents that have a user of their own.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{AgentScript, GitServer, PATIENCE, SseClient, Stack, scratch, skip, wait_for};

use crate::scene::separate;

/// The last event of a job.
async fn ended(url: String, body: Value) -> Value {
    let events = SseClient::post(&url, &body).send().await.collect_all().await;
    events.last().unwrap().json.clone()
}

fn owner(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().uid()
}

#[tokio::test(flavor = "multi_thread")]
async fn checkouts_and_sessions_pass_between_agents_and_pulls() {
    const TEST: &str = "checkouts_and_sessions_pass_between_agents_and_pulls";
    if !geteuid().is_root() {
        return skip(TEST, "only root can give agents a user of their own");
    }
    let (place, marks) = (TempDir::new().unwrap(), scratch());
    let builder = Stack::builder().workspace(place.path().join("workspace"));
    let stack = separate(builder, place.path(), marks.path()).start().await;
    let git = GitServer::start().await;
    git.create_repo("app", &[("README.md", "first\n"), ("deep/file", "x\n")]);
    let app = stack.workspace().join("app");
    let pull = || {
        let body = json!({"repoUrl": git.url("app"), "directory": "app"});
        ended(format!("{}/api/pull", stack.pull_url()), body)
    };
    let execute = |script: &AgentScript, session: Option<&Value>| {
        let mut body = json!({"prompt": script.prompt(), "workspace": "app"});
        if let Some(session) = session {
            body["resumeSessionId"] = session.clone();
        }
        ended(format!("{}/api/execute", stack.claude_url()), body)
    };
    assert_eq!(pull().await["type"], "completed");

    // It commits, and leaves a change and a new file.
    let commit = "git -c user.name=A -c user.email=a@localhost commit -qam agent && touch done";
    let work = AgentScript::new()
        .write("deep/file", "of the agent\n")
        .spawn(&["sh", "-c", commit])
        .wait_file("done")
        .write("new", "of the agent\n");
    let done = execute(&work, None).await;
    assert_eq!(done["type"], "completed", "{done}");
    for left in ["", "deep/file", "new", ".git/index", ".git/HEAD"] {
        assert_eq!(owner(&app.join(left)), 0, "{left}");
    }
    let session = &done["sessionId"];
    let again = execute(&AgentScript::new().write("again", "x"), Some(session)).await;
    assert_eq!((&again["type"], &again["sessionId"]), (&json!("completed"), session), "{again}");

    // A pull of something else than what the agent has changed. The agent's commit is put aside, its new files stay.
    git.commit("app", "main", &[("README.md", "second\n")]);
    let body = json!({"repoUrl": git.url("app"), "directory": "app", "reset": true});
    let pulled = ended(format!("{}/api/pull", stack.pull_url()), body).await;
    assert_eq!(pulled["type"], "completed", "{pulled}");
    assert_eq!(fs::read_to_string(app.join("README.md")).unwrap(), "second\n");
    assert_eq!(fs::read_to_string(app.join("new")).unwrap(), "of the agent\n");

    // Its replica is killed: the checkout stays with the agent's user until somebody works there.
    let began = marks.path().join("began");
    let hangs = AgentScript::new().write("left", "x").touch(&began).hang();
    let body = json!({"prompt": hangs.prompt(), "workspace": "app"});
    let url = format!("{}/api/execute", stack.claude_url());
    let mut killed = SseClient::post(&url, &body).send().await;
    wait_for("the agent", PATIENCE, || async { began.exists().then_some(()) }).await;
    let [replica] = *stack.processes_of("claude-code-api") else { panic!("one replica") };
    kill(Pid::from_raw(replica.cast_signed()), Signal::SIGKILL).unwrap();
    assert_eq!(killed.collect_all().await.last().unwrap().json["code"], "replica_lost");
    let agents = || async { stack.agents().is_empty().then_some(()) };
    wait_for("the end of the agent", PATIENCE, agents).await;
    assert_ne!((owner(&app), owner(&app.join("left"))), (0, 0));
    git.commit("app", "main", &[("README.md", "third\n")]);
    let pulled = pull().await;
    assert_eq!(pulled["type"], "completed", "{pulled}");
    assert_eq!(fs::read_to_string(app.join("README.md")).unwrap(), "third\n");
    assert_eq!((owner(&app), owner(&app.join("left")), owner(&app.join(".git/index"))), (0, 0, 0));
    let done = execute(&AgentScript::new().write("left", "again"), Some(session)).await;
    assert_eq!(done["type"], "completed", "{done}");
}
