//! Conversations that continue in other replicas.

use std::{fs, path::Path, process::Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{
    AgentScript, GitServer, SseClient, SseEvent, SseRequest, Stack, http_json, skip, wait_for,
};
use tokio::process::Command;

use crate::support::{
    Marks, PATIENCE, execute, post_execute, post_workflow, process_of, registry, send_signal,
    terminal, without_waits, workflow,
};

async fn ask(stack: &Stack, method: &str, path: &str) -> (u16, Value) {
    let url = format!("{}{path}", stack.claude_url());
    let (status, _, body) = http_json(method, &url, None, &[]).await;
    (status.as_u16(), body)
}

/// Creates a session and returns its ID.
async fn create_session(stack: &Stack) -> String {
    let (status, session) = ask(stack, "POST", "/api/sessions").await;
    assert_eq!(status, 200, "{session}");
    session["sessionId"].as_str().unwrap().to_owned()
}

fn post_stream(stack: &Stack, session: &str, script: &AgentScript) -> SseRequest {
    let url = format!("{}/api/stream/{session}", stack.claude_url());
    SseClient::post(&url, &execute(script)).service(contract::Service::Claude)
}

/// Clients that were written for the original services, in three languages.
#[tokio::test]
async fn the_original_clients_work_unchanged() {
    let stack = Stack::builder().replicas(1, 1, 2).start().await;
    for (interpreter, script) in
        [("node", "sessions.mjs"), ("python3", "sessions.py"), ("bash", "sessions.sh")]
    {
        let there = Command::new(interpreter).arg("--version").stdout(Stdio::null()).status().await;
        if !there.is_ok_and(|status| status.success()) {
            skip("the_original_clients_work_unchanged", &format!("{interpreter} is not installed"));
            continue;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
        let output = Command::new(interpreter)
            .arg(&script)
            .arg(stack.claude_url())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} failed: {stderr}", script.display());
        let lines: Vec<Value> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect();
        let [first, one, second, two, list, deleted] = &*lines else { panic!("{lines:?}") };
        assert_eq!((&first["type"], &first["resuming"]), (&json!("connected"), &json!(false)));
        assert_eq!((&second["type"], &second["resuming"]), (&json!("connected"), &json!(true)));
        assert_eq!([&one["type"], &two["type"]], ["completed", "completed"]);
        let session = &first["sessionId"];
        assert_eq!([&second["sessionId"], &second["resumedFrom"]], [session, session]);
        assert_eq!(first["workspace"], second["workspace"]);
        assert_eq!(list["count"], 1);
        assert_eq!(list["sessions"][0]["sessionId"], *session);
        assert_eq!(*deleted, json!({"message": "Session deleted", "sessionId": session}));
    }
    let (_, list) = ask(&stack, "GET", "/api/sessions").await;
    assert_eq!(list, json!({"sessions": [], "count": 0}));
}

#[tokio::test]
async fn two_requests_on_one_session_take_turns_in_the_queue() {
    let stack = Stack::builder().replicas(1, 1, 3).start().await;
    let marks = Marks::new();
    let session = create_session(&stack).await;
    let script = |name: &str| {
        AgentScript::new()
            .log_run(marks.path("runs"))
            .touch(marks.path(name))
            .wait_file(marks.path("gate"))
            .log_run(marks.path("runs"))
    };
    let mut first = post_stream(&stack, &session, &script("first")).send().await;
    marks.wait("first").await;
    // The same session, named in the body.
    let mut body = execute(&script("second"));
    body["resumeSessionId"] = session.clone().into();
    let mut second = post_execute(&stack, &body).send().await;
    let queued = second.next_of_kind("queued").await;
    let waiting_for = queued.json["waitingFor"].as_str().unwrap();
    assert!(waiting_for.contains(&session) && waiting_for.contains(&first.job_id()), "{queued:?}");
    let (status, busy) = ask(&stack, "DELETE", &format!("/api/sessions/{session}")).await;
    assert_eq!((status, &busy["code"]), (503, &json!("busy")));
    marks.open("gate");
    for response in [&mut first, &mut second] {
        assert_eq!(terminal(&response.collect_all().await)["type"], "completed");
    }
    let runs = marks.lines("runs");
    assert_eq!(runs.len(), 4);
    assert!(
        runs[0] == runs[1] && runs[2] == runs[3],
        "two agents ran in the session at once: {runs:?}"
    );
}

/// A session that an `execute` has created belongs to that job while it runs.
#[tokio::test]
async fn a_job_waits_for_the_job_that_created_its_session() {
    let stack = Stack::builder().replicas(1, 1, 2).start().await;
    let marks = Marks::new();
    let script = AgentScript::new().touch(marks.path("began")).wait_file(marks.path("gate"));
    let mut first = post_execute(&stack, &execute(&script)).send().await;
    let session = first.next_of_kind("connected").await.json["sessionId"].clone();
    marks.wait("began").await;
    let mut body = execute(&AgentScript::new().say("after"));
    body["resumeSessionId"] = session.clone();
    let mut second = post_execute(&stack, &body).send().await;
    let queued = second.next_of_kind("queued").await;
    assert!(!marks.exists("gate"), "{queued:?}");
    marks.open("gate");
    assert_eq!(terminal(&first.collect_all().await)["type"], "completed");
    let events = without_waits(second.collect_all().await);
    assert_eq!(
        (&events[0].json["sessionId"], &events[0].json["resuming"]),
        (&session, &json!(true))
    );
    assert_eq!(terminal(&events)["type"], "completed");
}

#[tokio::test]
async fn a_conversation_survives_the_death_of_its_replica() {
    let stack = Stack::builder().replicas(1, 1, 2).start().await;
    let marks = Marks::new();
    let session = create_session(&stack).await;
    let script = AgentScript::new().touch(marks.path("began")).wait_file(marks.path("gate"));
    let mut killed = post_stream(&stack, &session, &script).send().await;
    marks.wait("began").await;
    let busy = stack
        .processes_of("claude-code-api")
        .into_iter()
        .find(|pid| testkit::descendants(*pid).iter().any(|it| it.cmdline().contains(&session)))
        .expect("the replica that runs the agent");
    send_signal(busy, Signal::SIGKILL);
    assert_eq!(terminal(&killed.collect_all().await)["code"], "replica_lost");
    let events = post_stream(&stack, &session, &AgentScript::new().say("on"))
        .send()
        .await
        .collect_all()
        .await;
    let events = without_waits(events);
    assert_eq!(events[0].json["resuming"], true, "the session does not remember the killed job");
    assert_eq!(terminal(&events)["type"], "completed");
}

/// A session continues in its workspace. If that is a shared checkout, the job waits for its turn there.
#[tokio::test]
async fn a_session_in_a_shared_checkout_waits_for_its_turn() {
    let stack = Stack::builder().replicas(1, 1, 2).start().await;
    let marks = Marks::new();
    fs::create_dir_all(stack.workspace().join("shared/.git")).unwrap();
    let mut body = execute(&AgentScript::new().say("hello"));
    body["workspace"] = "shared".into();
    let events = post_execute(&stack, &body).send().await.collect_all().await;
    let session = without_waits(events)[0].json["sessionId"].as_str().unwrap().to_owned();

    let mut body =
        execute(&AgentScript::new().touch(marks.path("in")).wait_file(marks.path("gate")));
    body["workspace"] = "shared".into();
    let mut holder = post_execute(&stack, &body).send().await;
    marks.wait("in").await;
    let mut waiting = post_stream(&stack, &session, &AgentScript::new().say("x")).send().await;
    let queued = waiting.next_of_kind("queued").await;
    assert!(queued.json["waitingFor"].as_str().unwrap().contains("'shared'"), "{queued:?}");
    marks.open("gate");
    assert_eq!(terminal(&holder.collect_all().await)["type"], "completed");
    let events = without_waits(waiting.collect_all().await);
    let shared = stack.workspace().canonicalize().unwrap().join("shared");
    assert_eq!(events[0].json["workspace"], shared.to_str().unwrap());

    // If the workspace has been removed, the error says so, and the session stays.
    fs::remove_dir_all(stack.workspace().join("shared")).unwrap();
    let mut gone = post_stream(&stack, &session, &AgentScript::new().say("x")).send().await;
    assert_eq!(terminal(&gone.collect_all().await)["code"], "workspace_gone");
    assert_eq!(ask(&stack, "GET", &format!("/api/sessions/{session}")).await.0, 200);
}

#[tokio::test]
async fn unknown_sessions_are_refused_and_do_not_consume_a_replica() {
    let stack = Stack::builder().start().await;
    let replica = process_of(&stack, "claude-code-api");
    let session = create_session(&stack).await;
    let unknown = "00000000-0000-4000-8000-000000000000";
    for id in [unknown, "x", "..%2f..", "%00"] {
        let url = format!("{}/api/stream/{id}", stack.claude_url());
        let body = json!({"prompt": "x"}).to_string();
        let headers = [("content-type", "application/json")];
        let (status, _, error) = http_json("POST", &url, Some(body.into()), &headers).await;
        assert_eq!((status.as_u16(), &error["code"]), (404, &json!("session_not_found")), "{id}");
        assert_eq!(ask(&stack, "DELETE", &format!("/api/sessions/{id}")).await.0, 404);
    }
    let url = format!("{}/api/stream/{session}", stack.claude_url());
    let body = json!({"prompt": "x", "resumeSessionId": unknown}).to_string();
    let headers = [("content-type", "application/json")];
    let (status, _, error) = http_json("POST", &url, Some(body.into()), &headers).await;
    assert_eq!((status.as_u16(), &error["field"]), (400, &json!("resumeSessionId")));
    assert_eq!(process_of(&stack, "claude-code-api"), replica);
}

/// The agent's `connected` in the stream of a workflow.
fn connected(events: &[SseEvent]) -> Value {
    let connected = events.iter().find(|event| event.json["sessionId"].is_string()).unwrap();
    connected.json.clone()
}

/// It used to continue in a fresh checkout, without the changes that the conversation was about.
#[tokio::test]
async fn a_workflow_that_resumes_a_session_continues_in_its_checkout() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    git.create_repo("other", &[("b", "b")]);
    let stack = Stack::builder().start().await;
    let first = AgentScript::new().write("change", "made by the first");
    let events =
        post_workflow(&stack, &workflow(&git.url("app"), &first)).send().await.collect_all().await;
    let first = connected(&events);
    let pulled = git.requests("app");
    git.commit("app", "main", &[("upstream", "new")]);
    let checkout = Path::new(first["workspace"].as_str().unwrap()).to_owned();

    let resume = |repo: &str| {
        let mut body = workflow(&git.url(repo), &AgentScript::new().say("again"));
        body["resumeSessionId"] = first["sessionId"].clone();
        body
    };
    let events = post_workflow(&stack, &resume("app")).send().await.collect_all().await;
    assert_eq!(terminal(&events)["type"], "workflow_complete", "{}", terminal(&events));
    let second = connected(&events);
    assert_eq!(second["resuming"], true);
    assert_eq!(
        [&second["sessionId"], &second["workspace"]],
        [&first["sessionId"], &first["workspace"]]
    );
    let said = events.iter().any(|event| {
        let message = event.json["message"].as_str().unwrap_or_default();
        message.contains("Continuing in") && message.contains(checkout.to_str().unwrap())
    });
    let step = events.iter().find(|event| event.kind() == "workflow_step_complete").unwrap();
    assert!(
        said && step.json["targetPath"] == first["workspace"],
        "the stream does not name the checkout"
    );
    assert_eq!(git.requests("app"), pulled, "there was a pull that nobody requested");
    assert!(checkout.join("change").exists() && !checkout.join("upstream").exists());

    let mut body = resume("app");
    body["update"] = true.into();
    let events = post_workflow(&stack, &body).send().await.collect_all().await;
    assert_eq!(terminal(&events)["type"], "workflow_complete", "{}", terminal(&events));
    assert_eq!(connected(&events)["workspace"], first["workspace"]);
    assert!(events.iter().any(|event| event.kind() == "pull_progress"));
    assert!(checkout.join("change").exists() && checkout.join("upstream").exists());

    // These are refused without consuming a replica.
    wait_for("an idle workflow replica", PATIENCE, || async {
        (!registry(&stack, "workflow-api").is_empty()).then_some(())
    })
    .await;
    let replica = process_of(&stack, "workflow-api");
    for (body, status, code) in [
        (resume("other"), 409, "different_repository"),
        (
            {
                let mut body = resume("app");
                body["resumeSessionId"] = "00000000-0000-4000-8000-000000000000".into();
                body
            },
            404,
            "session_not_found",
        ),
    ] {
        let url = format!("{}/api/workflow", stack.workflow_url());
        let headers = [("content-type", "application/json")];
        let (found, _, error) =
            http_json("POST", &url, Some(body.to_string().into()), &headers).await;
        assert_eq!((found.as_u16(), &error["code"]), (status, &json!(code)), "{error}");
    }
    assert_eq!(process_of(&stack, "workflow-api"), replica);
}

