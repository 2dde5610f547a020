//! A stack on a Swarm as rows.

use swarm::{ReplicaView, Restarts, ServiceView, View};

use super::snapshot::{Count, Exactness, Failure, ReplicaRow, Rows, ServiceRow};

pub(super) fn rows(view: View) -> Rows {
    let service = |view: ServiceView| ServiceRow {
        service: view.name,
        wanted: view.wanted,
        restarts: Some(match view.restarts {
            Restarts::Exactly(count) => Count { count, exact: Exactness::Exact },
            Restarts::About(count) => Count { count, exact: Exactness::About },
        }),
        update: view.update,
        ..ServiceRow::default()
    };
    let replica = |view: ReplicaView| ReplicaRow {
        service: view.service,
        slot: view.slot,
        state: view.state,
        since: view.since,
        node: view.node,
        cpu_percent: view.cpu_percent,
        memory_bytes: view.memory_bytes,
        job: None,
        work: None,
    };
    let failure = |swarm::Failure { at, of, what }| Failure { at, of, what };
    Rows {
        services: view.services.into_iter().map(service).collect(),
        replicas: view.replicas.into_iter().map(replica).collect(),
        failures: view.failures.into_iter().map(failure).collect(),
    }
}
