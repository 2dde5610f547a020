//! `ps`, `scale` and `logs` with a Swarm. The replicas are shell scripts: it does not matter what
//! they do, as long as they start, exit, log and fail like real replicas.

use std::process::Stdio;

use serde_json::{Value, json};
use testkit::{CommandOutput, PATIENCE, skip, wait_for};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    engine::Engine,
    support::{ran, stackctl},
};

const STACK: &str = "ops-test";
const JOB: &str = "019aa001-0000-7000-8000-0123456789ab";

/// Deploys these scripts as a stack.
fn deploy(engine: &Engine) {
    let image = &engine.image;
    let service = |name: &str, replicas: usize, script: String, more: Value| {
        let mut service = json!({
            "image": image,
            "command": ["bash", "-c", script],
            "networks": ["host"],
            "deploy": {"replicas": replicas, "restart_policy": {"condition": "any", "delay": "0s"}},
        });
        service.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (name.to_owned(), service)
    };
    let none = json!({});
    let grace = json!({"stop_grace_period": "90s"});
    // Like a real replica, it exits only after its job when it is told to stop: the script traps
    // the signal and ignores it.
    let job = format!(
        "trap : TERM; echo ready; sleep 1; echo INFO begins job={JOB}; sleep 1; echo done >&2"
    );
    let services: serde_json::Map<_, _> = [
        service("gateway", 1, "echo gateway is up; exec sleep 1000".into(), none.clone()),
        service("workflow-api", 2, job, grace),
        service("github-pull-api", 1, "exec sleep 1000".into(), none.clone()),
        service("claude-code-api", 1, "sleep 2; echo no credential >&2; exit 64".into(), none),
    ]
    .into_iter()
    .collect();
    let file = json!({"version": "3.8", "services": services,
        "networks": {"host": {"external": true, "name": "host"}}});
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stack.json");
    std::fs::write(&path, file.to_string()).unwrap();
    engine.docker(&[
        "stack",
        "deploy",
        "--resolve-image",
        "never",
        "-c",
        path.to_str().unwrap(),
        STACK,
    ]);
}

/// One test for everything, because an engine takes a while to start.
#[tokio::test]
async fn ps_scale_and_logs_on_a_swarm() {
    let engine = match Engine::start().await {
        Ok(engine) => engine,
        Err(why) => return skip("ps_scale_and_logs_on_a_swarm", &why),
    };
    let asked = async |arguments: &[&str]| {
        ran(&engine.host, &[arguments, &["--swarm", "--stack", STACK]].concat()).await
    };
    let absent = asked(&["ps"]).await;
    assert_eq!(absent.code, 3, "{absent:?}");
    assert!(absent.stderr.contains(&format!("./deploy-swarm.sh --stack {STACK}")), "{absent:?}");

    deploy(&engine);
    shows(&engine, &asked).await;
    scales(&engine, &asked).await;
    logs(&engine, &asked).await;
    engine.docker(&["stack", "rm", STACK]);

    if engine.is_own() {
        engine.docker(&["swarm", "leave", "--force"]);
        let left = asked(&["ps"]).await;
        assert_eq!(left.code, 3, "{left:?}");
        assert!(left.stderr.contains("is not in a Swarm"), "{left:?}");
    }
}

fn row<'a>(ps: &'a Value, service: &str) -> &'a Value {
    let rows = ps["services"].as_array().unwrap();
    rows.iter().find(|row| row["service"] == service).unwrap()
}

async fn shows(engine: &Engine, asked: &impl AsyncFn(&[&str]) -> CommandOutput) {
    let shown = wait_for("restarts, a failure and numbers of containers", PATIENCE, || async {
        let output = asked(&["ps", "--json"]).await;
        assert_eq!(output.code, 0, "{output:?}");
        let shown = output.json();
        let restarts = row(&shown, "workflow-api")["restarts"]["count"].as_u64().unwrap();
        let measured = row(&shown, "gateway")["memoryBytes"].as_u64().is_some();
        let failed = !shown["failures"].as_array().unwrap().is_empty();
        (restarts >= 2 && measured && failed).then_some(shown)
    })
    .await;
    assert!(shown["target"].as_str().unwrap().contains(&engine.host), "{shown}");
    let names: Vec<_> =
        shown["services"].as_array().unwrap().iter().map(|row| row["service"].clone()).collect();
    assert_eq!(names, ["gateway", "workflow-api", "github-pull-api", "claude-code-api"]);
    assert_eq!(row(&shown, "gateway")["states"], json!({"running": 1}));
    assert_eq!(row(&shown, "workflow-api")["wanted"], 2);
    let failure = &shown["failures"][0];
    assert_eq!(failure["of"], "claude-code-api.1");
    assert!(failure["what"].as_str().unwrap().contains("64"), "{failure}");
    let notes = shown["notes"].to_string();
    assert!(notes.contains("--url"), "it publishes no ports: {notes}");
    let drawn = asked(&["ps"]).await.stdout;
    assert!(drawn.contains("gateway.1") && drawn.contains("1/1"), "{drawn}");
}

