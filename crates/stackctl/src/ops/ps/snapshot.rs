//! What `ps` shows, wherever it comes from. Pure.

use std::collections::BTreeMap;

use contract::Timestamp;
use serde::Serialize;

/// How many failures are shown.
pub(crate) const FAILURES: usize = 5;

/// A stack at a moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Snapshot {
    /// In words: which stack this is.
    pub(crate) target: String,
    pub(crate) at: Timestamp,
    pub(crate) services: Vec<ServiceRow>,
    pub(crate) replicas: Vec<ReplicaRow>,
    /// The newest first.
    pub(crate) failures: Vec<Failure>,
    /// What could not be found out, and why.
    pub(crate) notes: Vec<String>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceRow {
    pub(crate) service: String,
    /// How many replicas it is to have.
    pub(crate) wanted: u64,
    /// How many there are, by state.
    pub(crate) states: BTreeMap<String, usize>,
    /// As its gateway says.
    pub(crate) idle: Option<usize>,
    pub(crate) busy: Option<usize>,
    pub(crate) queued: Option<usize>,
    /// Of all replicas whose numbers can be had: 100 is one core.
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) memory_bytes: Option<u64>,
    /// In the last hour.
    pub(crate) jobs: Option<Count>,
    pub(crate) jobs_failed: Option<Count>,
    pub(crate) restarts: Option<Count>,
    /// A rolling update that is on its way or has stopped.
    pub(crate) update: Option<String>,
}

/// A number of things in the last hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Count {
    pub(crate) count: u64,
    pub(crate) exact: Exactness,
}

/// What a count is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Exactness {
    Exact,
    /// Reckoned from what is remembered.
    About,
    /// There may be more.
    AtLeast,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReplicaRow {
    pub(crate) service: String,
    pub(crate) slot: u64,
    pub(crate) state: String,
    /// Since when it is in this state.
    pub(crate) since: Option<Timestamp>,
    pub(crate) node: Option<String>,
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) job: Option<String>,
    /// What the job is about.
    pub(crate) work: Option<String>,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    pub(crate) at: Timestamp,
    /// A replica, or a job.
    pub(crate) of: String,
    pub(crate) what: String,
}

impl Snapshot {
    /// Fills in what follows from the replicas, and brings all into order.
    pub(crate) fn complete(mut self) -> Self {
        self.services
            .sort_by_key(|row| (crate::ops::parts::order(&row.service), row.service.clone()));
        let order = |row: &ReplicaRow| {
            (crate::ops::parts::order(&row.service), row.service.clone(), row.slot)
        };
        self.replicas.sort_by_key(order);
        for service in &mut self.services {
            let replicas = || self.replicas.iter().filter(|row| row.service == service.service);
            for replica in replicas() {
                *service.states.entry(replica.state.clone()).or_default() += 1;
            }
            let cpu: Vec<f64> = replicas().filter_map(|row| row.cpu_percent).collect();
            let memory: Vec<u64> = replicas().filter_map(|row| row.memory_bytes).collect();
            service.cpu_percent = (!cpu.is_empty()).then(|| cpu.iter().sum());
            service.memory_bytes = (!memory.is_empty()).then(|| memory.iter().sum());
        }
        self.failures.sort_by_key(|failure| std::cmp::Reverse(failure.at));
        self.failures.truncate(FAILURES);
        self
    }
}
