//! What runs on a Swarm: a pure function of what the engine answers.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    self, ContainerStatsResponse, Node, ServiceUpdateStatusStateEnum, Task, TaskState,
};
use contract::Timestamp;
use transcript::one_line;

use crate::{
    Service,
    task::{self, is_present, is_wanted, slot, time},
};

/// An hour, in milliseconds.
const HOUR: i64 = 3_600_000;
/// The longest text of the engine in a view, in characters.
const TEXT: usize = 120;

/// What the engine answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    pub(crate) services: Vec<Service>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) nodes: Vec<Node>,
    /// By container.
    pub(crate) stats: HashMap<String, ContainerStatsResponse>,
    pub(crate) history_limit: usize,
}

/// A stack at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Its services.
    pub services: Vec<ServiceView>,
    /// The replicas that are there.
    pub replicas: Vec<ReplicaView>,
    /// Replicas that failed, or do not start.
    pub failures: Vec<Failure>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Its name without the stack's.
    pub name: String,
    /// How many replicas it is to have.
    pub wanted: u64,
    /// How often replicas were started again in the last hour.
    pub restarts: Restarts,
    /// A rolling update that is going on or has stopped.
    pub update: Option<String>,
}

/// A number of restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restarts {
    /// That many.
    Exactly(u64),
    /// An estimate from a history that does not reach back an hour.
    About(u64),
}

/// A replica.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaView {
    /// The service's name.
    pub service: String,
    /// Its number.
    pub slot: u64,
    /// What it does, in the Swarm's word; `leaving` if it is not wanted any more.
    pub state: String,
    /// Since when it is in this state.
    pub since: Option<Timestamp>,
    /// The name of its node.
    pub node: Option<String>,
    /// What its container uses, if it is on the engine's node; 100 is one core.
    pub cpu_percent: Option<f64>,
    /// The same in bytes, without the page cache.
    pub memory_bytes: Option<u64>,
}

/// A replica that failed, or does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When that was.
    pub at: Timestamp,
    /// The replica: `service.number`.
    pub of: String,
    /// What the engine says about it.
    pub what: String,
}

pub(crate) fn view(answers: &Answers, now: Timestamp) -> View {
    let mut view = View::default();
    for service in &answers.services {
        let name = &service.name;
        let of_service = |task: &&Task| task.service_id.as_ref() == service.raw.id.as_ref();
        let tasks: Vec<&Task> = answers.tasks.iter().filter(of_service).collect();
        view.services.push(ServiceView {
            name: name.clone(),
            wanted: wanted(&service.raw, &tasks),
            restarts: restarts(&tasks, answers.history_limit, now),
            update: update(&service.raw),
        });
        view.replicas.extend(tasks.iter().filter_map(|task| replica(name, task, answers)));
        view.failures.extend(tasks.iter().filter_map(|task| failure(name, task)));
    }
    view
}

fn wanted(service: &models::Service, tasks: &[&Task]) -> u64 {
    let mode = service.spec.as_ref().and_then(|spec| spec.mode.as_ref());
    let replicas = mode.and_then(|mode| mode.replicated.as_ref()).and_then(|it| it.replicas);
    let global = || tasks.iter().filter(|task| is_present(task)).count();
    replicas.map_or_else(
        || u64::try_from(global()).unwrap_or_default(),
        |it| u64::try_from(it).unwrap_or_default(),
    )
}

fn replica(name: &str, task: &Task, answers: &Answers) -> Option<ReplicaView> {
    if !is_present(task) {
        return None;
    }
    let stats = task::container(task).and_then(|id| answers.stats.get(id));
    let state = match task::state(task) {
        Some(_) if !is_wanted(task) => "leaving".to_owned(),
        Some(state) => state.to_string(),
        None => "unknown".to_owned(),
    };
    Some(ReplicaView {
        service: name.to_owned(),
        slot: slot(task),
        state,
        since: task.status.as_ref().and_then(|status| time(status.timestamp.as_deref())),
        node: node(task, &answers.nodes),
        cpu_percent: stats.and_then(cpu),
        memory_bytes: stats.and_then(memory),
    })
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
        let waits = matches!(status.state?, TaskState::PENDING) && is_wanted(task);
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

fn update(service: &models::Service) -> Option<String> {
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
fn restarts(tasks: &[&Task], history_limit: usize, now: Timestamp) -> Restarts {
    let now = now.as_millisecond();
    let mut slots: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    for task in tasks {
        if let Some(created) = time(task.created_at.as_deref()) {
            slots.entry(slot(task)).or_default().push(created.as_millisecond());
        }
    }
    let mut count: u64 = 0;
    let mut is_exact = true;
    for created in slots.values() {
        let oldest = created.iter().copied().min().unwrap_or(now);
        // The first one there is a memory of was started for some reason, but after nothing that is known.
        let recent = created.iter().filter(|at| **at > now - HOUR && **at != oldest).count();
        let recent = i64::try_from(recent).unwrap_or(i64::MAX);
        let cut = created.len() > history_limit && oldest > now - HOUR;
        let share = if cut {
            is_exact = false;
            recent.saturating_mul(HOUR) / (now - oldest).max(1000)
        } else {
            recent
        };
        count = count.saturating_add(u64::try_from(share).unwrap_or_default());
    }
    if is_exact { Restarts::Exactly(count) } else { Restarts::About(count) }
}

fn cpu(stats: &ContainerStatsResponse) -> Option<f64> {
    let (now, before) = (stats.cpu_stats.as_ref()?, stats.precpu_stats.as_ref()?);
    let total = |it: &models::ContainerCpuStats| it.cpu_usage.as_ref()?.total_usage;
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

#[cfg(test)]
mod tests;
