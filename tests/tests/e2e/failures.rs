//! A failed pull or a failed agent run is a failed workflow, which says why.

use claude_stand_in::Ending;
use testkit::{AgentScript, GitServer, Stack};

use crate::support::{Marks, job, post_workflow, terminal, workflow};

#[tokio::test]
async fn a_failed_pull_fails_the_workflow_and_no_agent_runs() {
    let git = GitServer::start().await;
    git.create_repo("here", &[("a", "a")]);
    git.create_empty_repo("empty");
    git.create_repo("private", &[("a", "a")]);
    git.set_auth("private", "user", "secret-password");
    let stack = Stack::builder().start().await;
    let marks = Marks::new();
    let script = AgentScript::new().log_run(marks.path("runs"));
    for (repo, branch, code) in [
        ("missing", None, "repository_unreachable"),
        ("here", Some("no-such-branch"), "branch_not_found"),
        ("empty", None, "empty_repository"),
        ("private", None, "authentication_failed"),
    ] {
        let mut body = workflow(&git.url(repo), &script);
        body["branch"] = branch.into();
        let mut response = post_workflow(&stack, &body).send().await;
        let id = response.job_id();
        let events = response.collect_all().await;
        let end = terminal(&events);
        assert_eq!(end["type"], "workflow_error", "{repo}: {end}");
        assert_eq!((end["code"].as_str(), &end["step"]), (Some(code), &1.into()), "{repo}: {end}");
        assert_eq!(end["workflowId"], *id, "{repo}");
        assert!(end["error"].as_str().is_some_and(|error| error.len() > 10), "{repo}: {end}");
        // The pull's own error is relayed before it.
        let relayed = &events[events.len() - 2].json;
        assert_eq!(
            (&relayed["type"], &relayed["data"]["code"]),
            (&"pull_progress".into(), &code.into())
        );
        assert!(events.iter().all(|event| event.json["step"] != 2), "{repo}: step 2 began");
        let job = job(&stack, &id).await;
        assert_eq!((&job["state"], &job["code"]), (&"failed".into(), &code.into()));
    }
    stack.wait_until_idle().await;
    assert!(!marks.exists("runs"), "an agent ran: {:?}", marks.lines("runs"));
}

#[tokio::test]
async fn a_failed_agent_fails_the_workflow_and_says_why() {
    let git = GitServer::start().await;
    git.create_repo("here", &[("a", "a")]);
    let stack = Stack::builder().start().await;
    let turns =
        Ending { is_error: true, subtype: Some("error_max_turns".to_owned()), ..Ending::default() };
    let begin = AgentScript::new;
    for (what, script, code, word) in [
        ("401", begin().api_error(401, "invalid x-api-key"), "agent_api_error", "401"),
        ("500", begin().api_error(500, "Internal server error"), "agent_api_error", "500"),
        ("exit 3", begin().stderr("out of luck").exit(3), "agent_failed", "3"),
        ("no result", begin().say("bye").exit(0), "agent_no_result", "result"),
        ("too many turns", begin().result(turns), "max_turns", "maxTurns"),
    ] {
        let body = workflow(&git.url("here"), &script);
        let mut response = post_workflow(&stack, &body).send().await;
        let events = response.collect_all().await;
        let end = terminal(&events);
        assert_eq!(end["type"], "workflow_error", "{what}: {end}");
        assert_eq!((end["code"].as_str(), &end["step"]), (Some(code), &2.into()), "{what}: {end}");
        let error = end["error"].as_str().unwrap();
        assert!(error.contains(word), "{what}: {error}");
        // The agent's own error is relayed before it.
        let relayed = &events[events.len() - 2].json;
        assert_eq!((&relayed["type"], &relayed["code"]), (&"error".into(), &code.into()), "{what}");
    }
    stack.wait_until_idle().await;
}
