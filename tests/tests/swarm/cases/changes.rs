//! Operators' changes of a running stack.

use std::{sync::Arc, time::Duration};

use contract::{PerService, Service};
use serde_json::{Value, json};
use testkit::{SseClient, wait_for};

use crate::{
    bench::{ANSWER, Bench, KEY, PATIENCE, STACK, url_of},
    command::{say, text},
    load::{Load, unequal},
};

pub(crate) async fn scaled_up_and_down_under_load(bench: Arc<Bench>) {
    let load = Load::start(&bench, unequal(30));
    let scale = |count: u8| {
        bench.engine.docker(&[
            "service",
            "scale",
            "--detach",
            &format!("{STACK}_workflow-api={count}"),
        ]);
    };
    scale(10);
    wait_for("ten workflow replicas", PATIENCE, || async {
        (bench.containers("workflow-api").len() >= 10).then_some(())
    })
    .await;
    // While they are working. Swarm stops the slots with the highest numbers, busy or not.
    scale(3);
    let ends = load.ends().await;
    ends.all_complete();
    bench.wait_for_idle(PerService::new([3, 3, 3])).await;
    say(&format!("scaled to 10 and to 3 under thirty callers, no job was lost: {:.1?}", ends.took));
    scale(5);
    bench.wait_until_idle().await;
    bench.check_one_job_each();
}

/// Every container of every service is replaced, including the gateway.
pub(crate) async fn updated_under_load(bench: Arc<Bench>) {
    let before = bench.containers("gateway");
    let load = Load::start(&bench, unequal(40));
    bench.settings().insert("LOG_LEVEL", "debug".into());
    let deploying = Arc::clone(&bench);
    let said =
        tokio::task::spawn_blocking(move || deploying.deploy(&["--no-build"])).await.unwrap();
    assert!(!said.contains("rolled back"), "{said}");
    let ends = load.ends().await;
    let cuts: usize = ends.all.iter().map(|end| end.cuts).sum();
    say(&format!(
        "updated under forty callers: {:?} after {:.1?}, {cuts} streams resumed",
        ends.kinds(),
        ends.took
    ));
    ends.all_complete();
    bench.wait_until_none_is_busy().await;
    bench.check_one_job_each();
    let after = bench.containers("gateway");
    assert!(after.len() == 1 && after != before, "the gateway was not replaced");
    for part in ["gateway", "workflow-api", "github-pull-api", "claude-code-api"] {
        for id in bench.containers(part) {
            let environment = bench.engine.docker(&["exec", &id, "env"]);
            assert!(environment.contains("LOG_LEVEL=debug"), "{part} has the old settings");
        }
    }
}

/// With the image for operators, and a mock of the Messages API.
pub(crate) async fn the_real_cli(bench: Arc<Bench>) {
    let agent = bench.settings().remove("CLAUDE_CODE_API_IMAGE");
    bench.deploy(&["--no-build"]);
    bench.wait_until_idle().await;
    let url = format!("{}/api/workflow", url_of(Service::Workflow));
    let body = json!({"repoUrl": bench.repository(), "prompt": "look around", "model": "sonnet"});
    let events =
        { SseClient::post(&url, &body).patience(PATIENCE).send().await }.collect_all().await;
    let completed = &events[events.len() - 2].json;
    assert_eq!(
        (events.last().unwrap().kind(), &completed["result"]),
        ("workflow_complete", &json!(ANSWER)),
        "{completed}"
    );
    assert!(bench.api.turns().iter().any(|turn| turn.api_key.as_deref() == Some(KEY)));
    if let Some(agent) = agent {
        bench.settings().insert("CLAUDE_CODE_API_IMAGE", agent);
    }
    bench.deploy(&["--no-build"]);
    bench.wait_until_idle().await;
}

pub(crate) async fn a_credential_is_rotated(bench: Arc<Bench>) {
    let secrets = || {
        let list = bench.engine.docker(&["secret", "ls", "--format", "{{.Name}}"]);
        let mut names: Vec<_> = list.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    let before = secrets();
    assert_eq!(before.len(), 2, "{before:?}");
    bench.settings().remove("ANTHROPIC_API_KEY");
    bench.settings().insert("CLAUDE_CODE_OAUTH_TOKEN", "another-token".into());
    bench.deploy(&["--no-build"]);
    let after = secrets();
    assert!(
        after.len() == 2 && after[0] != before[0] && after[1] == before[1],
        "{before:?} {after:?}"
    );
    bench.wait_until_idle().await;
    for id in bench.containers("claude-code-api") {
        let content = bench.engine.docker(&["exec", &id, "cat", "/run/secrets/claude_credentials"]);
        assert_eq!(content, r#"{"claudeAiOauth": {"accessToken": "another-token"}}"#);
    }
}

/// Running jobs end first, and the volume stays.
pub(crate) async fn taken_away(bench: Arc<Bench>) {
    let url = format!("{}/api/workflow", url_of(Service::Workflow));
    let prompt = testkit::AgentScript::new().sleep_ms(8000).prompt();
    let body = json!({"repoUrl": bench.repository(), "prompt": prompt});
    let mut response = SseClient::post(&url, &body).allow_cut().patience(PATIENCE).send().await;
    // The workflow has reached its agent.
    response.next_of_kind("workflow_step_complete").await;
    let leaving = Arc::clone(&bench);
    let down = tokio::task::spawn_blocking(move || leaving.deploy(&["--down"]));
    let events = response.collect_all().await;
    assert_eq!(events.last().unwrap().kind(), "workflow_complete");
    let said = tokio::time::timeout(Duration::from_secs(120), down)
        .await
        .expect("the script exits")
        .unwrap();
    assert!(said.contains("still exists"), "{said}");
    assert_eq!(bench.engine.docker(&["service", "ls", "--quiet"]), "");
    assert_eq!(bench.engine.docker(&["secret", "ls", "--quiet"]), "");
    assert!(bench.volume().join(".stack/jobs").is_dir());
}

/// `stackctl ps` and `scale` work with the stack that the script has deployed.
pub(crate) async fn operators_commands(bench: Arc<Bench>) {
    let url = url_of(Service::Workflow);
    let stackctl = |arguments: &[&str]| {
        let mut command = std::process::Command::new(testkit::target_binary("stackctl"));
        command.args(arguments).args(["--swarm", "--stack", STACK]);
        command.env("DOCKER_HOST", bench.engine.host());
        text(&format!("stackctl {}", arguments.join(" ")), &command.output().unwrap())
    };
    // The number of replicas that Swarm should keep, and what the gateway at that URL reports about
    // its own service.
    let shown = || {
        let shown: Value =
            serde_json::from_str(&stackctl(&["ps", "--json", "--url", &url])).unwrap();
        let services = shown["services"].as_array().unwrap().clone();
        let of = |name: &str| services.iter().find(|it| it["service"] == name).unwrap();
        let wanted = ["workflow-api", "github-pull-api", "claude-code-api"]
            .map(|name| of(name)["wanted"].as_u64().unwrap());
        (wanted, of("workflow-api")["idle"].as_u64().unwrap())
    };
    assert_eq!(shown(), ([5, 3, 3], 5));
    stackctl(&["scale", "workflow=7", "pull=4"]);
    bench.wait_for_idle(PerService::new([7, 4, 3])).await;
    assert_eq!(shown(), ([7, 4, 3], 7));
    stackctl(&["scale", "workflow=5", "pull=3"]);
    bench.wait_until_idle().await;
    // The gateway's first line, which may no longer be among the last hundred.
    assert!(stackctl(&["logs", "gateway", "--tail", "all"]).contains("listening"));
}
