//! A stack on a Swarm as rows of a snapshot: a pure function of what the engine says.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerStatsResponse, Node, Service, ServiceUpdateStatusStateEnum, Task, TaskState,
};
use contract::Timestamp;

use super::snapshot::{Count, Exactness, Failure, ReplicaRow, ServiceRow};
use crate::client::one_line;

/// An hour, in milliseconds.
const HOUR: i64 = 3_600_000;
/// The longest text of the engine in a listing.
const TEXT: usize = 120;

/// What the engine says of a stack.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// By their names without the stack's.
    pub(crate) services: Vec<(String, Service)>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) nodes: Vec<Node>,
    /// By container.
    pub(crate) stats: HashMap<String, ContainerStatsResponse>,
    pub(crate) history_limit: usize,
}

/// The rows of a stack.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rows {
    pub(crate) services: Vec<ServiceRow>,
    pub(crate) replicas: Vec<ReplicaRow>,
    pub(crate) failures: Vec<Failure>,
}

/// Makes rows of it.
pub(crate) fn rows(said: &Said, now: Timestamp) -> Rows {
    let mut rows = Rows::default();
    for (name, service) in &said.services {
        let id = service.id.as_deref();
        let tasks: Vec<&Task> =
            said.tasks.iter().filter(|task| task.service_id.as_deref() == id).collect();
        rows.services.push(ServiceRow {
            service: name.clone(),
            wanted: wanted(service, &tasks),
            restarts: Some(restarts(&tasks, said.history_limit, now)),
            update: update(service),
            ..ServiceRow::default()
        });
        rows.replicas.extend(tasks.iter().filter_map(|task| replica(name, task, said)));
        rows.failures.extend(tasks.iter().filter_map(|task| failure(name, task)));
    }
    rows
}

/// Whether a task is one that is wanted, or one that still runs although it is not.
pub(crate) fn is_present(task: &Task) -> bool {
    let wanted = task.desired_state == Some(TaskState::RUNNING);
    wanted || state(task) == Some(TaskState::RUNNING)
}

pub(crate) fn state(task: &Task) -> Option<TaskState> {
    task.status.as_ref()?.state
}

fn wanted(service: &Service, tasks: &[&Task]) -> u64 {
    let mode = service.spec.as_ref().and_then(|spec| spec.mode.as_ref());
    let replicas = mode.and_then(|mode| mode.replicated.as_ref()).and_then(|it| it.replicas);
    let global = || tasks.iter().filter(|task| is_present(task)).count();
    replicas.map_or_else(
        || u64::try_from(global()).unwrap_or_default(),
        |it| u64::try_from(it).unwrap_or_default(),
    )
}

fn replica(name: &str, task: &Task, said: &Said) -> Option<ReplicaRow> {
    if !is_present(task) {
        return None;
    }
    let container = container(task);
    let stats = container.and_then(|id| said.stats.get(id));
    let leaving = task.desired_state != Some(TaskState::RUNNING);
    let state = match state(task) {
        Some(_) if leaving => "leaving".to_owned(),
        Some(state) => state.to_string(),
        None => "unknown".to_owned(),
    };
    Some(ReplicaRow {
        service: name.to_owned(),
        slot: slot(task),
        state,
        since: task.status.as_ref().and_then(|status| time(status.timestamp.as_deref())),
        node: node(task, &said.nodes),
        cpu_percent: stats.and_then(cpu),
        memory_bytes: stats.and_then(memory),
        job: None,
        work: None,
    })
}

/// The container of a task that runs.
pub(crate) fn container(task: &Task) -> Option<&str> {
    let id = task.status.as_ref()?.container_status.as_ref()?.container_id.as_deref()?;
    (state(task) == Some(TaskState::RUNNING) && !id.is_empty()).then_some(id)
}

pub(crate) fn slot(task: &Task) -> u64 {
    task.slot.and_then(|slot| u64::try_from(slot).ok()).unwrap_or_default()
}

fn node(task: &Task, nodes: &[Node]) -> Option<String> {
    let id = task.node_id.as_deref().filter(|id| !id.is_empty())?;
    let node = nodes.iter().find(|node| node.id.as_deref() == Some(id));
    let name = node.and_then(|node| node.description.as_ref()?.hostname.as_deref());
    Some(one_line(name.unwrap_or(id), 40))
}

