//! Reads are answered at once however busy the replicas are, and all readers get the same events.

use std::time::{Duration, Instant};

use contract::Service;
use serde_json::{Value, json};
use testkit::{AgentScript, Fault, GitServer, SseEvent, SseResponse, Stack, wait_for};

use crate::support::{
    Marks, PATIENCE, all_jobs, events_of, execute, get, job, post_execute, post_pull,
    post_workflow, registry, terminal, wait_for_state, without_waits, workflow,
};

/// How long a read may take while every replica is busy.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A stack with every replica busy.
struct Busy {
    stack: Stack,
    git: GitServer,
    marks: Marks,
    /// A pull, an agent run, a workflow that waits for its pull, and one that waits for a replica.
    responses: Vec<SseResponse>,
}

impl Busy {
    async fn start() -> Self {
        let git = GitServer::start().await;
        git.create_repo("app", &[("a", "a")]);
        git.create_repo("stalled", &[("a", "a")]);
        let stack = Stack::builder().start().await;
        let first = post_pull(&stack, &json!({"repoUrl": git.url("app")})).send().await;
        assert_eq!(terminal(&{ first }.collect_all().await)["type"], "completed");
        stack.wait_until_idle().await;

        git.set_fault("stalled", Fault::Stall);
        let marks = Marks::new();
        let mut pull = post_pull(&stack, &json!({"repoUrl": git.url("stalled")})).send().await;
        pull.next_of_kind("connected").await;
        let gate = AgentScript::new().wait_file(marks.path("gate"));
        let mut agent = post_execute(&stack, &execute(&gate)).send().await;
        agent.next_of_kind("connected").await;
        let body = workflow(&git.url("app"), &AgentScript::new());
        let mut flow = post_workflow(&stack, &body).send().await;
        // The workflow's stream shows that its pull is queued.
        let queued = loop {
            let event = flow.next_of_kind("pull_progress").await;
            if event.json["data"]["type"] == "queued" {
                break event.json["data"].clone();
            }
        };
        assert_eq!(
            (&queued["service"], &queued["position"]),
            (&json!("github-pull-api"), &json!(1))
        );
        let mut waiting = post_workflow(&stack, &body).send().await;
        let queued = waiting.next_of_kind("queued").await.json;
        assert_eq!((&queued["service"], &queued["position"]), (&json!("workflow-api"), &json!(1)));
        Self { stack, git, marks, responses: vec![pull, agent, flow, waiting] }
    }

    fn urls(&self) -> [String; 3] {
        [self.stack.workflow_url(), self.stack.pull_url(), self.stack.claude_url()]
    }
}

/// A GET that must be answered at once.
async fn quick(url: &str) -> Value {
    let asked = Instant::now();
    let (status, body) = get(url).await;
    assert_eq!(status, 200, "{url}: {body}");
    assert!(asked.elapsed() < AT_ONCE, "{url} took {:?}", asked.elapsed());
    body
}

