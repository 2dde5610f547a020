//! The two other ways to deploy. They run after the whole stack has freed its ports.

use std::{process::Command, sync::Arc};

use contract::{PerService, Service};
use serde_json::json;
use testkit::{SseClient, wait_for};

use crate::{
    bench::{Bench, KEY, PATIENCE, url_of},
    command::{self, say, text},
    images,
    load::{Load, unequal},
    network::{ENGINE, HERE},
};

/// `docker/claude-only.yml` with the commands from its header: five agents behind one port.
pub(crate) async fn the_agent_service_alone(bench: Arc<Bench>) {
    const ALONE: &str = "wstest-claude";
    let secret = "claude_credentials";
    bench
        .engine
        .docker_reads(&json!({"apiKey": KEY}).to_string(), &["secret", "create", secret, "-"]);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker/claude-only.yml");
    let settings = [
        ("CLAUDE_CODE_API_IMAGE", "workflow-stack-test/agent"),
        ("CLAUDE_PORT", "13000"),
        ("CLAUDE_CPU_RESERVATION", "0.1"),
        ("PUBLISH_MODE", "host"),
        ("GATEWAY_ENDPOINT_MODE", "dnsrr"),
    ];
    let deploy = ["stack", "deploy", "--detach", "-c", file, "--resolve-image", "never", ALONE];
    bench.engine.docker_with(&settings, &deploy);
    let idle = json!({"idle": 5, "busy": 0});
    let is_idle = || async {
        let status = bench.status(Service::Claude).await?;
        (status["replicas"] == idle).then_some(())
    };
    wait_for("five idle agents", PATIENCE, is_idle).await;
    let url = format!("{}/api/execute", url_of(Service::Claude));
    let mut callers = tokio::task::JoinSet::new();
    for time in unequal(12) {
        let prompt = testkit::AgentScript::new().sleep_ms(time).prompt();
        let request = SseClient::post(&url, &json!({"prompt": prompt})).patience(PATIENCE);
        callers.spawn(async move {
            let events = { request.send().await }.collect_all().await;
            events.last().unwrap().kind().to_owned()
        });
    }
    assert_eq!(callers.join_all().await, ["completed"; 12]);
    wait_for("five idle agents again", PATIENCE, is_idle).await;
    // The engine may refuse to remove the network, as long as it believes that a task uses it.
    let remove = || async {
        bench.engine.try_docker(&["stack", "rm", ALONE]).status.success().then_some(())
    };
    wait_for("the stack to be removed", PATIENCE, remove).await;
    wait_for("its containers to exit", PATIENCE, || async {
        bench.engine.docker(&["ps", "--quiet"]).is_empty().then_some(())
    })
    .await;
}

/// `docker/compose.yml`, with the version of compose that is installed.
pub(crate) async fn one_engine_without_swarm(bench: Arc<Bench>) {
    let plugin = command::succeeds("docker", &["compose", "version"]);
    if !plugin && !command::succeeds("docker-compose", &["version"]) {
        let why = "neither docker compose nor docker-compose is installed (Debian: docker-compose)";
        return testkit::skip("one_engine_without_swarm", why);
    }
    let compose = |arguments: &[&str]| {
        let mut command = Command::new(if plugin { "docker" } else { "docker-compose" });
        command.args(plugin.then_some("compose")).args(["-p", "wstest-dev"]);
        command.args(["-f", concat!(env!("CARGO_MANIFEST_DIR"), "/../docker/compose.yml")]);
        command.args(arguments).env("DOCKER_HOST", bench.engine.host());
        command.env("ANTHROPIC_API_KEY", KEY).env("LISTEN_ADDRESS", ENGINE);
        command.env("CLAUDE_CODE_API_IMAGE", images::AGENT);
        command.envs([
            ("WORKFLOW_PORT", "15000"),
            ("PULL_PORT", "14000"),
            ("CLAUDE_PORT", "13000"),
            ("GIT_ALLOWED_NETWORKS", HERE),
        ]);
        text("docker compose", &command.output().expect("docker is installed"))
    };
    compose(&["up", "--detach", "--no-build"]);
    bench.wait_for_idle(PerService::new([2, 2, 2])).await;
    let ends = Load::start(&bench, unequal(6)).ends().await;
    ends.all_complete();
    bench.wait_for_idle(PerService::new([2, 2, 2])).await;
    say(&format!("six at once on one engine without Swarm: {:.1?}", ends.took));
    compose(&["down", "--volumes"]);
}
