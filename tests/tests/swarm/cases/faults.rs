//! Faults that happen, and faults that must not.

use std::{sync::Arc, time::Duration};

use contract::{Service, Timestamp};
use serde_json::{Value, json};
use testkit::wait_for;

use crate::{
    bench::{Bench, PATIENCE, STACK},
    command::say,
    load::{Load, unequal},
};

/// The services whose containers are killed, in a shuffled order.
const VICTIMS: [&str; 8] = [
    "claude-code-api",
    "workflow-api",
    "gateway",
    "github-pull-api",
    "workflow-api",
    "claude-code-api",
    "gateway",
    "workflow-api",
];

/// Every caller gets a terminal event: a job whose replica was killed says so, and all others
/// complete.
pub(crate) async fn containers_and_the_gateway_killed_at_random(bench: Arc<Bench>) {
    let load = Load::start(&bench, unequal(24));
    let mut killed = 0;
    for (n, part) in VICTIMS.into_iter().enumerate() {
        // This sleep waits for nothing: it spreads the kills over the duration of the load.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let containers = bench.containers(part);
        let Some(victim) = containers.get(n % containers.len().max(1)) else { continue };
        // A container that has just exited by itself does not count.
        let blow = bench.engine.try_docker(&["kill", victim]);
        killed += usize::from(blow.status.success() && part != "gateway");
    }
    let ends = load.ends().await;
    let lost = ends.all.iter().filter(|end| end.code.as_deref() == Some("replica_lost")).count();
    let cuts: usize = ends.all.iter().map(|end| end.cuts).sum();
    say(&format!(
        "{killed} replicas and 2 gateways killed: {:?} after {:.1?}, {cuts} streams resumed",
        ends.kinds(),
        ends.took
    ));
    assert!(lost <= killed, "more jobs lost than replicas killed");
    let well = ends.all.iter().filter(|end| end.kind == "workflow_complete").count();
    assert_eq!(well + lost, ends.all.len(), "{:?}", ends.kinds());
    bench.wait_until_idle().await;
    bench.check_one_job_each();
    for end in &ends.all {
        assert!(bench.claims().contains_key(&end.job), "{} is not on the volume", end.job);
    }
}

/// Three jobs of one minute keep every claude replica busy while other processes keep the CPUs
/// busy.
pub(crate) async fn health_checks_stay_green_through_a_busy_minute(bench: Arc<Bench>) {
    let busy = bench.containers("claude-code-api");
    let load = Load::start(&bench, [60_000; 3]);
    wait_for("three busy replicas", PATIENCE, || async {
        let status = bench.status(Service::Claude).await?;
        (status["replicas"] == json!({"idle": 0, "busy": 3})).then_some(())
    })
    .await;
    let begin = Timestamp::now().to_string();
    let mut burners = Vec::new();
    for _ in 0..4 {
        let mut burner = std::process::Command::new("sh");
        burners.push(Burner(burner.args(["-c", "while :; do :; done"]).spawn().unwrap()));
    }
    // While they are busy: a probe that began in this minute has ended, and none has failed.
    for id in &busy {
        let health = wait_for("a probe of a busy replica", PATIENCE, || async {
            let health = bench.inspect(id)["State"]["Health"].clone();
            let probes = health["Log"].as_array()?;
            // The text of these times sorts like the times themselves: all have the same zone and
            // the same format down to the second.
            let is_new = |probe: &Value| probe["Start"].as_str().is_some_and(|at| at > &*begin);
            probes.iter().any(is_new).then_some(health)
        })
        .await;
        assert_eq!(
            (&health["Status"], &health["FailingStreak"]),
            (&json!("healthy"), &json!(0)),
            "{health}"
        );
        assert!(
            health["Log"].as_array().unwrap().iter().all(|probe| probe["ExitCode"] == 0),
            "{health}"
        );
    }
    assert_eq!(bench.containers("claude-code-api").len(), 3);
    let ends = load.ends().await;
    drop(burners);
    ends.all_complete();
    bench.wait_until_idle().await;
    for part in ["gateway", "workflow-api", "github-pull-api"] {
        for id in bench.containers(part) {
            let health = &bench.inspect(&id)["State"]["Health"];
            assert_eq!(health["FailingStreak"], 0, "{part}: {health}");
        }
    }
    let tasks = ["stack", "ps", "--format", "{{.Name}} {{.CurrentState}} {{.Error}}", STACK];
    let tasks = bench.engine.docker(&tasks);
    assert!(!tasks.contains("unhealthy"), "{tasks}");
}

/// A process that keeps a CPU busy until it is dropped.
struct Burner(std::process::Child);

impl Drop for Burner {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}