#[tokio::test]
async fn health_status_and_listings_while_every_replica_is_busy() {
    let mut busy = Busy::start().await;
    let stack = &busy.stack;
    for service in ["workflow-api", "github-pull-api", "claude-code-api"] {
        assert!(registry(stack, service).is_empty(), "{service} is not busy");
    }
    let root = json!(stack.workspace());
    for (port, depth) in busy.urls().iter().zip([1, 1, 0]) {
        let health = quick(&format!("{port}/health")).await;
        assert_eq!(health["status"], "ok");
        assert!(health["workspace"] == root || health["services"]["githubPullApi"].is_string());
        let status = quick(&format!("{port}/status")).await;
        assert_eq!(status["status"], "busy", "{port}: {status}");
        assert_eq!(status["replicas"], json!({"idle": 0, "busy": 1}), "{port}: {status}");
        assert_eq!(status["queue"], json!({"depth": depth}), "{port}: {status}");

        let repos = quick(&format!("{port}/api/repos")).await;
        let path = stack.workspace().join("app");
        let modified = &repos["repos"][0]["modified"];
        assert!(modified.is_string());
        let app = json!({"name": "app", "path": path, "modified": modified});
        assert_eq!(repos, json!({"repos": [app], "count": 1}));
        assert_eq!(quick(&format!("{port}/api/jobs")).await["count"], 6);
    }

    let all = all_jobs(stack).await;
    let ids: Vec<&str> = all.iter().map(|job| job["jobId"].as_str().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a > b), "not newest first: {ids:?}");
    let jobs = format!("{}/api/jobs", stack.workflow_url());
    let mut pages = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = quick(&format!("{jobs}?limit=4{cursor}")).await;
        assert_eq!(page["count"], page["jobs"].as_array().unwrap().len());
        pages.extend(page["jobs"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(pages, all);
    for (state, count) in
        [("queued", 2), ("running", 3), ("succeeded", 1), ("failed", 0), ("cancelled", 0)]
    {
        let page = quick(&format!("{jobs}?state={state}")).await;
        assert_eq!(page["count"], count, "{state}: {page}");
        let states: Vec<_> =
            page["jobs"].as_array().unwrap().iter().map(|job| &job["state"]).collect();
        assert_eq!(states, vec![state; count], "{page}");
    }
    for bad in ["limit=0", "limit=1001", "limit=x", "state=lost", "cursor=../x"] {
        let (status, body) = get(&format!("{jobs}?{bad}")).await;
        assert_eq!((status, &body["code"]), (400, &json!("invalid_field")), "{bad}: {body}");
    }

    for response in &busy.responses {
        let id = response.job_id();
        let job = quick(&format!("{jobs}/{id}")).await;
        assert_eq!(job["jobId"], *id);
        assert!(job["created"].is_string() && job["ended"].is_null(), "{job}");
        assert_eq!(job["started"].is_string(), job["state"] == "running", "{job}");
        assert_eq!(job["repoUrl"].is_string(), job["service"] != "claude-code-api", "{job}");
    }
    for id in ["019aa000-0000-7000-8000-000000000000", "x", "..%2f..", "%00"] {
        let (status, body) = get(&format!("{jobs}/{id}")).await;
        assert_eq!((status, &body["code"]), (404, &json!("not_found")), "{id}: {body}");
    }

    // Everything continues as soon as it can.
    busy.git.clear_fault("stalled");
    busy.marks.open("gate");
    let pull = busy.responses[0].job_id();
    assert_eq!(crate::support::cancel(&busy.stack, &pull).await.0, 202);
    for (response, end) in busy.responses.iter_mut().zip([
        "error",
        "completed",
        "workflow_complete",
        "workflow_complete",
    ]) {
        assert_eq!(terminal(&response.collect_all().await)["type"], end);
    }
    busy.stack.wait_until_idle().await;
}

#[tokio::test]
async fn a_stream_can_be_read_from_its_start_from_any_event_and_after_its_end() {
    let stack = Stack::builder().start().await;
    let mut script = AgentScript::new();
    for number in 0..20 {
        script = script.say(&format!("message {number} \u{2028} é\n\ndata: x"));
    }
    let posted = post_execute(&stack, &execute(&script)).accept_event_stream().send().await;
    let id = posted.job_id();
    let posted = without_waits({ posted }.collect_all().await);
    stack.wait_until_idle().await;

    let whole = events_of(&stack, &id, Service::Claude).send().await.collect_all().await;
    assert!(whole.len() > 22, "{}", whole.len());
    assert_eq!(whole, posted);
    for from in [0, 1, 2, 10, whole.len() - 3, whole.len() - 2] {
        let last = whole[from].id.as_deref().unwrap();
        let request = events_of(&stack, &id, Service::Claude).last_event_id(last);
        let rest = request.send().await.collect_all().await;
        assert_eq!(rest, whole[from + 1..], "after event {from}");
    }
    let end = whole.last().unwrap().id.as_deref().unwrap();
    let after = events_of(&stack, &id, Service::Claude).last_event_id(end).send().await;
    assert_eq!(after.status, 204);
    let first: u64 = whole[0].id.as_deref().unwrap().parse().unwrap();
    let (inside, beyond) = ((first - 1).to_string(), format!("{end}0"));
    for nonsense in ["x", "-1", "1.5", &inside, &beyond, "99999999999999999999999", "0x10"] {
        let answer = events_of(&stack, &id, Service::Claude).last_event_id(nonsense).send().await;
        assert_eq!(answer.status, 400, "{nonsense}");
        assert_eq!(answer.json().await["code"], "invalid_field", "{nonsense}");
    }
    let unknown = "019aa000-0000-7000-8000-000000000000";
    assert_eq!(events_of(&stack, unknown, Service::Claude).send().await.status, 404);
    assert_eq!(get(&format!("{}/api/jobs", stack.claude_url())).await.1["count"], 1);
}

#[tokio::test]
async fn two_readers_of_a_running_job_read_the_same_bytes() {
    let stack = Stack::builder().start().await;
    let marks = Marks::new();
    let script = AgentScript::new()
        .flood(20, 100)
        .wait_file(marks.path("gate"))
        .flood(200, 100)
        .long_line(200_000)
        .flood(20, 10);
    let posted = post_execute(&stack, &execute(&script)).accept_event_stream();
    let mut posted = posted.send().await;
    let id = posted.job_id();
    wait_for_state(&stack, &id, "running").await;
    let early = events_of(&stack, &id, Service::Claude).send().await;
    let mut late = events_of(&stack, &id, Service::Claude).send().await;
    let mut seen: Vec<SseEvent> = Vec::new();
    while seen.len() < 20 {
        seen.push(late.next_event().await.unwrap());
    }
    // One reader disconnects in the middle and reconnects.
    let last = seen.last().unwrap().id.clone().unwrap();
    drop(late);
    marks.open("gate");
    let back = events_of(&stack, &id, Service::Claude).last_event_id(&last).send().await;
    let read = |mut response: SseResponse| async move { response.collect_all().await };
    let (early, back) = tokio::join!(read(early), read(back));
    seen.extend(back);
    assert!(early.len() > 240, "{}", early.len());
    assert!(early == seen, "two readers read different events");
    assert!(without_waits(posted.collect_all().await) == early);
    wait_for("the job's end", PATIENCE, || async {
        (job(&stack, &id).await["state"] == "succeeded").then_some(())
    })
    .await;
}