/// The workflow holds the turns of the session and of its checkout.
#[tokio::test]
async fn a_workflow_that_resumes_a_session_in_a_shared_checkout_takes_its_turn_there() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().replicas(3, 1, 2).start().await;
    let marks = Marks::new();
    let shared = |script: &AgentScript| {
        let mut body = workflow(&git.url("app"), script);
        body["directory"] = "shared".into();
        body
    };
    let first = post_workflow(&stack, &shared(&AgentScript::new().say("first")))
        .send()
        .await
        .collect_all()
        .await;
    let first = connected(&first);
    let script = AgentScript::new().touch(marks.path("in")).wait_file(marks.path("gate"));
    let mut holder = post_workflow(&stack, &shared(&script)).send().await;
    marks.wait("in").await;
    let mut body = workflow(&git.url("app"), &AgentScript::new().say("second"));
    body["resumeSessionId"] = first["sessionId"].clone();
    let mut waiting = post_workflow(&stack, &body).send().await;
    let queued = waiting.next_of_kind("queued").await;
    assert!(queued.json["waitingFor"].as_str().unwrap().contains("'shared'"), "{queued:?}");
    marks.open("gate");
    assert_eq!(terminal(&holder.collect_all().await)["type"], "workflow_complete");
    let events = waiting.collect_all().await;
    assert_eq!(terminal(&events)["type"], "workflow_complete", "{}", terminal(&events));
    assert_eq!(connected(&events)["workspace"], first["workspace"]);
}

