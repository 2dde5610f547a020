//! `stackctl scale`.

use std::{
    collections::BTreeSet,
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use bollard::models::{Task, TaskState};
use contract::Service;
use supervisor::{
    Ask, Connection, ConnectionError, MOST_REPLICAS, Part, Reply, SlotState, StackView,
};

use super::{
    engine::Engine,
    error::OpsError,
    options::ScaleOptions,
    parts,
    ps::swarm::{is_present, slot, state},
    target::Target,
};
use crate::{
    client::{Interrupts, exit, note, one_line},
    program,
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How often unchanged progress is printed again.
const AGAIN: Duration = Duration::from_secs(15);
/// The stop grace period of a service that does not set one.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// Most jobs take longer than this.
const SHORT_GRACE: Duration = Duration::from_secs(60);

/// How many replicas a service is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) service: Service,
    pub(crate) replicas: u16,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) =
            text.split_once('=').ok_or("name a service and a number, such as workflow=10")?;
        if name == Part::GATEWAY {
            return Err(
                "a stack has one gateway: a second one would have a queue of its own".to_owned()
            );
        }
        let service = parts::service(name)?;
        let replicas = number.parse().ok().filter(|number| *number <= MOST_REPLICAS);
        let replicas =
            replicas.ok_or_else(|| format!("the number must be from 0 to {MOST_REPLICAS}"))?;
        Ok(Self { service, replicas })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.service, self.replicas)
    }
}

/// Scales, and waits until all replicas run.
pub(super) async fn scale(options: ScaleOptions) -> anyhow::Result<u8> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = options.wanted.iter().find(|it| !seen.insert(it.service)) {
        return Err(OpsError::Usage(format!("{} is named twice", twice.service)).into());
    }
    let target = Target::find(&options.target).await?;
    note(&format!("scaling {}", target.describe()));
    let mut interrupts = Interrupts::listen()?;
    let scaling = async {
        match &target {
            Target::Swarm(engine) => on_swarm(engine, &options).await,
            Target::Local(local) => on_local(local, &options).await,
        }
    };
    tokio::select! {
        done = scaling => { done?; Ok(exit::COMPLETE) }
        _ = interrupts.next() => {
            note(&format!(
                "stopped waiting; the stack goes on scaling, and `{} ps` shows how far it is",
                program::name()
            ));
            Ok(exit::CANCELLED)
        }
    }
}

async fn on_swarm(engine: &Engine, options: &ScaleOptions) -> Result<(), OpsError> {
    let services = engine.services().await?;
    // All of them are looked up before any is changed.
    let mut found = Vec::new();
    for wanted in &options.wanted {
        let service = services.iter().find(|it| engine.short_name(it) == wanted.service.name());
        let service = service.and_then(|it| Some((it.id.clone()?, grace(it))));
        let Some((id, grace)) = service else {
            let (stack, service) = (&engine.stack, wanted.service);
            return Err(OpsError::Usage(format!("the stack '{stack}' has no service {service}")));
        };
        found.push((*wanted, id, grace));
    }
    for (wanted, id, grace) in &found {
        let had = engine.scale(id, i64::from(wanted.replicas)).await?;
        told(*wanted, u64::try_from(had).unwrap_or_default());
        if i64::from(wanted.replicas) < had && *grace < SHORT_GRACE {
            note(&format!(
                "warning: the Swarm kills a replica of {} that has not left after {} s, with its job; set a longer \
                 stop_grace_period to let jobs finish",
                wanted.service,
                grace.as_secs()
            ));
        }
    }
    if options.no_wait {
        return Ok(());
    }
    let mut waits: Vec<_> =
        found.into_iter().map(|(wanted, id, _)| (id, Wait::new(wanted))).collect();
    wait(options, async || {
        let tasks = engine.tasks().await?;
        let mut news = Vec::new();
        for (id, wait) in &mut waits {
            let of_service = tasks.iter().filter(|task| task.service_id.as_ref() == Some(id));
            news.extend(wait.look(&of_service.collect::<Vec<_>>()));
        }
        Ok(news)
    })
    .await
}

