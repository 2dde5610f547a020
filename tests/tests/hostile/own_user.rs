//! Checkouts and sessions of agents that have a user of their own.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    AgentScript, GitServer, PATIENCE, SseClient, Stack, copy_program, free_port, http_json,
    scratch, scripted_agent, skip, target_binary, wait_for,
};

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

/// The first of two jobs in one checkout once took the files away from the other one when it ended.
#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_in_the_own_directory_of_one_take_turns() {
    const TEST: &str = "two_jobs_in_the_own_directory_of_one_take_turns";
    if !geteuid().is_root() {
        return skip(TEST, "only root can give agents a user of their own");
    }
    let (place, marks) = (TempDir::new().unwrap(), scratch());
    let builder = Stack::builder().replicas(1, 1, 2).workspace(place.path().join("workspace"));
    let stack = separate(builder, place.path(), marks.path()).start().await;
    let url = format!("{}/api/execute", stack.claude_url());
    let (began, goes_on) = (marks.path().join("began"), marks.path().join("goes-on"));
    let script = AgentScript::new().write("one", "x").touch(&began).wait_file(&goes_on);
    let body = json!({"prompt": script.write("two", "x").write("one", "y").prompt()});
    let mut first = SseClient::post(&url, &body).send().await;
    let id = first.next_of_kind("connected").await.json["jobId"].as_str().unwrap().to_owned();
    wait_for("the first agent", PATIENCE, || async { began.exists().then_some(()) }).await;

    let body = json!({"prompt": AgentScript::new().write("three", "x").prompt(),
        "workspace": format!("jobs/{id}/work")});
    let mut second = SseClient::post(&url, &body).send().await;
    let queued = second.next_of_kind("queued").await;
    assert!(queued.json["waitingFor"].as_str().unwrap().contains(&id), "{queued:?}");
    // So does a pull there.
    let git = GitServer::start().await;
    git.create_repo("app", &[("README.md", "first\n")]);
    let body = json!({"repoUrl": git.url("app"), "workspace": format!("jobs/{id}/work")});
    let mut pull = SseClient::post(&format!("{}/api/pull", stack.pull_url()), &body).send().await;
    pull.next_of_kind("queued").await;
    fs::write(&goes_on, "").unwrap();
    for job in [&mut first, &mut second] {
        let end = job.collect_all().await.last().unwrap().json.clone();
        assert_eq!(end["type"], "completed", "{end}");
    }
    pull.collect_all().await;
    let own = stack.workspace().join("jobs").join(&id);
    for file in ["", "work", "work/one", "work/two", "work/three"] {
        assert_eq!(owner(&own.join(file)), 0, "{file}");
    }
    // Nobody gets through any more to what was handed over.
    let sessions = fs::read_dir(stack.workspace().join(".stack/sessions")).unwrap();
    let sessions: Vec<_> = sessions.map(|it| it.unwrap().path()).collect();
    assert_eq!(sessions.len(), 2);
    for way in sessions.iter().chain([&own]) {
        assert_eq!(fs::metadata(way).unwrap().mode() & 0o777, 0o700, "{}", way.display());
    }
}

/// A replica that starts as in a container: as root, to become another user at once. It is killed when it is dropped.
struct Replica {
    child: Child,
    url: String,
}

impl Replica {
    async fn start(program: &str, place: &Path, marks: &Path) -> Self {
        let port = free_port();
        let mut command = Command::new(target_binary(program));
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").stdin(Stdio::null());
        command.env("WORKSPACE_DIR", place.join("workspace")).env("PORT", port.to_string());
        command.env("BIND_ADDRESS", "127.0.0.1").env("GIT_ALLOWED_NETWORKS", "127.0.0.0/8");
        command.env("STACK_USER", format!("{STACK}:{STACK}")).env("AGENT_USER", AGENT.to_string());
        command.env("CLAUDE_BIN", place.join("agent")).env("AGENT_WRITE_PATHS", marks);
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let replica = Self { child, url: format!("http://127.0.0.1:{port}") };
        let health = format!("{}/health", replica.url);
        wait_for("the replica", PATIENCE, || async {
            // In a task, because the helper panics as long as nothing listens.
            let health = health.clone();
            tokio::spawn(async move { http_json("GET", &health, None, &[]).await }).await.ok()
        })
        .await;
        replica
    }

