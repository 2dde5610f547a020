//! From what an engine says to what is shown.

use contract::Timestamp;
use serde_json::json;

use super::{snapshot::*, swarm::*, table};

/// The engine's objects, by their JSON as it sends them.
fn said() -> Said {
    let service = |id: &str, name: &str, replicas: i64, more: serde_json::Value| {
        let mut service = json!({
            "ID": id, "Spec": {"Name": format!("s_{name}"), "Mode": {"Replicated": {"Replicas": replicas}}},
        });
        service.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (name.to_owned(), serde_json::from_value(service).unwrap())
    };
    let task = |service: &str,
                slot: u64,
                created: &str,
                state: &str,
                desired: &str,
                more: serde_json::Value| {
        let mut status = json!({"Timestamp": created, "State": state});
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "ID": format!("{service}{slot}{created}"), "ServiceID": service, "Slot": slot, "NodeID": "n1",
            "CreatedAt": created, "DesiredState": desired, "Status": status,
        }))
        .unwrap()
    };
    let container = |id: &str| json!({"ContainerStatus": {"ContainerID": id, "PID": 7}});
    Said {
        services: vec![
            service("w", "workflow-api", 3, json!({"UpdateStatus": {"State": "paused", "Message": "update paused"}})),
            service("g", "gateway", 1, json!({"UpdateStatus": {"State": "completed"}})),
        ],
        tasks: vec![
            task("g", 1, "2026-01-01T10:00:00.123456789Z", "running", "running", container("c1")),
            task("w", 1, "2026-01-01T11:59:00Z", "running", "running", container("c2")),
            task("w", 1, "2026-01-01T11:58:00Z", "complete", "shutdown", json!({})),
            task("w", 1, "2026-01-01T11:57:00Z", "failed", "shutdown",
                json!({"Err": "task: non-zero exit (70)", "ContainerStatus": {"ExitCode": 70}})),
            task("w", 2, "2026-01-01T11:59:50Z", "starting", "running", container("c4")),
            task("w", 3, "2026-01-01T11:00:00Z", "pending", "running", json!({"Err": "no suitable node"})),
            task("w", 4, "2026-01-01T09:00:00Z", "running", "shutdown", container("c5")),
        ],
        nodes: vec![serde_json::from_value(json!({"ID": "n1", "Description": {"Hostname": "alpha"}})).unwrap()],
        stats: [(
            "c2".to_owned(),
            serde_json::from_value(json!({
                "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000_u64}, "system_cpu_usage": 20_000_000_000_u64, "online_cpus": 2},
                "precpu_stats": {"cpu_usage": {"total_usage": 2_000_000_000_u64}, "system_cpu_usage": 18_000_000_000_u64},
                "memory_stats": {"usage": 5_242_880, "stats": {"inactive_file": 1_048_576}},
            }))
            .unwrap(),
        )]
        .into(),
        history_limit: 2,
    }
}

fn snapshot() -> Snapshot {
    let now = super::swarm::time(Some("2026-01-01T12:00:00Z")).unwrap();
    let rows = rows(&said(), now);
    Snapshot {
        target: "the stack 's' on the Swarm at unix:///var/run/docker.sock".into(),
        at: now,
        services: rows.services,
        replicas: rows.replicas,
        failures: rows.failures,
        notes: vec!["the gateway publishes no ports here; name its address with --url".into()],
    }
    .complete()
}

#[test]
fn what_a_person_sees() {
    let drawn = anstream::adapter::strip_str(&table::draw(&snapshot(), None)).to_string();
    insta::assert_snapshot!(drawn);
}

#[test]
fn idle_replicas_are_counted_and_long_texts_are_cut() {
    let mut snapshot = snapshot();
    for row in &mut snapshot.replicas[1..] {
        row.state = "idle".to_owned();
    }
    snapshot.replicas[0].work = Some("修复构建 ".repeat(40));
    snapshot.failures[0].what = "long ".repeat(100);
    let drawn = anstream::adapter::strip_str(&table::draw(&snapshot, Some(120))).to_string();
    assert!(drawn.contains("\nidle: 4 workflow-api\n"), "{drawn}");
    let listed = drawn.lines().filter(|line| line.starts_with("workflow-api.2")).count();
    assert_eq!(listed, 0, "{drawn}");
    for line in drawn.lines() {
        assert!(unicode_width::UnicodeWidthStr::width(line) <= 120, "{line}");
    }
}

#[test]
fn what_a_program_sees() {
    let snapshot = snapshot();
    let workflow = snapshot.services.iter().find(|row| row.service == "workflow-api").unwrap();
    let json = serde_json::to_value(workflow).unwrap();
    assert_eq!(json["states"], json!({"running": 1, "starting": 1, "pending": 1, "leaving": 1}));
    assert_eq!(json["wanted"], 3);
    assert_eq!(json["cpuPercent"], 50.0);
    assert_eq!(json["memoryBytes"], 4_194_304);
    assert_eq!(json["update"], "paused: update paused");
    // Two restarts of slot 1 in three minutes; its history is cut, so that is forty an hour.
    assert_eq!(json["restarts"], json!({"count": 40, "exact": "about"}));
    assert!(json["idle"].is_null());
}

/// An engine may leave anything out.
#[test]
fn an_engine_that_says_little() {
    let empty = Said {
        services: vec![(String::new(), bollard::models::Service::default())],
        tasks: vec![bollard::models::Task::default()],
        ..Said::default()
    };
    let rows = rows(&empty, Timestamp::now());
    assert_eq!(rows.services.len(), 1);
    assert!(rows.replicas.is_empty() && rows.failures.is_empty());
}