#[tokio::test]
async fn a_workflow_continues_a_session_in_a_directory_that_it_names() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().start().await;
    let body = workflow(&git.url("app"), &AgentScript::new().say("first"));
    let first = post_workflow(&stack, &body).send().await.collect_all().await;
    let first = connected(&first);

    let mut body = workflow(&git.url("app"), &AgentScript::new().say("second"));
    body["resumeSessionId"] = first["sessionId"].clone();
    body["directory"] = "shared".into();
    let events = post_workflow(&stack, &body).send().await.collect_all().await;
    assert_eq!(terminal(&events)["type"], "workflow_complete", "{}", terminal(&events));
    let second = connected(&events);
    assert_eq!((&second["sessionId"], &second["resuming"]), (&first["sessionId"], &json!(true)));
    assert!(second["workspace"].as_str().unwrap().ends_with("/shared"));
    let path = format!("/api/sessions/{}", first["sessionId"].as_str().unwrap());
    assert_eq!(ask(&stack, "GET", &path).await.1["workspace"], second["workspace"]);
}

/// A session whose record could not be read used to look like no session at all.
#[tokio::test]
async fn a_damaged_session_is_reported_and_can_be_deleted() {
    let stack = Stack::builder().start().await;
    let session = create_session(&stack).await;
    let record = stack.workspace().join(format!(".stack/sessions/{session}/meta.json"));
    fs::write(record, "{").unwrap();
    let body = json!({"prompt": "x", "resumeSessionId": session}).to_string();
    let headers = [("content-type", "application/json")];
    for url in [
        format!("{}/api/execute", stack.claude_url()),
        format!("{}/api/stream/{session}", stack.claude_url()),
    ] {
        let (status, _, error) = http_json("POST", &url, Some(body.clone().into()), &headers).await;
        assert_eq!((status.as_u16(), &error["code"]), (409, &json!("session_damaged")), "{error}");
    }
    let path = format!("/api/sessions/{session}");
    assert_eq!(ask(&stack, "GET", &path).await.0, 409);
    assert_eq!(ask(&stack, "GET", "/api/sessions").await.1["count"], 0);
    assert_eq!(ask(&stack, "DELETE", &path).await.0, 200);
    assert_eq!(ask(&stack, "GET", &path).await.0, 404);
}