fn grace(service: &bollard::models::Service) -> Duration {
    let container =
        service.spec.as_ref().and_then(|spec| spec.task_template.as_ref()?.container_spec.as_ref());
    let nanoseconds =
        container.and_then(|it| it.stop_grace_period).and_then(|it| u64::try_from(it).ok());
    nanoseconds.map_or(DEFAULT_GRACE, Duration::from_nanos)
}

async fn on_local(local: &Connection, options: &ScaleOptions) -> Result<(), OpsError> {
    let before = local.status().await?;
    let to = options.wanted.iter().map(|it| (it.service, it.replicas)).collect();
    match local.ask(&Ask::Scale { to }).await?.next().await? {
        Some(Reply::Done) => {}
        other => return Err(ConnectionError::unexpected(other).into()),
    }
    for wanted in &options.wanted {
        let had = before.slots_of(wanted.service.name()).filter(|it| !it.leaving);
        told(*wanted, u64::try_from(had.count()).unwrap_or_default());
    }
    if options.no_wait {
        return Ok(());
    }
    wait(options, async || {
        let status = local.status().await?;
        Ok(options.wanted.iter().filter_map(|wanted| missing(*wanted, &status)).collect())
    })
    .await
}

fn told(wanted: Wanted, had: u64) {
    let text = match u64::from(wanted.replicas).cmp(&had) {
        std::cmp::Ordering::Equal => format!("{}: {had} already", wanted.service),
        std::cmp::Ordering::Greater => format!("{}: {had} -> {}", wanted.service, wanted.replicas),
        std::cmp::Ordering::Less => format!(
            "{}: {had} -> {}; the highest numbers leave, busy replicas after their jobs",
            wanted.service, wanted.replicas
        ),
    };
    note(&text);
}

