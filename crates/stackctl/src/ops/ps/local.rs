//! A local stack as rows: what `up` says about its slots, and `/proc` about their processes.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::{Duration, Instant},
};

use contract::{JobId, JobView};
use procfs::process::Stat;
use supervisor::{Part, SlotState, SlotView, StackView};
use transcript::one_line;
use workspace::{Job, Workspace};

use super::snapshot::{Count, Exactness, Failure, ReplicaRow, Rows, ServiceRow};
use crate::client::ids;

/// Over how long CPU is measured.
const MEASURE: Duration = Duration::from_millis(300);

/// What a process and its descendants use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Use {
    ticks: u64,
    memory: u64,
}

/// What each of these processes uses: in percent of a core, and in bytes.
///
/// # Errors
/// If `/proc` cannot be read.
pub(super) async fn measure(pids: Vec<i32>) -> anyhow::Result<HashMap<i32, (f64, u64)>> {
    let started = Instant::now();
    let (pids, before) = tokio::task::spawn_blocking(move || (look(&pids), pids))
        .await
        .map(|(before, pids)| (pids, before))?;
    let before = before?;
    tokio::time::sleep(MEASURE).await;
    let passed = started.elapsed().as_secs_f64();
    let after = tokio::task::spawn_blocking(move || look(&pids)).await??;
    #[expect(clippy::cast_precision_loss, reason = "there are a hundred ticks a second")]
    let rate = procfs::ticks_per_second() as f64;
    let used = |(pid, after): (i32, Use)| {
        let ticks = after.ticks.saturating_sub(before.get(&pid)?.ticks);
        let ticks = f64::from(u32::try_from(ticks).unwrap_or(u32::MAX));
        Some((pid, (ticks / rate / passed * 100.0, after.memory)))
    };
    Ok(after.into_iter().filter_map(used).collect())
}

fn look(pids: &[i32]) -> procfs::ProcResult<HashMap<i32, Use>> {
    // Processes that end meanwhile are left out.
    let all: Vec<Stat> =
        procfs::process::all_processes()?.filter_map(|process| process.ok()?.stat().ok()).collect();
    Ok(pids.iter().filter_map(|pid| Some((*pid, tree(&all, *pid)?))).collect())
}

/// What a process and its descendants use, or `None` if it has ended.
fn tree(all: &[Stat], root: i32) -> Option<Use> {
    let mut children: HashMap<i32, Vec<&Stat>> = HashMap::new();
    for process in all {
        children.entry(process.ppid).or_default().push(process);
    }
    let mut sum = Use::default();
    let mut waiting: Vec<&Stat> = vec![all.iter().find(|it| it.pid == root)?];
    while let Some(process) = waiting.pop() {
        // Including the children it has waited for: an agent's tools end all the time.
        let of_ended = u64::try_from(process.cutime + process.cstime).unwrap_or_default();
        sum.ticks += process.utime + process.stime + of_ended;
        sum.memory += process.rss.saturating_mul(procfs::page_size());
        // Each once: a process ID that is reused meanwhile could close a circle.
        let below = children.remove(&process.pid).into_iter().flatten();
        waiting.extend(below.filter(|it| it.pid != root));
    }
    Some(sum)
}

/// Which replica runs which of these jobs. Blocks briefly.
///
/// # Errors
/// If the volume cannot be read.
pub(super) fn claims(
    workspace: &Path,
    jobs: impl IntoIterator<Item = JobId>,
) -> workspace::Result<BTreeMap<String, JobId>> {
    let workspace = Workspace::open(workspace)?;
    let mut claims = BTreeMap::new();
    for id in jobs {
        let claim = match Job::open(&workspace, id)? {
            Some(job) => job.claimed()?,
            None => None,
        };
        claims.extend(claim.map(|claim| (claim.by, id)));
    }
    Ok(claims)
}

