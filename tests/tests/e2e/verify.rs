//! The commands that check what an agent has done.

use std::fs;

use serde_json::{Value, json};
use testkit::{AgentScript, GitServer, SseEvent, Stack};

use crate::support::{
    Marks, get, job, post_workflow, stack_and_repository, terminal, without_waits, workflow,
};

/// A check that passes when `name` is there, and otherwise prints what makes the agent create it.
fn wants(name: &str, script: &AgentScript) -> String {
    let prompt = script.prompt();
    let script = prompt.lines().last().unwrap();
    format!(
        "test -e {name} && echo {name} is there || {{ echo missing: {name} >&2; printf '%s\\n' '{script}'; exit 7; }}"
    )
}

fn results(events: &[SseEvent]) -> Vec<(u64, bool)> {
    let of =
        |event: &Value| (event["attempt"].as_u64().unwrap(), event["passed"].as_bool().unwrap());
    events.iter().filter(|it| it.kind() == "verification_result").map(|it| of(&it.json)).collect()
}

#[tokio::test]
async fn what_fails_is_given_back_to_the_same_session() {
    let (git, stack) = stack_and_repository().await;
    let marks = Marks::new();
    let runs = marks.path("runs");
    let first = AgentScript::new().log_run(&runs).write("b", "b\n").say("First.");
    let second = AgentScript::new().log_run(&runs).write("fixed", "x\n").say("Fixed.");
    let mut body = workflow(&git.url("app"), &first);
    body["deliver"] = json!({"mode": "branch"});
    body["verify"] = json!({"run": ["test -e b", wants("fixed", &second)], "attempts": 2});
    let mut response = post_workflow(&stack, &body).send().await;
    let id = response.job_id().clone();
    let events = without_waits(response.collect_all().await);
    let expected = [(0, true), (0, false), (1, true), (1, true)];
    assert_eq!(results(&events), expected, "{}", terminal(&events));
    let started = events.iter().filter(|it| it.kind() == "verification_started").count();
    assert_eq!(started, 4);
    let failed = events.iter().find(|it| it.json["passed"] == false).unwrap();
    assert_eq!(failed.json["exitCode"], 7);
    assert!(failed.json["output"].as_str().unwrap().starts_with("missing: fixed\n"));
    // One job of the agent, with one beginning and one end, in one session.
    for kind in ["connected", "completed"] {
        assert_eq!(events.iter().filter(|it| it.kind() == kind).count(), 1, "{kind}");
    }
    let log = fs::read_to_string(&runs).unwrap();
    let sessions: Vec<_> = log.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    let connected = events.iter().find(|it| it.kind() == "connected").unwrap();
    assert_eq!(sessions, [connected.json["sessionId"].as_str().unwrap(); 2]);
    let completed = events.iter().find(|it| it.kind() == "completed").unwrap();
    assert_eq!(completed.json["result"], "Done.");
    assert_eq!(
        (&completed.json["numTurns"], &completed.json["verified"]),
        (&json!(2), &json!(true))
    );
    let single = 0.0076;
    assert!(completed.json["costUsd"].as_f64().unwrap() > 1.5 * single, "{}", completed.json);
    let end = terminal(&events);
    assert_eq!((&end["type"], &end["verified"]), (&json!("workflow_complete"), &json!(true)));
    assert_eq!(end["verifyOutput"], "fixed is there\n");
    let view = job(&stack, &id).await;
    assert_eq!((&view["verified"], &view["verifyOutput"]), (&json!(true), &end["verifyOutput"]));
    let commit = end["delivery"]["commit"].as_str().unwrap();
    let changed = git.git("app", &["diff-tree", "-r", "--name-only", "main", commit]);
    assert_eq!(changed, "b\nfixed");

    // At most so many times. The result is there all the same, and says that it is not verified.
    fs::remove_file(&runs).unwrap();
    let again = AgentScript::new().log_run(&runs);
    let mut body = workflow(&git.url("app"), &again);
    body["verify"] = json!({"run": [wants("never", &again)], "attempts": 1});
    let events = post_workflow(&stack, &body).send().await.collect_all().await;
    assert_eq!(results(&events), [(0, false), (1, false)]);
    assert_eq!(fs::read_to_string(&runs).unwrap().lines().count(), 2);
    let end = terminal(&events);
    assert_eq!((&end["type"], &end["verified"]), (&json!("workflow_complete"), &json!(false)));
    assert!(end["verifyOutput"].as_str().unwrap().starts_with("missing: never\n"), "{end}");
    // The session is free again.
    let (_, sessions) = get(&format!("{}/api/sessions", stack.claude_url())).await;
    assert!(sessions["count"].as_u64().unwrap() >= 2, "{sessions}");
    stack.wait_until_idle().await;
    assert_eq!(stack.agents().len(), 0, "{:?}", stack.agents());
}

/// A check runs what the agent has written, so it can do no more than the agent, and leaves nothing behind.
#[tokio::test]
async fn a_check_is_confined_and_ends_with_everything_it_has_started() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "1\n")]);
    let check = |stack: &Stack| {
        let outside = stack.workspace().join(".stack/tmp/reached");
        let kept = stack.workspace().join("outside");
        let mut body = workflow(&git.url("app"), &AgentScript::new());
        let run = format!(
            "sleep 1000 & env | grep -i -e anthropic -e token; (: > {}) 2>&1; (: > {}) 2>&1; : > inside; true",
            outside.display(),
            kept.display()
        );
        body["verify"] = json!({"run": [run], "attempts": 0});
        (body, outside, kept)
    };
    for (isolation, reaches) in [("require", false), ("none", true)] {
        let stack = Stack::builder().env("AGENT_ISOLATION", isolation).start().await;
        let (body, outside, kept) = check(&stack);
        let mut response = post_workflow(&stack, &body).send().await;
        let id = response.job_id().clone();
        let events = response.collect_all().await;
        assert_eq!(results(&events), [(0, true)], "{}", terminal(&events));
        let inside = stack.workspace().join("jobs").join(&id).join("app/inside");
        assert!(inside.exists(), "it works in the checkout");
        // The second is the control: without isolation, it reaches both.
        assert_eq!((outside.exists(), kept.exists()), (reaches, reaches), "{isolation}");
        let output = terminal(&events)["verifyOutput"].as_str().unwrap().to_lowercase();
        assert!(!output.contains("anthropic") && !output.contains("token"), "{output}");
        stack.wait_until_idle().await;
        assert_eq!(stack.agents().len(), 0, "{:?}", stack.agents());
    }
}

#[tokio::test]
async fn a_check_that_hangs_ends_with_its_job() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "1\n")]);
    let stack = Stack::builder().start().await;
    let mut body = workflow(&git.url("app"), &AgentScript::new());
    body["verify"] = json!({"run": ["echo began; sleep 1000"]});
    body["timeoutSeconds"] = json!(5);
    let events = post_workflow(&stack, &body).send().await.collect_all().await;
    let end = terminal(&events);
    assert_eq!(
        (&end["type"], &end["code"]),
        (&json!("workflow_error"), &json!("deadline")),
        "{end}"
    );
    assert_eq!(results(&events), [(0, false)]);
    let ended = events.iter().find(|it| it.kind() == "error").unwrap();
    assert_eq!(ended.json["verifyOutput"], "began\n", "{}", ended.json);
    stack.wait_until_idle().await;
    assert_eq!(stack.agents().len(), 0, "{:?}", stack.agents());
}
