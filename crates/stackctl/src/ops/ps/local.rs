//! A local stack as rows: what `up` says of its slots, and `/proc` of its processes.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use contract::JobId;
use serde::Deserialize;
use supervisor::{Part, SlotState, SlotView, StackView};

use super::{
    snapshot::{Count, Exactness, Failure, ReplicaRow, ServiceRow},
    swarm::Rows,
};
use crate::client::{ids, one_line};

/// Over how long CPU is measured.
const MEASURE: Duration = Duration::from_millis(300);
/// Clock ticks a second in `/proc`: 100 on every Linux there is.
const TICKS: f64 = 100.0;
const PAGE: u64 = 4096;

/// What a process and all below it use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Use {
    ticks: u64,
    memory: u64,
}

/// One line of `/proc/<pid>/stat`, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    ticks: u64,
    pages: u64,
}

/// What each of these processes uses: in percent of a core, and in bytes.
pub(super) async fn measure(pids: &[i32]) -> HashMap<i32, (f64, u64)> {
    let (before, started) = (look(pids), Instant::now());
    tokio::time::sleep(MEASURE).await;
    let passed = started.elapsed().as_secs_f64();
    let after = look(pids);
    let used = |(pid, after): (i32, Use)| {
        let ticks = after.ticks.saturating_sub(before.get(&pid)?.ticks);
        let ticks = f64::from(u32::try_from(ticks).unwrap_or(u32::MAX));
        Some((pid, (ticks / TICKS / passed * 100.0, after.memory)))
    };
    after.into_iter().filter_map(used).collect()
}

fn look(pids: &[i32]) -> HashMap<i32, Use> {
    let all: Vec<Process> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect();
    pids.iter().filter_map(|pid| Some((*pid, tree(&all, *pid)?))).collect()
}

/// Of a process and all below it; none if it is gone, as one is that has done its job.
fn tree(all: &[Process], root: i32) -> Option<Use> {
    let mut children: HashMap<i32, Vec<&Process>> = HashMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process);
    }
    let mut sum = Use::default();
    let mut waiting: Vec<&Process> = vec![all.iter().find(|it| it.pid == root)?];
    while let Some(process) = waiting.pop() {
        sum.ticks += process.ticks;
        sum.memory += process.pages * PAGE;
        // Each once, should a pid that is used again while this looks make a circle.
        let below = children.remove(&process.pid).into_iter().flatten();
        waiting.extend(below.filter(|it| it.pid != root));
    }
    Some(sum)
}

/// proc(5): the name in parentheses may hold anything, so fields are counted from its end.
fn parse_stat(line: &str) -> Option<Process> {
    let (pid, _) = line.split_once(' ')?;
    let (_, rest) = line.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process {
        pid: pid.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        // With those of children it has waited for: an agent's tools end all the time.
        ticks: number(11)? + number(12)? + number(13)? + number(14)?,
        pages: number(21)?,
    })
}

/// Which replica runs which of these jobs.
pub(super) fn claims(
    workspace: &Path,
    jobs: impl IntoIterator<Item = JobId>,
) -> BTreeMap<String, JobId> {
    #[derive(Deserialize)]
    struct Claim {
        by: String,
    }
    let claim = |job: JobId| {
        let path = workspace.join(".stack/jobs").join(job.to_string()).join("claim");
        let claim: Claim = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        Some((claim.by, job))
    };
    jobs.into_iter().filter_map(claim).collect()
}

/// Makes rows of it. Pure.
pub(super) fn rows(
    status: &StackView,
    used: &HashMap<i32, (f64, u64)>,
    claims: &BTreeMap<String, JobId>,
) -> Rows {
    let mut rows = Rows::default();
    let mut services: BTreeMap<&str, ServiceRow> = BTreeMap::new();
    for slot in &status.slots {
        let row = services.entry(&slot.part).or_insert_with(|| ServiceRow {
            service: slot.part.clone(),
            restarts: Some(Count { count: 0, exact: Exactness::Exact }),
            ..ServiceRow::default()
        });
        row.wanted += u64::from(!slot.leaving);
        if let Some(restarts) = &mut row.restarts {
            restarts.count = restarts.count.saturating_add(slot.restarts);
        }
        rows.replicas.push(replica(slot, used, claims));
        rows.failures.extend(slot.failure.as_ref().map(|failure| Failure {
            at: failure.at,
            of: format!("{}.{}", slot.part, slot.number),
            what: one_line(&failure.what, 120),
        }));
    }
    rows.services = services.into_values().collect();
    rows
}

