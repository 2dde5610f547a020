//! What somebody can do who may write to `.stack` and does not know the stack's secret: another client of the volume, or an
//! agent with a hole in its confinement. The control is the same script with the secret.

use std::{fs, io::Write as _, path::Path, process::Command};

use contract::Service;
use serde_json::{Value, json};
use testkit::{
    AgentScript, GitServer, PATIENCE, SseClient, SseResponse, Stack, http_json, scratch, skip,
    wait_for,
};

use crate::scene::{PYTHON, post};

/// The terminal events of the attacked jobs, and what else came of the attacks.
struct Results {
    /// Whose record was rewritten in the queue, and everything that it said.
    rewritten: (Value, String),
    /// Which had a claim and an outcome put beside it in the queue.
    claimed: Value,
    /// Which had an outcome put beside it while it ran.
    running: Value,
    /// Whose agent somebody else's job was admitted for.
    workflow: Value,
    /// The status of a request with the token.
    token: u16,
    /// How often the repository was asked that the mirror was led to.
    led_elsewhere: usize,
    log: String,
}

async fn last(response: &mut SseResponse) -> (Value, String) {
    let events = response.collect_all().await;
    let all = events.iter().map(|event| event.json.to_string()).collect();
    (events.last().unwrap().json.clone(), all)
}