/// Makes rows of it. Pure.
pub(super) fn rows(
    status: &StackView,
    used: &HashMap<i32, (f64, u64)>,
    claims: &BTreeMap<String, JobId>,
    running: &[JobView],
) -> Rows {
    let mut rows = Rows::default();
    let service = |name: &str| ServiceRow {
        service: name.to_owned(),
        restarts: Some(Count { count: 0, exact: Exactness::Exact }),
        ..ServiceRow::default()
    };
    // Services without replicas have a row too: jobs may wait for them.
    let mut services: BTreeMap<&str, ServiceRow> =
        Part::all().map(|part| (part.name(), service(part.name()))).collect();
    for slot in &status.slots {
        let row = services.entry(&slot.part).or_insert_with(|| service(&slot.part));
        row.wanted += u64::from(!slot.leaving);
        if let Some(restarts) = &mut row.restarts {
            restarts.count = restarts.count.saturating_add(slot.restarts);
        }
        rows.replicas.push(replica(slot, used, claims, running));
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
    running: &[JobView],
) -> ReplicaRow {
    let job = slot.replica.and_then(|replica| claims.get(&replica.to_string()));
    let view = job.and_then(|job| running.iter().find(|view| view.job_id == *job));
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
        since: match (slot.leaving, view.and_then(|view| view.started)) {
            (false, Some(started)) => Some(started),
            _ => slot.since,
        },
        node: None,
        cpu_percent: used.map(|(cpu, _)| *cpu),
        memory_bytes: used.map(|(_, memory)| *memory),
        job: job.map(|job| ids::short(*job)),
        work: view.and_then(|view| work(view, running)),
    }
}

/// What a job is about: its repository, or that of the workflow that asked for it.
fn work(job: &JobView, running: &[JobView]) -> Option<String> {
    let parent = job.parent.and_then(|id| running.iter().find(|view| view.job_id == id));
    let repo = job.repo_url.as_ref().or_else(|| parent?.repo_url.as_ref()).map(|url| {
        let path = url.trim_end_matches('/').trim_end_matches(".git");
        let mut names = path.rsplit(['/', ':']).filter(|name| !name.is_empty());
        let last = names.next().unwrap_or(path);
        one_line(
            &names.next().map_or_else(|| last.to_owned(), |owner| format!("{owner}/{last}")),
            80,
        )
    });
    let parent = job.parent.map(|id| format!("for workflow {}", ids::short(id)));
    let words: Vec<String> = repo.into_iter().chain(parent).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

#[cfg(test)]
mod tests {
    use contract::{JobState, ReplicaId, Service, Timestamp};
    use supervisor::FailureView;

    use super::*;
    use crate::fixtures::workflow;

    fn own() -> Stat {
        procfs::process::Process::myself().unwrap().stat().unwrap()
    }

    #[test]
    fn a_process_counts_with_all_below_it() {
        let stat = own();
        let process = |pid, ppid| {
            let mut process = stat.clone();
            (process.pid, process.ppid) = (pid, ppid);
            process
        };
        // 4 and 5 are a circle, as a reused process ID could make one.
        let all = [process(1, 0), process(2, 1), process(3, 2), process(4, 5), process(5, 4)];
        let one = stat.rss * procfs::page_size();
        let of = |root| tree(&all, root).map(|used| used.memory);
        assert_eq!((of(1), of(4)), (Some(3 * one), Some(2 * one)));
        assert!(one > 0);
        assert_eq!(tree(&all, 9), None);
    }

    #[tokio::test]
    async fn this_process_uses_memory() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let used = measure(vec![pid]).await.unwrap();
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
        const JOB: &str = "019aa001-0000-7000-8000-0123456789ab";
        let claims = BTreeMap::from([(replicas[0].to_string(), JOB.parse().unwrap())]);
        let used = HashMap::from([(2, (12.5, 4096))]);
        let running = JobView {
            service: Service::Claude,
            parent: Some("019aa001-0000-7000-8000-0123456789aa".parse().unwrap()),
            repo_url: Some("https://github.com/user/repo.git".into()),
            started: Some(Timestamp::from_millisecond(7)),
            ..workflow(JOB, JobState::Running)
        };
        let rows = rows(&status, &used, &claims, &[running]);
        let states: Vec<_> = rows.replicas.iter().map(|row| &*row.state).collect();
        assert_eq!(states, ["running", "busy", "starting", "leaving", "down"]);
        assert_eq!(rows.replicas[1].job.as_deref(), Some("456789ab"));
        assert_eq!(rows.replicas[1].work.as_deref(), Some("user/repo, for workflow 456789aa"));
        // A job's age, and otherwise the slot's.
        let since = |at: usize| rows.replicas[at].since.unwrap().as_millisecond();
        assert_eq!((since(1), since(2)), (7, 5));
        let pull = rows.services.iter().find(|row| row.service == "github-pull-api").unwrap();
        assert_eq!(pull.wanted, 0, "it has a row although it has no replicas");
        assert_eq!(rows.replicas[2].memory_bytes, Some(4096));
        let claude = rows.services.iter().find(|row| row.service == "claude-code-api").unwrap();
        assert_eq!((claude.wanted, claude.restarts.unwrap().count), (3, 8));
        assert_eq!(rows.failures.len(), 1);
        assert_eq!(rows.failures[0].of, "claude-code-api.4");
    }
}