    /// A field of its `/proc/<pid>/status`.
    fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who the replicas become, and who agents run as. Neither needs an entry.
const STACK: u32 = 4_294_960_001;
const AGENT: u32 = 4_294_960_002;

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_are_not_root_need_a_few_capabilities() {
    const TEST: &str = "replicas_that_are_not_root_need_a_few_capabilities";
    if !geteuid().is_root() {
        return skip(TEST, "only root can become another user");
    }
    let (place, marks) = (TempDir::new().unwrap(), scratch());
    let (place, workspace) = (place.path(), place.path().join("workspace"));
    fs::create_dir(&workspace).unwrap();
    chown(&workspace, Some(STACK), Some(STACK)).unwrap();
    copy_program(&scripted_agent(), &place.join("agent"));
    for (path, mode) in [(place, 0o755), (&workspace, 0o700), (marks.path(), 0o777)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let git = GitServer::start().await;
    git.create_repo("app", &[("README.md", "first\n")]);
    let app = workspace.join("app");
    let check = |replica: &Replica, capabilities: u64| {
        for ids in ["Uid", "Gid"] {
            assert_eq!(replica.status(ids), vec![STACK.to_string(); 4].join(" "));
        }
        for (set, expected) in
            [("CapEff", capabilities), ("CapPrm", capabilities), ("CapInh", 0), ("CapAmb", 0)]
        {
            assert_eq!(replica.status(set), format!("{expected:016x}"), "{set}");
        }
        assert_eq!(
            (replica.status("Groups"), replica.status("NoNewPrivs")),
            (STACK.to_string(), "1".into())
        );
    };
    let pull = || async {
        let replica = Replica::start("github-pull-api", place, marks.path()).await;
        // CHOWN and DAC_OVERRIDE.
        check(&replica, 0b11);
        let body = json!({"repoUrl": git.url("app"), "directory": "app"});
        ended(format!("{}/api/pull", replica.url), body).await
    };
    let pulled = pull().await;
    assert_eq!((&pulled["type"], owner(&app)), (&json!("completed"), STACK), "{pulled}");

    let replica = Replica::start("claude-code-api", place, marks.path()).await;
    // CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID and SETUID.
    check(&replica, 0b1110_1011);
    let began = marks.path().join("began");
    let script = AgentScript::new()
        .spawn(&[
            "sh",
            "-c",
            &format!("id -u > made && chmod 700 . && mv made '{}'", began.display()),
        ])
        .hang();
    let body = json!({"prompt": script.prompt(), "workspace": "app"});
    let mut response =
        SseClient::post(&format!("{}/api/execute", replica.url), &body).allow_cut().send().await;
    let connected = response.next_of_kind("connected").await.json;
    assert_eq!(connected["isolation"]["uid"], true, "{connected}");
    wait_for("the agent", PATIENCE, || async { began.exists().then_some(()) }).await;
    assert_eq!(fs::read_to_string(&began).unwrap(), format!("{AGENT}\n"));
    drop(replica);

    // Without the capabilities, this pull could not even look into the checkout.
    assert_eq!((owner(&app), fs::metadata(&app).unwrap().mode() & 0o777), (AGENT, 0o700));
    git.commit("app", "main", &[("README.md", "second\n")]);
    let pulled = pull().await;
    assert_eq!(pulled["type"], "completed", "{pulled}");
    assert_eq!(fs::read_to_string(app.join("README.md")).unwrap(), "second\n");
    assert_eq!((owner(&app), owner(&app.join("README.md"))), (STACK, STACK));
}
