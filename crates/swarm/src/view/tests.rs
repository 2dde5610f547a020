use serde_json::json;

use super::*;

/// A service, by its JSON as the engine sends it.
fn service(id: &str, name: &str, replicas: i64, more: serde_json::Value) -> Service {
    let mut raw = json!({"ID": id, "Spec": {"Mode": {"Replicated": {"Replicas": replicas}}}});
    raw.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Service { name: name.into(), id: id.into(), raw: serde_json::from_value(raw).unwrap() }
}

fn task(
    service: &str,
    slot: u64,
    created: &str,
    [state, desired]: [&str; 2],
    more: serde_json::Value,
) -> Task {
    let mut status = json!({"Timestamp": created, "State": state});
    status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "ID": format!("{service}{slot}{created}"), "ServiceID": service, "Slot": slot, "NodeID": "n1",
        "CreatedAt": created, "DesiredState": desired, "Status": status,
    }))
    .unwrap()
}

fn answers() -> Answers {
    const RUNNING: [&str; 2] = ["running", "running"];
    let container = |id: &str| json!({"ContainerStatus": {"ContainerID": id, "PID": 7}});
    let failed = json!({"Err": "task: non-zero exit (70)", "ContainerStatus": {"ExitCode": 70}});
    let waits = json!({"Err": "no suitable node"});
    let stats = json!({
        "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000_u64}, "system_cpu_usage": 20_000_000_000_u64, "online_cpus": 2},
        "precpu_stats": {"cpu_usage": {"total_usage": 2_000_000_000_u64}, "system_cpu_usage": 18_000_000_000_u64},
        "memory_stats": {"usage": 5_242_880, "stats": {"inactive_file": 1_048_576}},
    });
    let node = json!({"ID": "n1", "Description": {"Hostname": "alpha"}});
    let paused = json!({"UpdateStatus": {"State": "paused", "Message": "update paused"}});
    Answers {
        services: vec![
            service("w", "workflow-api", 3, paused),
            service("g", "gateway", 1, json!({"UpdateStatus": {"State": "completed"}})),
        ],
        tasks: vec![
            task("g", 1, "2026-01-01T10:00:00.123456789Z", RUNNING, container("c1")),
            task("w", 1, "2026-01-01T11:59:00Z", RUNNING, container("c2")),
            task("w", 1, "2026-01-01T11:58:00Z", ["complete", "shutdown"], json!({})),
            task("w", 1, "2026-01-01T11:57:00Z", ["failed", "shutdown"], failed),
            task("w", 2, "2026-01-01T11:59:50Z", ["starting", "running"], container("c4")),
            task("w", 3, "2026-01-01T11:00:00Z", ["pending", "running"], waits),
            task("w", 4, "2026-01-01T09:00:00Z", ["running", "shutdown"], container("c5")),
        ],
        nodes: vec![serde_json::from_value(node).unwrap()],
        stats: HashMap::from([("c2".to_owned(), serde_json::from_value(stats).unwrap())]),
        history_limit: 2,
    }
}

#[test]
fn what_the_engine_answers_becomes_a_view() {
    let view = view(&answers(), time(Some("2026-01-01T12:00:00Z")).unwrap());
    let [workflow, gateway] = &*view.services else { panic!("{view:?}") };
    assert_eq!((workflow.wanted, gateway.wanted), (3, 1));
    assert_eq!(workflow.update.as_deref(), Some("paused: update paused"));
    assert_eq!(gateway.update, None);
    // Two restarts of slot 1 in three minutes; its history is cut, so that is forty an hour.
    assert_eq!((workflow.restarts, gateway.restarts), (Restarts::About(40), Restarts::Exactly(0)));
    let replicas: Vec<_> =
        view.replicas.iter().map(|it| (it.service.as_str(), it.slot, it.state.as_str())).collect();
    assert_eq!(
        replicas,
        [
            ("workflow-api", 1, "running"),
            ("workflow-api", 2, "starting"),
            ("workflow-api", 3, "pending"),
            ("workflow-api", 4, "leaving"),
            ("gateway", 1, "running"),
        ]
    );
    let first = &view.replicas[0];
    assert_eq!(first.node.as_deref(), Some("alpha"));
    assert_eq!((first.cpu_percent, first.memory_bytes), (Some(50.0), Some(4_194_304)));
    let failures: Vec<_> = view.failures.iter().map(|it| (&*it.of, &*it.what)).collect();
    assert_eq!(
        failures,
        [("workflow-api.1", "task: non-zero exit (70)"), ("workflow-api.3", "no suitable node")]
    );
}

/// An engine may leave anything out.
#[test]
fn an_engine_that_says_little() {
    let raw = models::Service::default();
    let empty = Answers {
        services: vec![Service { name: String::new(), id: String::new(), raw }],
        tasks: vec![Task::default()],
        ..Answers::default()
    };
    let view = view(&empty, Timestamp::now());
    assert_eq!(view.services.len(), 1);
    assert!(view.replicas.is_empty() && view.failures.is_empty());
}
