//! What an agent of the deployed stack can reach, and what becomes of what it had if its replica is killed.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, sync::Arc};

use contract::{JobId, ReplicaId, Service};
use serde_json::{Value, json};
use testkit::{AgentScript, SseClient, SseResponse, http_json, wait_for};
use workspace::{StackSecret, Statement};

use crate::{
    bench::{Bench, PATIENCE, STACK, url_of},
    images,
    network::ENGINE,
};

/// The users `stack` and `workflow-agent` of the images.
const OWNERS: [u32; 2] = [1001, 1002];
/// The port of the control.
const CONTROL: u16 = 13_999;

async fn execute(
    url: &str,
    script: &AgentScript,
    workspace: Option<&str>,
    headers: &[(&str, String)],
) -> (SseResponse, Value) {
    let body = match workspace {
        Some(workspace) => json!({"prompt": script.prompt(), "workspace": workspace}),
        None => json!({"prompt": script.prompt()}),
    };
    let request = SseClient::post(&format!("{url}/api/execute"), &body).patience(PATIENCE);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(name, value));
    let mut response = request.send().await;
    let connected = response.next_of_kind("connected").await.json;
    (response, connected)
}

/// What became of each attack on the job `victim` by an agent that runs at `url`.
async fn attack(
    bench: &Bench,
    url: &str,
    victim: &str,
    headers: &[(&str, String)],
) -> (Value, BTreeMap<String, String>) {
    let script = AgentScript::new()
        .write("attacks.sh", include_str!("attacks.sh"))
        .spawn(&["bash", "-c", &format!("bash attacks.sh {victim} > part; mv part results")])
        .wait_file("results");
    let (mut response, connected) = execute(url, &script, None, headers).await;
    assert_eq!(response.collect_all().await.last().unwrap().kind(), "completed");
    let job = connected["jobId"].as_str().unwrap();
    let results = bench.volume().join("jobs").join(job).join("work/results");
    let text = fs::read_to_string(results).unwrap();
    let results = text.lines().map(|line| line.split_once(' ').unwrap());
    let results = results.map(|(name, result)| (name.to_owned(), result.to_owned())).collect();
    (connected["isolation"].clone(), results)
}

/// The attacks fail for an agent of the stack, and work in a container that does not confine its agent.
pub(crate) async fn an_agent_does_not_reach_the_stack(bench: Arc<Bench>) {
    let url = url_of(Service::Claude);
    // The control may read it: what it has to fail for is the confinement, not the mode.
    let script = AgentScript::new()
        .write("secret", "of the victim")
        .spawn(&["sh", "-c", "chmod 755 . && touch began"])
        .wait_file("end");
    let (mut response, connected) = execute(&url, &script, None, &[]).await;
    let victim = connected["jobId"].as_str().unwrap();
    let place = bench.volume().join("jobs").join(victim).join("work");
    wait_for("the attacked job", PATIENCE, || async { place.join("began").exists().then_some(()) })
        .await;

    let (isolation, results) = attack(&bench, &url, victim, &[]).await;
    assert_eq!(isolation["uid"], true, "{isolation}");
    assert!(results.len() > 10 && results.values().all(|it| it == "failed"), "{results:#?}");

    let volume = format!("{STACK}_workspace:/workspace");
    let port = format!("{ENGINE}:{CONTROL}:3000");
    let run = ["run", "--detach", "--volume", &volume, "--publish", &port, "--user", "1001:1001"];
    // A part without the secret does not start on a volume whose stack signs.
    let (replica, secret) = (ReplicaId::new(), "STACK_SECRET_FILE=/workspace/.stack/secret");
    let id = format!("REPLICA_ID={replica}");
    let settings = ["--env", "AGENT_ISOLATION=none", "--env", secret, "--env", &id, images::AGENT];
    let control = bench.engine.docker(&[&run[..], &settings].concat());
    let url = format!("http://{ENGINE}:{CONTROL}");
    wait_for("the control", PATIENCE, || async {
        let url = format!("{url}/health");
        // In a task, because the helper panics as long as nothing listens.
        tokio::spawn(async move { http_json("GET", &url, None, &[]).await }).await.ok()
    })
    .await;
    // As the gateway does.
    let secret = StackSecret::read(&bench.volume().join(".stack/secret")).unwrap();
    let job = JobId::new();
    let proof = secret.prove(Statement::Dispatch { replica, job });
    let headers = [("x-job-id", job.to_string()), ("x-dispatch-proof", proof)];
    let (isolation, results) = attack(&bench, &url, victim, &headers).await;
    assert_eq!(isolation["uid"], false, "{isolation}");
    assert!(results.len() > 10 && results.values().all(|it| it == "worked"), "{results:#?}");
    bench.engine.docker(&["rm", "--force", &control]);

    fs::write(place.join("end"), "").unwrap();
    assert_eq!(response.collect_all().await.last().unwrap().kind(), "completed");
    bench.wait_until_none_is_busy().await;
}

/// A pull takes back what a killed container has left handed over, and the gateway removes it.
pub(crate) async fn what_a_killed_container_has_left_is_used_again(bench: Arc<Bench>) {
    let pull = || async {
        let body = json!({"repoUrl": bench.repository(), "directory": "handed"});
        let url = format!("{}/api/pull", url_of(Service::Pull));
        let events =
            SseClient::post(&url, &body).patience(PATIENCE).send().await.collect_all().await;
        events.last().unwrap().kind().to_owned()
    };
    let volume = bench.volume();
    let owner = |path: &str| fs::symlink_metadata(volume.join(path)).unwrap().uid();
    assert_eq!(pull().await, "completed");
    assert_eq!(owner("handed"), OWNERS[0]);
    let script = AgentScript::new().write("closed/file", "x").spawn(&["chmod", "0", "closed"]);
    let script = script.touch("began").hang();
    let url = url_of(Service::Claude);
    let (mut named, _) = execute(&url, &script, Some("handed"), &[]).await;
    let (mut own, connected) = execute(&url, &script, None, &[]).await;
    let job = connected["jobId"].as_str().unwrap();
    let place = format!("jobs/{job}/work");
    for place in ["handed", &place] {
        let began = volume.join(place).join("began");
        wait_for("the agent", PATIENCE, || async { began.exists().then_some(()) }).await;
        assert_eq!(owner(place), OWNERS[1]);
    }
    let containers = bench.containers("claude-code-api");
    let kill: Vec<_> = ["kill"].into_iter().chain(containers.iter().map(String::as_str)).collect();
    bench.engine.docker(&kill);
    for response in [&mut named, &mut own] {
        let events = response.collect_all().await;
        assert_eq!(events.last().unwrap().json["code"], "replica_lost");
    }
    assert_eq!((owner("handed"), owner(&place)), (OWNERS[1], OWNERS[1]));
    assert_eq!(pull().await, "completed");
    assert_eq!(
        (owner("handed"), owner("handed/closed"), owner("handed/.git/HEAD")),
        (1001, 1001, 1001)
    );
    let url = format!("{}/api/jobs/{job}", url_of(Service::Workflow));
    let (status, _, answer) = http_json("DELETE", &url, None, &[]).await;
    assert!(status.is_success(), "{status}: {answer}");
    assert!(!volume.join(&place).exists(), "the gateway could not remove it");
    bench.wait_until_none_is_busy().await;
}