async fn scales(engine: &Engine, asked: &impl AsyncFn(&[&str]) -> CommandOutput) {
    let spec = || {
        let service = format!("{STACK}_workflow-api");
        let spec = engine.docker(&["service", "inspect", "--format", "{{json .Spec}}", &service]);
        let mut spec: Value = serde_json::from_str(&spec).unwrap();
        let replicas = spec["Mode"]["Replicated"]["Replicas"].take();
        // The engine itself adds this field at the first update.
        spec.as_object_mut().unwrap().remove("EndpointSpec");
        (spec, replicas.as_u64().unwrap())
    };
    let (before, _) = spec();
    let more = asked(&["scale", "workflow=4", "pull=2"]).await;
    assert_eq!(more.code, 0, "{more:?}");
    assert!(more.stderr.contains("workflow-api: 2 -> 4"), "{more:?}");
    assert_eq!(spec(), (before.clone(), 4), "nothing else of the service has changed");

    // Many at once: every update is applied, even if another one has changed the service meanwhile.
    let scale = async |number: &str| asked(&["scale", number, "--no-wait"]).await.code;
    let codes = tokio::join!(
        scale("workflow=1"),
        scale("workflow=3"),
        scale("workflow=5"),
        scale("workflow=2")
    );
    assert_eq!(codes, (0, 0, 0, 0));
    assert!([1, 2, 3, 5].contains(&spec().1), "{:?}", spec());

    let fewer = asked(&["scale", "workflow=1", "pull=1"]).await;
    assert_eq!(fewer.code, 0, "{fewer:?}");
    let warning = "the Swarm kills a replica of github-pull-api that is still running 10 s after";
    assert!(fewer.stderr.contains(warning), "{fewer:?}");
    assert!(!fewer.stderr.contains("kills a replica of workflow-api"), "{fewer:?}");
    assert_eq!(spec(), (before, 1));
    wait_for("one workflow task", PATIENCE, || async {
        let shown = asked(&["ps", "--json"]).await.json();
        let replicas = shown["replicas"].as_array().unwrap();
        (replicas.iter().filter(|it| it["service"] == "workflow-api").count() == 1).then_some(())
    })
    .await;

    let none = asked(&["scale", "pull=0"]).await;
    assert_eq!(none.code, 0, "{none:?}");
    for (arguments, what) in
        [(&["scale", "gateway=2"][..], "one gateway"), (&["scale", "pull=1", "pull=2"], "twice")]
    {
        let wrong = asked(arguments).await;
        assert_eq!(wrong.code, 2, "{wrong:?}");
        assert!(wrong.stderr.contains(what), "{wrong:?}");
    }
}

async fn logs(engine: &Engine, asked: &impl AsyncFn(&[&str]) -> CommandOutput) {
    let all = asked(&["logs"]).await;
    assert_eq!(all.code, 0, "{all:?}");
    // Which replicas of a service have started by now depends on the machine.
    for (start, end) in [
        ("gateway.1         | ", "gateway is up"),
        ("workflow-api.", "    | ready"),
        ("claude-code-api.1 | ", "no credential"),
    ] {
        let is_it = |line: &str| line.starts_with(start) && line.ends_with(end);
        assert!(all.stdout.lines().any(is_it), "{start}…{end}: {all:?}");
    }
    let last = asked(&["logs", "workflow", "--tail", "3"]).await.stdout;
    assert_eq!(last.lines().count(), 3, "{last}");
    assert!(last.lines().all(|line| line.starts_with("workflow-api.")), "{last}");
    let about = asked(&["logs", "--job", JOB]).await;
    assert!(about.stdout.lines().count() > 0, "{about:?}");
    assert!(about.stdout.lines().all(|line| line.contains(JOB)), "{about:?}");
    assert!(asked(&["logs", "--since", "2030-01-01T00:00:00Z"]).await.stdout.is_empty());

    // Across replacements of a replica: more lines than there could be without following the new
    // ones.
    let arguments = ["logs", "workflow", "--follow", "--tail", "0", "--swarm", "--stack", STACK];
    let mut command = stackctl(&engine.host, &arguments);
    let mut following = command.stderr(Stdio::inherit()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut lives = 0;
    while lives < 3 {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let line = line.expect("a line").unwrap().expect("the command keeps following");
        lives += usize::from(line.ends_with("| ready"));
    }
    following.kill().await.unwrap();
}