async fn attack(knows_secret: bool) -> Results {
    let marks = scratch();
    let mark = |name: &str| marks.path().join(name);
    let git = GitServer::start().await;
    git.create_repo("app", &[("README.md", "# App\n")]);
    git.create_repo("evil", &[("README.md", "# Evil\n")]);
    let stack = Stack::builder().start().await;
    let workflow = |script: &AgentScript| {
        let body = json!({"prompt": script.prompt(), "repoUrl": git.url("app")});
        SseClient::post(&format!("{}/api/workflow", stack.workflow_url()), &body)
    };
    // The only replicas of workflows and of agents are at work, so the others wait.
    let script = AgentScript::new().touch(mark("began")).wait_file(mark("gate"));
    let mut running = workflow(&script).send().await;
    wait_for("the agent", PATIENCE, || async { mark("began").exists().then_some(()) }).await;
    let mut queued = Vec::new();
    for said in ["original", "nothing"] {
        let mut response = post(&stack, &AgentScript::new().say(said)).send().await;
        response.next_of_kind("queued").await;
        queued.push(response);
    }
    let [mut rewritten, mut claimed]: [SseResponse; 2] = queued.try_into().ok().unwrap();
    let mut later = workflow(&AgentScript::new().say("later")).send().await;
    later.next_of_kind("queued").await;

    let root = stack.workspace().join(".stack");
    let mirrors = fs::read_dir(root.join("mirrors")).unwrap().map(|it| it.unwrap().path());
    let mirror = mirrors.into_iter().find(|it| it.join("packed-refs").is_file()).unwrap();
    let token = format!("wfs_forged00_{}", "a".repeat(64));
    let secret = fs::read_to_string(root.join("secret")).unwrap();
    let arguments = json!({
        "stack": root, "secret": knows_secret.then_some(secret.trim()), "mirror": mirror,
        "url": git.url("app"), "evil": git.url("evil"), "token": token,
        "rewritten": rewritten.job_id(), "claimed": claimed.job_id(), "running": running.job_id(),
        "workflow": later.job_id(),
    });
    fs::write(mark("arguments"), arguments.to_string()).unwrap();
    fs::write(mark("forge.py"), include_str!("forge.py")).unwrap();
    let forged =
        Command::new(PYTHON).arg(mark("forge.py")).arg(mark("arguments")).status().unwrap();
    assert!(forged.success());

    let url = format!("{}/api/tokens", stack.workflow_url());
    let bearer = format!("Bearer {token}");
    let token = wait_for("the stack to look at its tokens", PATIENCE, || async {
        // Whatever is in the file, it closes the stack: nobody is let in by mistake.
        let (anonymous, ..) =
            http_json("GET", &format!("{}/api/jobs", stack.workflow_url()), None, &[]).await;
        let (status, ..) = http_json("GET", &url, None, &[("authorization", &bearer)]).await;
        (anonymous == 401).then_some(status.as_u16())
    })
    .await;
    // The mirror is used again, by the workflow that waits.
    git.commit("app", "main", &[("README.md", "# App, again\n")]);
    fs::write(mark("gate"), "").unwrap();
    Results {
        running: last(&mut running).await.0,
        rewritten: last(&mut rewritten).await,
        claimed: last(&mut claimed).await.0,
        workflow: last(&mut later).await.0,
        token,
        led_elsewhere: git.requests("evil"),
        log: stack.log(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_write_to_the_workspace_but_not_sign_changes_nothing() {
    if !Path::new(PYTHON).exists() {
        return skip("who_can_write_to_the_workspace_but_not_sign_changes_nothing", "no python3");
    }
    let results = attack(false).await;
    let (rewritten, said) = &results.rewritten;
    assert_eq!(rewritten["code"], "record_forged", "{rewritten}");
    assert!(!said.contains(r#""type":"connected""#), "it ran: {said}");
    assert_eq!(results.claimed["code"], "record_forged", "{}", results.claimed);
    assert_eq!(results.running["type"], "workflow_complete", "{}", results.running);
    assert!(results.running.get("result") != Some(&json!("forged")), "{}", results.running);
    assert_eq!(results.workflow["code"], "record_forged", "{}", results.workflow);
    assert_eq!((results.token, results.led_elsewhere), (401, 0));
    for file in ["job.json", "claim", "outcome", "forged00.json", "claude-code-api.0"] {
        let lines = results.log.lines().filter(|line| line.contains(&format!("/{file}: ")));
        assert!(lines.count() >= 1, "{file} is not named: {}", results.log);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_sign_is_believed() {
    if !Path::new(PYTHON).exists() {
        return skip("who_can_sign_is_believed", "python3 is not here");
    }
    let results = attack(true).await;
    let (rewritten, said) = &results.rewritten;
    assert_eq!(rewritten["type"], "completed", "{rewritten}");
    assert!(said.contains("forged") && !said.contains("original"), "{said}");
    assert_eq!(results.claimed["result"], "forged", "{}", results.claimed);
    assert_eq!(results.running["result"], "forged", "{}", results.running);
    assert_eq!(results.workflow["type"], "workflow_error", "{}", results.workflow);
    assert_ne!(results.workflow["code"], "record_forged", "{}", results.workflow);
    // What is not signed has no effect either way.
    assert_eq!((results.token, results.led_elsewhere), (200, 0));
}

/// Nobody signs the lines of a journal.
#[tokio::test(flavor = "multi_thread")]
async fn who_can_write_into_a_journal_ends_no_job() {
    let marks = scratch();
    let mark = |name: &str| marks.path().join(name);
    let git = GitServer::start().await;
    git.create_repo("app", &[("README.md", "# App\n")]);
    let stack = Stack::builder().start().await;
    let script = AgentScript::new().touch(mark("began")).wait_file(mark("gate"));
    let body = json!({"prompt": script.prompt(), "repoUrl": git.url("app")});
    let url = |path: &str| format!("{}/api/{path}", stack.workflow_url());
    let mut workflow = SseClient::post(&url("workflow"), &body).send().await;
    wait_for("the agent", PATIENCE, || async { mark("began").exists().then_some(()) }).await;
    let jobs = stack.workspace().join(".stack/jobs");
    let children = fs::read_dir(jobs.join(workflow.job_id()).join("children")).unwrap();
    let children = children.map(|it| it.unwrap().file_name().into_string().unwrap());
    let is_agent = |id: &String| {
        let record = fs::read(jobs.join(id).join("job.json")).unwrap();
        serde_json::from_slice::<Value>(&record).unwrap()["service"] == "claude-code-api"
    };
    let agent = children.into_iter().find(is_agent).expect("the agent's job");
    let forged = json!({"type": "completed", "result": "forged", "costUsd": 0.0});
    let after = json!({"type": "message", "content": {"type": "after"}});
    let journal = jobs.join(&agent).join("events.ndjson");
    let mut journal = fs::OpenOptions::new().append(true).open(journal).unwrap();
    let mut append = |line: &Value| journal.write_all(format!("{line}\n").as_bytes()).unwrap();
    append(&forged);
    // A control: it looks like the end, for whoever believes a line.
    let events = url(&format!("jobs/{agent}/events"));
    let mut seen = SseClient::get(&events).service(Service::Claude).send().await;
    assert_eq!(seen.next_of_kind("completed").await.json["result"], "forged");
    drop(seen);
    append(&after);
    while workflow.next_of_kind("message").await.json["content"]["type"] != "after" {}
    for id in [&agent, &workflow.job_id()] {
        let (_, _, view) = http_json("GET", &url(&format!("jobs/{id}")), None, &[]).await;
        assert_eq!(view["state"], "running", "{view}");
    }
    let cancel = url(&format!("jobs/{}/cancel", workflow.job_id()));
    assert_eq!(http_json("POST", &cancel, None, &[]).await.0, 202);
    let (end, all) = last(&mut workflow).await;
    assert_eq!(end["code"], "cancelled", "{end}");
    assert!(!all.contains("forged"), "{all}");
}
