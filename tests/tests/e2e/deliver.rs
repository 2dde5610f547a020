//! The result of a workflow is delivered to a real git server.

use contract::Service;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{AgentScript, GitServer, SseClient, SseEvent, SseRequest, Stack};

use crate::support::{
    Marks, get, job, post_workflow, process_of, send_signal, stack_and_repository, terminal,
    without_waits, workflow,
};

/// The body of a workflow whose result becomes a branch.
fn delivering(url: &str, script: &AgentScript) -> Value {
    let mut body = workflow(url, script);
    body["deliver"] = json!({"mode": "branch"});
    body
}

/// `POST /api/jobs/:id/deliver`.
fn post_deliver(stack: &Stack, id: &str, body: &Value) -> SseRequest {
    let url = format!("{}/api/jobs/{id}/deliver", stack.workflow_url());
    SseClient::post(&url, body).service(Service::Pull)
}

fn branch_of(id: &str) -> String {
    format!("agent/{}", &id[id.len() - 8..])
}

fn step(events: &[SseEvent], kind: &str, step: u64) -> Value {
    let found = events.iter().find(|it| it.kind() == kind && it.json["step"] == step);
    found.unwrap_or_else(|| panic!("no {kind} of step {step}")).json.clone()
}

/// Milliseconds between two events.
fn between(from: &Value, to: &Value) -> i64 {
    let at = |event: &Value| {
        let time: contract::Timestamp = event["timestamp"].as_str().unwrap().parse().unwrap();
        time.as_millisecond()
    };
    at(to) - at(from)
}

#[tokio::test]
async fn a_result_becomes_a_branch() {
    let (git, stack) = stack_and_repository().await;
    let base = git.head("app", "main").unwrap();
    let url = git.url("app");

    let script = AgentScript::new().write("b", "new\n").write("a", "2\n");
    let mut response = post_workflow(&stack, &delivering(&url, &script)).send().await;
    let id = response.job_id().clone();
    let events = without_waits(response.collect_all().await);
    let complete = step(&events, "workflow_step_complete", 3);
    let (branch, commit) = (branch_of(&id), complete["commit"].as_str().unwrap());
    let ended = events.iter().find(|it| it.kind() == "completed").unwrap();
    let took = between(&ended.json, &complete);
    println!("from the end of the agent to the pushed branch: {took} ms");
    assert_eq!(step(&events, "workflow_started", 3)["stepName"], "deliver_result");
    assert_eq!(
        (&complete["branch"], git.head("app", &branch).as_deref()),
        (&json!(branch), Some(commit))
    );
    let progress: Vec<_> = events
        .iter()
        .filter(|it| it.kind() == "delivery_progress")
        .map(|it| it.json["data"]["type"].as_str().unwrap())
        .collect();
    assert_eq!((progress.first(), progress.last()), (Some(&"connected"), Some(&"completed")));
    let delivery =
        json!({"mode": "branch", "status": "delivered", "branch": branch, "commit": commit});
    assert_eq!(terminal(&events)["type"], "workflow_complete");
    assert_eq!(terminal(&events)["delivery"], delivery);
    assert_eq!(job(&stack, &id).await["delivery"], delivery);
    assert_eq!(git.git("app", &["rev-parse", &format!("{commit}^")]), base);
    assert_eq!(git.git("app", &["diff-tree", "-r", "--name-status", &base, commit]), "M\ta\nA\tb");
    let trailers = git.git("app", &["log", "-1", "--format=%(trailers:only)", commit]);
    assert!(trailers.starts_with(&format!("Job-Id: {id}\nSession-Id: ")), "{trailers}");

    // A resumed workflow adds a commit to the branch.
    let session = ended.json["sessionId"].clone();
    let mut body = delivering(&url, &AgentScript::new().write("c", "more\n"));
    body["resumeSessionId"] = session;
    let events = post_workflow(&stack, &body).send().await.collect_all().await;
    let complete = step(&events, "workflow_step_complete", 3);
    let second = complete["commit"].as_str().unwrap();
    assert_eq!(complete["branch"], branch);
    assert_eq!(git.git("app", &["rev-parse", &format!("{second}^")]), commit);
    assert_eq!(git.git("app", &["diff-tree", "-r", "--name-status", commit, second]), "A\tc");
    // What is there now is no longer the result of the first alone.
    let events = post_deliver(&stack, &id, &json!({"mode": "branch", "branch": "again"}))
        .send()
        .await
        .collect_all()
        .await;
    assert_eq!(terminal(&events)["code"], "superseded");

    // Nothing changed is no failure.
    let events = post_workflow(&stack, &delivering(&url, &AgentScript::new()))
        .send()
        .await
        .collect_all()
        .await;
    let empty = json!({"mode": "branch", "status": "empty"});
    assert_eq!(terminal(&events)["delivery"], empty, "{}", terminal(&events));

    // A workflow that asked for no delivery, later.
    let script = AgentScript::new().write("d", "later\n");
    let mut response = post_workflow(&stack, &workflow(&url, &script)).send().await;
    let id = response.job_id().clone();
    let events = response.collect_all().await;
    assert_eq!(terminal(&events)["delivery"], Value::Null);
    assert!(!events.iter().any(|it| it.json["step"] == 3));
    let asked = json!({"mode": "branch", "branch": "later", "title": "Later"});
    let mut response = post_deliver(&stack, &id, &asked).send().await;
    let delivery = response.job_id().clone();
    let events = response.collect_all().await;
    assert_eq!(terminal(&events)["branch"], "later", "{}", terminal(&events));
    assert_eq!(git.git("app", &["log", "-1", "--format=%s", "later"]), "Later");
    let (status, view) = get(&format!("{}/api/jobs/{delivery}", stack.pull_url())).await;
    assert_eq!((status, &view["service"]), (200, &json!("github-pull-api")));
    let (status, _, error) = testkit::http_json(
        "POST",
        &format!("{}/api/jobs/{delivery}/deliver", stack.pull_url()),
        Some(json!({"mode": "branch"}).to_string().into()),
        &[],
    )
    .await;
    assert_eq!((status.as_u16(), &error["code"]), (400, &json!("invalid_field")), "{error}");
}