fn replica(
    slot: &SlotView,
    used: &HashMap<i32, (f64, u64)>,
    claims: &BTreeMap<String, JobId>,
) -> ReplicaRow {
    let job = slot.replica.and_then(|replica| claims.get(&replica.to_string()));
    let state = match slot.state {
        _ if slot.leaving => "leaving",
        SlotState::Down => "down",
        SlotState::Idle => "idle",
        SlotState::Up if job.is_some() => "busy",
        SlotState::Up if slot.part == Part::GATEWAY => "running",
        SlotState::Up => "starting",
    };
    let used = slot.pid.and_then(|pid| used.get(&pid));
    ReplicaRow {
        service: slot.part.clone(),
        slot: u64::from(slot.number),
        state: state.to_owned(),
        since: slot.since,
        node: None,
        cpu_percent: used.map(|(cpu, _)| *cpu),
        memory_bytes: used.map(|(_, memory)| *memory),
        job: job.map(|job| ids::short(*job)),
    }
}

#[cfg(test)]
mod tests {
    use contract::{ReplicaId, Service, Timestamp};
    use supervisor::FailureView;

    use super::*;

    #[test]
    fn lines_of_proc() {
        let line = "12 (a) b (x)) S 7 1 1 0 -1 4194560 100 0 0 0 5 6 7 8 20 0 1 0 100 1000 42 18446744073709551615";
        assert_eq!(parse_stat(line), Some(Process { pid: 12, parent: 7, ticks: 26, pages: 42 }));
        assert_eq!(parse_stat("12 (a"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_process_counts_with_all_below_it() {
        let process = |pid, parent| Process { pid, parent, ticks: 1, pages: 10 };
        // 4 and 5 are a circle, as a pid that is used again could make one.
        let all = [process(1, 0), process(2, 1), process(3, 2), process(4, 5), process(5, 4)];
        assert_eq!(tree(&all, 1), Some(Use { ticks: 3, memory: 30 * PAGE }));
        assert_eq!(tree(&all, 4), Some(Use { ticks: 2, memory: 20 * PAGE }));
        assert_eq!(tree(&all, 9), None);
    }

    #[tokio::test]
    async fn this_process_uses_memory() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let used = measure(&[pid]).await;
        let (cpu, memory) = used[&pid];
        assert!(cpu >= 0.0 && memory > 100_000, "{cpu} {memory}");
    }

    #[test]
    fn slots_become_rows() {
        let replicas = [ReplicaId::new(), ReplicaId::new()];
        let slot = |part: &str, number, state, replica| SlotView {
            part: part.into(),
            number,
            state,
            pid: Some(i32::from(number)),
            replica,
            since: Some(Timestamp::from_millisecond(5)),
            started: Some(Timestamp::from_millisecond(5)),
            restarts: 2,
            leaving: false,
            failure: None,
        };
        let failure = FailureView { at: Timestamp::from_millisecond(9), what: "signal: 9".into() };
        let status = StackView {
            pid: 1,
            ports: Service::ALL.map(|service| (service, 1)).into(),
            host: "127.0.0.1".into(),
            slots: vec![
                slot("gateway", 1, SlotState::Up, None),
                slot("claude-code-api", 1, SlotState::Up, Some(replicas[0])),
                slot("claude-code-api", 2, SlotState::Up, Some(replicas[1])),
                SlotView { leaving: true, ..slot("claude-code-api", 3, SlotState::Idle, None) },
                SlotView {
                    failure: Some(failure),
                    ..slot("claude-code-api", 4, SlotState::Down, None)
                },
            ],
        };
        let job: JobId = "019aa001-0000-7000-8000-0123456789ab".parse().unwrap();
        let claims = BTreeMap::from([(replicas[0].to_string(), job)]);
        let used = HashMap::from([(2, (12.5, 4096))]);
        let rows = rows(&status, &used, &claims);
        let states: Vec<_> = rows.replicas.iter().map(|row| &*row.state).collect();
        assert_eq!(states, ["running", "busy", "starting", "leaving", "down"]);
        assert_eq!(rows.replicas[1].job.as_deref(), Some("456789ab"));
        assert_eq!(rows.replicas[2].memory_bytes, Some(4096));
        let claude = rows.services.iter().find(|row| row.service == "claude-code-api").unwrap();
        assert_eq!((claude.wanted, claude.restarts.unwrap().count), (3, 8));
        assert_eq!(rows.failures.len(), 1);
        assert_eq!(rows.failures[0].of, "claude-code-api.4");
    }
}
