//! What `ps` shows, wherever it comes from. Pure.

use std::collections::BTreeMap;

use contract::Timestamp;
use serde::Serialize;

use crate::ops::parts;

/// How many failures are shown.
pub(crate) const FAILURES: usize = 5;

/// A stack at a moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Snapshot {
    /// Which stack this is, in words.
    pub(crate) target: String,
    pub(crate) at: Timestamp,
    pub(crate) services: Vec<ServiceRow>,
    pub(crate) replicas: Vec<ReplicaRow>,
    /// The newest first.
    pub(crate) failures: Vec<Failure>,
    /// What is unknown, and why.
    pub(crate) notes: Vec<String>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceRow {
    pub(crate) service: String,
    /// How many replicas it is to have.
    pub(crate) wanted: u64,
    /// How many replicas there are, by state.
    pub(crate) states: BTreeMap<String, usize>,
    /// According to the gateway, as are the next two.
    pub(crate) idle: Option<usize>,
    pub(crate) busy: Option<usize>,
    pub(crate) queued: Option<usize>,
    /// Of all replicas for which it is known; 100 is one core.
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) memory_bytes: Option<u64>,
    /// In the last hour.
    pub(crate) jobs: Option<Count>,
    pub(crate) jobs_failed: Option<Count>,
    pub(crate) restarts: Option<Count>,
    /// A rolling update that is going on or has stopped.
    pub(crate) update: Option<String>,
}

/// A number of things in the last hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Count {
    pub(crate) count: u64,
    pub(crate) exact: Exactness,
}

/// How exact a count is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Exactness {
    Exact,
    /// Estimated.
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
    /// How long it has been in this state.
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

/// What runs, as one source knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rows {
    pub(crate) services: Vec<ServiceRow>,
    pub(crate) replicas: Vec<ReplicaRow>,
    pub(crate) failures: Vec<Failure>,
}

impl Snapshot {
    /// Adds up the replicas of each service, and sorts everything.
    pub(crate) fn new(target: String, at: Timestamp, rows: Rows, notes: Vec<String>) -> Self {
        let Rows { mut services, mut replicas, mut failures } = rows;
        services.sort_by_key(|row| (parts::order(&row.service), row.service.clone()));
        replicas.sort_by_key(|row| (parts::order(&row.service), row.service.clone(), row.slot));
        for service in &mut services {
            let replicas = || replicas.iter().filter(|row| row.service == service.service);
            for replica in replicas() {
                *service.states.entry(replica.state.clone()).or_default() += 1;
            }
            service.cpu_percent = sum(replicas().map(|row| row.cpu_percent));
            service.memory_bytes = sum(replicas().map(|row| row.memory_bytes));
        }
        failures.sort_by_key(|failure| std::cmp::Reverse(failure.at));
        failures.truncate(FAILURES);
        Self { target, at, services, replicas, failures, notes }
    }
}

/// The sum of what is known, if anything is.
fn sum<T: std::iter::Sum>(values: impl Iterator<Item = Option<T>>) -> Option<T> {
    let mut known = values.flatten().peekable();
    known.peek().is_some().then(|| known.sum())
}