/// A repository of the size of linkerd2-proxy: 250 files of 20 KiB, and a history.
#[tokio::test]
async fn a_result_is_at_the_host_soon_after_the_agent_has_ended() {
    const GOAL: i64 = 2000;
    let git = GitServer::start().await;
    git.create_big_repo("app", 250, 20 << 10);
    for n in 0..100 {
        git.commit("app", "main", &[(&format!("src/{}", n % 10), &format!("{n}\n"))]);
    }
    git.allow_push("app");
    let stack = Stack::builder().start().await;
    let url = git.url("app");
    let mut session = None;
    for n in 0..3 {
        let script =
            AgentScript::new().write(format!("new-{n}"), "new\n").write("src/1", "changed\n");
        let mut body = delivering(&url, &script);
        if let Some(session) = &session {
            body["resumeSessionId"] = json!(session);
        }
        let events = post_workflow(&stack, &body).send().await.collect_all().await;
        assert_eq!(terminal(&events)["delivery"]["status"], "delivered", "{}", terminal(&events));
        let ended = events.iter().find(|it| it.kind() == "completed").unwrap();
        let took = between(&ended.json, &step(&events, "workflow_step_complete", 3));
        println!("from the end of the agent to the pushed branch: {took} ms");
        assert!(took <= GOAL, "{took} ms");
        session = ended.json["sessionId"].as_str().map(str::to_owned);
    }
}

#[tokio::test]
async fn a_delivery_whose_replica_dies_after_the_push_is_found_again() {
    let (git, stack) = stack_and_repository().await;
    let marks = Marks::new();
    // The branch is there, and the host does not say so until the gate opens.
    git.set_hook(
        "app",
        "post-receive",
        &format!(
            "touch {}; while [ ! -e {} ]; do sleep 0.05; done",
            marks.path("pushed").display(),
            marks.path("gate").display()
        ),
    );
    let script = AgentScript::new().write("b", "new\n");
    let mut response = post_workflow(&stack, &delivering(&git.url("app"), &script)).send().await;
    let branch = branch_of(&response.job_id());
    marks.wait("pushed").await;
    let first = git.head("app", &branch).unwrap();
    send_signal(process_of(&stack, "github-pull-api"), Signal::SIGKILL);
    marks.open("gate");
    let events = response.collect_all().await;
    let messages: Vec<_> = events.iter().filter_map(|it| it.json["message"].as_str()).collect();
    assert!(messages.iter().any(|it| it.contains("delivering again")), "{messages:?}");
    let end = terminal(&events);
    assert_eq!(end["type"], "workflow_complete", "{end}");
    assert_eq!(end["delivery"]["commit"], first.as_str());
    assert_eq!(git.git("app", &["branch", "--format=%(refname:short)"]), format!("{branch}\nmain"));
    assert_eq!(git.git("app", &["rev-list", "--count", &branch, "^main"]), "1");

    // A host that declines the push fails the workflow, and nothing is lost.
    git.set_hook("app", "pre-receive", "echo 'no tickets, no commits' >&2; exit 1");
    let script = AgentScript::new().write("c", "c\n");
    let mut response = post_workflow(&stack, &delivering(&git.url("app"), &script)).send().await;
    let id = response.job_id().clone();
    let events = response.collect_all().await;
    let end = terminal(&events);
    assert_eq!((&end["code"], &end["step"]), (&json!("push_rejected"), &json!(3)), "{end}");
    let sentence = end["error"].as_str().unwrap();
    assert!(sentence.contains("no tickets, no commits"), "{sentence}");
    assert!(sentence.contains(&format!("POST /api/jobs/{id}/deliver")), "{sentence}");
    git.set_hook("app", "pre-receive", "exit 0");
    let events =
        post_deliver(&stack, &id, &json!({"mode": "branch"})).send().await.collect_all().await;
    assert_eq!(terminal(&events)["branch"], branch_of(&id), "{}", terminal(&events));
}

/// The host goes on taking the push of the replica that was killed, while the next one pushes the same again.
#[tokio::test]
async fn a_delivery_whose_replica_dies_during_the_push_is_made_once() {
    let (git, stack) = stack_and_repository().await;
    let marks = Marks::new();
    git.set_hook(
        "app",
        "pre-receive",
        &format!(
            "if mkdir {first}; then touch {one}; else touch {two}; fi; while [ ! -e {gate} ]; do sleep 0.05; done",
            first = marks.path("first").display(),
            one = marks.path("one").display(),
            two = marks.path("two").display(),
            gate = marks.path("gate").display()
        ),
    );
    let script = AgentScript::new().write("b", "new\n");
    let mut response = post_workflow(&stack, &delivering(&git.url("app"), &script)).send().await;
    let branch = branch_of(&response.job_id());
    marks.wait("one").await;
    send_signal(process_of(&stack, "github-pull-api"), Signal::SIGKILL);
    marks.wait("two").await;
    marks.open("gate");
    let events = response.collect_all().await;
    let end = terminal(&events);
    assert_eq!(end["type"], "workflow_complete", "{end}");
    assert_eq!(end["delivery"]["commit"], json!(git.head("app", &branch)));
    assert_eq!(git.git("app", &["branch", "--format=%(refname:short)"]), format!("{branch}\nmain"));
    assert_eq!(git.git("app", &["rev-list", "--count", &branch, "^main"]), "1");
}
