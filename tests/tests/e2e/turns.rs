//! Workflows that name the same directory take turns. Others pass them.

use std::fs;

use serde_json::Value;
use testkit::{AgentScript, GitServer, Stack};

use crate::support::{Marks, post_workflow, terminal, workflow};

const CALLERS: usize = 8;

#[tokio::test]
async fn eight_workflows_on_one_directory_take_turns_and_another_passes() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().replicas(3, 2, 2).start().await;
    let marks = Marks::new();
    // A start and an end, with some time between them in which another one could start.
    let script = AgentScript::new()
        .log_run(marks.path("runs"))
        .wait_file(marks.path("gate"))
        .sleep_ms(30)
        .log_run(marks.path("runs"));
    let mut body = workflow(&git.url("app"), &script);
    body["directory"] = "shared".into();

    let mut first = post_workflow(&stack, &body).send().await;
    first.next_of_kind("connected").await;
    let mut all = vec![first];
    for position in 1..CALLERS {
        let mut response = post_workflow(&stack, &body).send().await;
        let queued = response.next_of_kind("queued").await;
        assert_eq!(queued.json["position"], position, "{queued:?}");
        assert_eq!(queued.json["service"], "workflow-api", "{queued:?}");
        let waiting_for = queued.json["waitingFor"].as_str().unwrap_or_default();
        // Each of them knows which job it waits for, and where.
        let holder = all[0].job_id();
        assert!(waiting_for.contains("'shared'") && waiting_for.contains(&holder), "{queued:?}");
        all.push(response);
    }

    let other = workflow(&git.url("app"), &AgentScript::new().say("hi"));
    let passing = post_workflow(&stack, &other).send().await.collect_all().await;
    assert_eq!(terminal(&passing)["type"], "workflow_complete");
    assert_eq!(marks.lines("runs").len(), 1, "another agent started in the directory");

    marks.open("gate");
    for mut response in all {
        let events = response.collect_all().await;
        assert_eq!(terminal(&events)["type"], "workflow_complete", "{:?}", terminal(&events));
    }
    let runs = marks.lines("runs");
    assert_eq!(runs.len(), 2 * CALLERS, "{runs:?}");
    for turn in runs.chunks(2) {
        assert_eq!(turn[0], turn[1], "two agents worked there at once: {runs:?}");
    }
    assert_eq!(fs::read_to_string(stack.workspace().join("shared/a")).unwrap(), "a");
    stack.wait_until_idle().await;
    assert_eq!(stack.stop().await, 0);
}

/// An agent run and a pull that name the directory directly wait for the same turn.
#[tokio::test]
async fn every_service_waits_for_a_directory() {
    use crate::support::{execute, post_execute, post_pull};

    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().replicas(1, 2, 2).start().await;
    let marks = Marks::new();
    let pull = serde_json::json!({"repoUrl": git.url("app"), "directory": "shared"});
    let events = post_pull(&stack, &pull).send().await.collect_all().await;
    assert_eq!(terminal(&events)["type"], "completed");

    let script = AgentScript::new().touch(marks.path("began")).wait_file(marks.path("gate"));
    let mut body = execute(&script);
    body["workspace"] = "shared".into();
    let mut holder = post_execute(&stack, &body).send().await;
    marks.wait("began").await;
    let mut waiting = post_pull(&stack, &pull).send().await;
    let queued = waiting.next_event().await.unwrap();
    let expected = format!("job {} to be done in directory 'shared'", holder.job_id());
    assert_eq!(
        (queued.kind(), &queued.json["waitingFor"]),
        ("queued", &Value::from(expected)),
        "{queued:?}"
    );
    marks.open("gate");
    for response in [&mut holder, &mut waiting] {
        let events = response.collect_all().await;
        assert_eq!(terminal(&events)["type"], "completed", "{:?}", terminal(&events));
    }
}