fn failure(name: &str, task: &Task) -> Option<Failure> {
    let status = task.status.as_ref()?;
    if !matches!(status.state?, TaskState::FAILED | TaskState::REJECTED | TaskState::ORPHANED) {
        // A task that waits because no node has room for it has not failed, but will not come either.
        let waits = matches!(status.state?, TaskState::PENDING)
            && task.desired_state == Some(TaskState::RUNNING);
        if !(waits && status.err.is_some()) {
            return None;
        }
    }
    let exit =
        status.container_status.as_ref().and_then(|it| it.exit_code).filter(|code| *code != 0);
    let what = status.err.as_deref().or(status.message.as_deref()).unwrap_or("failed");
    let mut what = one_line(what, TEXT);
    if let Some(code) = exit
        && !what.contains(&code.to_string())
    {
        what.push_str(&format!(" (exit code {code})"));
    }
    Some(Failure {
        at: time(status.timestamp.as_deref())?,
        of: format!("{name}.{}", slot(task)),
        what,
    })
}

fn update(service: &Service) -> Option<String> {
    let status = service.update_status.as_ref()?;
    let state = status.state?;
    let over = [ServiceUpdateStatusStateEnum::COMPLETED, ServiceUpdateStatusStateEnum::EMPTY];
    if over.contains(&state) {
        return None;
    }
    let message = status.message.as_deref().map(|message| format!(": {}", one_line(message, TEXT)));
    Some(format!("{state}{}", message.unwrap_or_default()))
}

/// How often replicas were started again in the last hour. The Swarm remembers only so many tasks a slot: where
/// its memory does not reach back far enough, their rate is taken for that of the whole hour.
fn restarts(tasks: &[&Task], history_limit: usize, now: Timestamp) -> Count {
    let now = now.as_millisecond();
    let mut slots: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    for task in tasks {
        if let Some(created) = time(task.created_at.as_deref()) {
            slots.entry(slot(task)).or_default().push(created.as_millisecond());
        }
    }
    let mut count = Count { count: 0, exact: Exactness::Exact };
    for created in slots.values() {
        let oldest = created.iter().copied().min().unwrap_or(now);
        // The first one there is a memory of was started for some reason, but after nothing that is known.
        let recent = created.iter().filter(|at| **at > now - HOUR && **at != oldest).count();
        let recent = i64::try_from(recent).unwrap_or(i64::MAX);
        let cut = created.len() > history_limit && oldest > now - HOUR;
        let share = if cut {
            count.exact = Exactness::About;
            recent.saturating_mul(HOUR) / (now - oldest).max(1000)
        } else {
            recent
        };
        count.count = count.count.saturating_add(u64::try_from(share).unwrap_or_default());
    }
    count
}

fn cpu(stats: &ContainerStatsResponse) -> Option<f64> {
    let (now, before) = (stats.cpu_stats.as_ref()?, stats.precpu_stats.as_ref()?);
    let total = |it: &bollard::models::ContainerCpuStats| it.cpu_usage.as_ref()?.total_usage;
    let used = total(now)?.checked_sub(total(before)?)?;
    let passed = now.system_cpu_usage?.checked_sub(before.system_cpu_usage?)?;
    let cores = now.online_cpus.filter(|cores| *cores > 0).unwrap_or(1);
    // In milliseconds, both fit for months.
    let small = |nanoseconds: u64| u32::try_from(nanoseconds / 1000).ok().map(f64::from);
    let passed = small(passed)?;
    (passed > 0.0).then_some(())?;
    Some(small(used)? / passed * f64::from(cores) * 100.0)
}

/// As `docker stats` shows it: without the page cache that can be given up.
fn memory(stats: &ContainerStatsResponse) -> Option<u64> {
    let memory = stats.memory_stats.as_ref()?;
    let of = |name: &str| memory.stats.as_ref()?.get(name).copied();
    let cache = of("total_inactive_file").or_else(|| of("inactive_file")).unwrap_or_default();
    Some(memory.usage?.saturating_sub(cache))
}

/// The engine's time, with more digits than ours.
pub(crate) fn time(text: Option<&str>) -> Option<Timestamp> {
    serde_json::from_value(text?.into()).ok()
}
