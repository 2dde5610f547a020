//! From rows to what is shown.

use serde_json::json;

use super::{
    snapshot::{Count, Exactness, Failure, ReplicaRow, Rows, ServiceRow, Snapshot},
    table,
};

fn snapshot() -> Snapshot {
    let time = |text: &str| serde_json::from_value(json!(format!("2026-01-01T{text}Z"))).unwrap();
    let service = |service: &str, wanted, count, exact| ServiceRow {
        service: service.into(),
        wanted,
        restarts: Some(Count { count, exact }),
        ..ServiceRow::default()
    };
    let replica = |service: &str, slot, state: &str, since| ReplicaRow {
        service: service.into(),
        slot,
        state: state.into(),
        since: Some(time(since)),
        node: Some("alpha".into()),
        cpu_percent: None,
        memory_bytes: None,
        job: None,
        work: None,
    };
    let failure = |slot: u8, at, what: &str| Failure {
        at: time(at),
        of: format!("workflow-api.{slot}"),
        what: what.into(),
    };
    let mut workflow = service("workflow-api", 3, 40, Exactness::About);
    workflow.update = Some("paused: update paused".into());
    let mut busy = replica("workflow-api", 1, "running", "11:59:00");
    (busy.cpu_percent, busy.memory_bytes) = (Some(50.0), Some(4_194_304));
    let rows = Rows {
        services: vec![workflow, service("gateway", 1, 0, Exactness::Exact)],
        replicas: vec![
            replica("workflow-api", 2, "starting", "11:59:50"),
            busy,
            replica("workflow-api", 3, "pending", "11:00:00"),
            replica("workflow-api", 4, "leaving", "09:00:00"),
            replica("gateway", 1, "running", "10:00:00"),
        ],
        failures: vec![
            failure(3, "11:00:00", "no suitable node"),
            failure(1, "11:57:00", "task: non-zero exit (70)"),
        ],
    };
    let target = "the stack 's' on the Swarm at unix:///var/run/docker.sock".into();
    let note = "the Swarm does not publish the gateway's ports; name its address with --url";
    Snapshot::new(target, time("12:00:00"), rows, vec![note.into()])
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
    assert_eq!((&json["cpuPercent"], &json["memoryBytes"]), (&json!(50.0), &json!(4_194_304)));
    assert_eq!(json["restarts"], json!({"count": 40, "exact": "about"}));
    assert!(json["idle"].is_null());
}
