//! The purpose of the stack: you send a prompt and a repository, and you get everything that
//! happens.

use std::fs;

use contract::Service;
use serde_json::{Value, json};
use testkit::{AgentScript, GitServer, SseEvent, Stack};

use crate::support::{
    all_jobs, events_of, every_file, named_jobs, post_workflow, registry, without_waits, workflow,
};

const PASSWORD: &str = "pa55-w0rd-0f-the-url";

#[tokio::test]
async fn a_workflow_from_the_request_to_the_replacement_of_its_replicas() {
    let git = GitServer::start().await;
    let commit = git.create_repo("hello-world.git", &[("README.md", "hello\n"), ("src/a", "a")]);
    git.set_auth("hello-world.git", "reader", PASSWORD);
    let stack = Stack::builder().start().await;
    let before = registry(&stack, "claude-code-api");

    let script = AgentScript::new().say("Adding a line.").write("README.md", "hello\nagent\n");
    let url = git.url_with_credentials("hello-world.git", "reader", PASSWORD);
    let body = workflow(&url, &script);
    let mut response = post_workflow(&stack, &body).send().await;
    let id = response.job_id();
    let events = without_waits(response.collect_all().await);

    let target = stack.workspace().join("jobs").join(&id).join("hello-world");
    let expected = Expected {
        id: &id,
        prompt: &script.prompt(),
        url: &git.url("hello-world.git"),
        commit: &commit,
        target: target.to_str().unwrap(),
    };
    expected.check(&events);
    assert_eq!(fs::read_to_string(target.join("README.md")).unwrap(), "hello\nagent\n");
    assert_eq!(fs::read_to_string(target.join("src/a")).unwrap(), "a");

    // A later reader reads the same events.
    let again = events_of(&stack, &id, Service::Workflow).send().await.collect_all().await;
    let again = without_waits(again);
    let json = |events: &[SseEvent]| events.iter().map(|it| it.json.clone()).collect::<Vec<_>>();
    assert_eq!(json(&again), json(&events));

    // Three jobs, the workflow and the two it started, and a fresh replica in place of each of the
    // three.
    let jobs = all_jobs(&stack).await;
    assert!(jobs.iter().all(|job| job["state"] == "succeeded"), "{jobs:#?}");
    let mut owners: Vec<_> = jobs.iter().map(|job| (&job["service"], &job["parent"])).collect();
    owners.sort_by_key(|(service, _)| service.to_string());
    let (parent, none) = (json!(id), Value::Null);
    let names = ["claude-code-api", "github-pull-api", "workflow-api"].map(Value::from);
    assert_eq!(owners, [(&names[0], &parent), (&names[1], &parent), (&names[2], &none)]);
    assert_eq!(named_jobs(&stack).len(), 3);
    stack.wait_until_idle().await;
    let after = registry(&stack, "claude-code-api");
    assert!(after.keys().all(|id| !before.contains_key(id)), "{before:?} {after:?}");

    let config = fs::read_to_string(target.join(".git/config")).unwrap();
    assert!(config.contains(&git.url("hello-world.git")), "{config}");
    let files = every_file(stack.workspace());
    assert!(files.len() > 20, "{files:?}");
    for (path, content) in files {
        let has_it = memchr::memmem::find(&content, PASSWORD.as_bytes()).is_some();
        assert!(!has_it, "{path} holds the URL's password");
    }
    assert!(!stack.log().contains(PASSWORD));
    assert_eq!(stack.stop().await, 0);
}

struct Expected<'a> {
    id: &'a str,
    prompt: &'a str,
    /// The environment without credentials.
    url: &'a str,
    commit: &'a str,
    target: &'a str,
}

impl Expected<'_> {
    /// The whole sequence, field by field.
    fn check(&self, events: &[SseEvent]) {
        let Self { id, prompt, url, target, .. } = self;
        let mut events = events.iter().map(|event| timeless(&event.json));
        let mut next = || events.next().expect("one more event");
        assert_eq!(
            next(),
            json!({"type": "workflow_started", "workflowId": id, "step": 1,
                "stepName": "pull_repository", "prompt": prompt, "repoUrl": url})
        );
        assert_message(&next());
        let mut pull = Vec::new();
        let step_complete = loop {
            let event = next();
            if event["type"] != "pull_progress" {
                break event;
            }
            pull.push(timeless(&event["data"]));
        };
        self.check_pull(&pull);
        assert_eq!(
            step_complete,
            json!({"type": "workflow_step_complete", "step": 1, "stepName": "pull_repository",
                "targetPath": target})
        );
        assert_eq!(
            next(),
            json!({"type": "workflow_started", "workflowId": id, "step": 2,
                "stepName": "execute_claude_code", "prompt": prompt, "workspace": target})
        );
        assert_message(&next());
        let connected = next();
        let (session, job) = (&connected["sessionId"], &connected["jobId"]);
        assert!(session.is_string() && job.is_string(), "{connected}");
        assert_eq!(
            connected,
            json!({"type": "connected", "sessionId": session, "resuming": false, "jobId": job,
                "workspace": target, "isolation": connected["isolation"]})
        );
        let mut said = Vec::new();
        let completed = loop {
            let event = next();
            if event["type"] != "message" {
                break event;
            }
            said.push(event["content"].clone());
        };
        let init = said.iter().find(|line| line["subtype"] == "init").expect("an init message");
        assert_eq!((&init["cwd"], &init["session_id"]), (&json!(target), session));
        let text = said.iter().find(|line| line["type"] == "assistant").expect("a message");
        assert_eq!(text["message"]["content"][0]["text"], "Adding a line.");
        assert!(said.iter().any(|line| line["type"] == "result"), "{said:#?}");
        assert_eq!((&completed["type"], &completed["sessionId"]), (&json!("completed"), session));
        assert_eq!(completed["result"], "Done.");
        assert_eq!(next(), json!({"type": "workflow_complete", "workflowId": id}));
        assert_eq!(events.next(), None);
    }

    fn check_pull(&self, pull: &[Value]) {
        let [connected, between @ .., completed] = pull else { panic!("{pull:?}") };
        let job = &connected["jobId"];
        assert!(job.is_string(), "{connected}");
        assert_eq!(
            *connected,
            json!({"type": "connected", "jobId": job, "repoUrl": self.url,
                "targetPath": self.target})
        );
        assert!(!between.is_empty());
        for event in between {
            assert!(["message", "progress"].contains(&event["type"].as_str().unwrap()), "{event}");
        }
        assert_eq!(
            *completed,
            json!({"type": "completed", "jobId": job, "targetPath": self.target, "branch": "main",
                "commit": self.commit})
        );
    }
}

fn assert_message(event: &Value) {
    let text = event["message"].as_str().unwrap_or_default();
    assert!(event["type"] == "message" && !text.is_empty(), "{event}");
}

/// The event without its timestamp, which must be valid, and present on every event but
/// `connected`.
fn timeless(event: &Value) -> Value {
    let mut event = event.clone();
    match event.as_object_mut().unwrap().remove("timestamp") {
        Some(Value::String(time)) => {
            // For example `2025-11-21T10:00:00.000Z`.
            let marks: Vec<_> = [4, 7, 10, 13, 16, 19, 23].map(|at| time.as_bytes()[at]).into();
            assert_eq!((time.len(), &*marks), (24, b"--T::.Z".as_slice()), "{time}");
        }
        Some(other) => panic!("{other} is not a time"),
        None => assert_eq!(event["type"], "connected", "{event} has no timestamp"),
    }
    event
}