/// Waits until nothing is missing, and prints what is whenever that changes.
async fn wait(
    options: &ScaleOptions,
    mut missing: impl AsyncFnMut() -> Result<Vec<String>, OpsError>,
) -> Result<(), OpsError> {
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    let mut last = (String::new(), Instant::now());
    loop {
        let news = missing().await?.join("; ");
        if news.is_empty() {
            let all = options.wanted.iter().map(|it| it.replicas).map(u32::from).sum::<u32>();
            note(&format!("{all} of {all} replicas are running"));
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(OpsError::NotYet(format!(
                "not done after {} s ({news}); the stack goes on scaling, and `{} ps` shows how far it is",
                options.timeout,
                program::name()
            )));
        }
        if last.0 != news || last.1.elapsed() > AGAIN {
            note(&format!("  {news}"));
            last = (news, Instant::now());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waiting for the replicas of one service. They come and go with their jobs, so that all of them may never run
/// at the same moment: each slot has to be seen running once.
#[derive(Debug)]
struct Wait {
    wanted: Wanted,
    seen: BTreeSet<u64>,
}

impl Wait {
    fn new(wanted: Wanted) -> Self {
        Self { wanted, seen: BTreeSet::new() }
    }

    /// What is still missing, if anything is.
    fn look(&mut self, tasks: &[&Task]) -> Option<String> {
        let running = |task: &&&Task| state(task) == Some(TaskState::RUNNING);
        let wanted = |task: &&&Task| task.desired_state == Some(TaskState::RUNNING);
        let slots: BTreeSet<u64> = tasks.iter().filter(wanted).map(|task| slot(task)).collect();
        self.seen.extend(tasks.iter().filter(wanted).filter(running).map(|task| slot(task)));
        let up = self.seen.intersection(&slots).count();
        let leaving =
            tasks.iter().filter(|task| is_present(task) && !slots.contains(&slot(task))).count();
        let count = usize::from(self.wanted.replicas);
        let mut what = Vec::new();
        if up < count {
            what.push(format!("{up} of {count} replicas are running"));
        }
        if slots.len() > count {
            what.push(format!("{} more than wanted", slots.len() - count));
        }
        if leaving > 0 {
            what.push(format!("{leaving} still finish a job"));
        }
        let mut stuck =
            tasks.iter().filter(wanted).filter(|task| state(task) != Some(TaskState::RUNNING));
        let why = stuck.find_map(|task| task.status.as_ref()?.err.as_deref());
        if let (Some(why), false) = (why, what.is_empty()) {
            what.push(one_line(why, 160));
        }
        (!what.is_empty()).then(|| format!("{}: {}", self.wanted.service, what.join(", ")))
    }
}

/// What is still missing in a local stack, if anything is.
fn missing(wanted: Wanted, status: &StackView) -> Option<String> {
    let slots = || status.slots_of(wanted.service.name());
    let leaving = slots().filter(|it| it.leaving).count();
    let staying = slots().count() - leaving;
    let up = slots().filter(|it| !it.leaving && it.state != SlotState::Down).count();
    let count = usize::from(wanted.replicas);
    let mut what = Vec::new();
    if up < count {
        what.push(format!("{up} of {count} replicas are running"));
    }
    // `up` has said that it will, and has not come to it yet.
    if staying > count {
        what.push(format!("{} more than wanted", staying - count));
    }
    if leaving > 0 {
        what.push(format!("{leaving} still finish a job"));
    }
    (!what.is_empty()).then(|| format!("{}: {}", wanted.service, what.join(", ")))
}

#[cfg(test)]
mod tests {
    use bollard::models::TaskStatus;

    use super::*;

    #[test]
    fn what_can_be_wanted() {
        let wanted = |text: &str| text.parse::<Wanted>();
        assert_eq!(wanted("workflow=10").unwrap().to_string(), "workflow-api=10");
        assert_eq!(wanted("claude-code-api=0").unwrap().to_string(), "claude-code-api=0");
        for text in ["workflow", "workflow=", "workflow=-1", "pull=1001", "db=1", "=1", "pull=1=2"]
        {
            assert!(wanted(text).is_err(), "{text}");
        }
        assert!(wanted("gateway=2").unwrap_err().contains("one gateway"));
    }

    fn task(number: i64, state: TaskState, desired: TaskState) -> Task {
        Task {
            slot: Some(number),
            desired_state: Some(desired),
            status: Some(TaskStatus { state: Some(state), ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn slots_are_seen_one_after_the_other() {
        use TaskState::{COMPLETE, READY, RUNNING, SHUTDOWN, STARTING};
        let mut wait = Wait::new("workflow=2".parse().unwrap());
        let mut look = |tasks: &[Task]| wait.look(&tasks.iter().collect::<Vec<_>>());
        assert_eq!(look(&[]).as_deref(), Some("workflow-api: 0 of 2 replicas are running"));
        let first = [task(1, RUNNING, RUNNING), task(2, STARTING, RUNNING)];
        assert_eq!(look(&first).as_deref(), Some("workflow-api: 1 of 2 replicas are running"));
        // The first has done its job meanwhile, and its successor is about to start.
        let second =
            [task(1, COMPLETE, SHUTDOWN), task(1, READY, RUNNING), task(2, RUNNING, RUNNING)];
        assert_eq!(look(&second), None);
        let fewer =
            [task(1, RUNNING, RUNNING), task(2, RUNNING, RUNNING), task(3, RUNNING, SHUTDOWN)];
        assert_eq!(look(&fewer).as_deref(), Some("workflow-api: 1 still finish a job"));
        let not_told_yet =
            [task(1, RUNNING, RUNNING), task(2, RUNNING, RUNNING), task(3, RUNNING, RUNNING)];
        assert_eq!(look(&not_told_yet).as_deref(), Some("workflow-api: 1 more than wanted"));
    }

    #[test]
    fn why_a_replica_does_not_come() {
        let mut waiting = task(1, TaskState::PENDING, TaskState::RUNNING);
        let status = waiting.status.as_mut().unwrap();
        status.err = Some("no suitable node (insufficient resources on 1 node)".into());
        let mut wait = Wait::new("pull=1".parse().unwrap());
        let said = wait.look(&[&waiting]).unwrap();
        assert_eq!(
            said,
            "github-pull-api: 0 of 1 replicas are running, no suitable node (insufficient resources on 1 node)"
        );
    }
}
