//! `stackctl scale`.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use contract::Service;
use supervisor::{
    Connection, ConnectionError, ControlRequest, MOST_REPLICAS, Part, Reply, SlotState, StackView,
};
use swarm::{ScaleProgress, Stack};

use super::{OpsError, options::ScaleOptions, parts, target::Target};
use crate::{
    client::{Interrupts, note},
    command::exit,
    program,
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How often unchanged progress is printed again.
const AGAIN: Duration = Duration::from_secs(15);
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
pub(crate) async fn scale(options: ScaleOptions) -> anyhow::Result<u8> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = options.wanted.iter().find(|it| !seen.insert(it.service)) {
        return Err(OpsError::Usage(format!("{} is named twice", twice.service)).into());
    }
    let target = Target::find(&options.target).await?;
    note(&format!("scaling {}", target.describe()));
    let mut interrupts = Interrupts::listen()?;
    let scaling = async {
        match &target {
            Target::Swarm(stack) => on_swarm(stack, &options).await,
            Target::Local(local) => on_local(local, &options).await,
        }
    };
    tokio::select! {
        done = scaling => { done?; Ok(exit::COMPLETE) }
        _ = interrupts.next() => {
            note(&format!("stopped waiting; {}", goes_on()));
            Ok(exit::CANCELLED)
        }
    }
}

fn goes_on() -> String {
    format!("the stack goes on scaling, and `{} ps` shows how far it is", program::name())
}

async fn on_swarm(stack: &Stack, options: &ScaleOptions) -> Result<(), OpsError> {
    // All of them are looked up before any is changed.
    let mut found = Vec::new();
    for wanted in &options.wanted {
        found.push((*wanted, stack.service(wanted.service.name()).await?));
    }
    let mut scalings = Vec::new();
    for (wanted, service) in &found {
        let (had, scaling) = stack.scale(service, wanted.replicas).await?;
        scalings.push(scaling);
        announce(*wanted, had);
        let grace = service.stop_grace_period();
        if u64::from(wanted.replicas) < had && grace < SHORT_GRACE {
            note(&format!(
                "warning: the Swarm kills a replica of {} that is still running {} s after it was told to stop, and \
                 its job with it; set a longer stop_grace_period to let jobs finish",
                wanted.service,
                grace.as_secs()
            ));
        }
    }
    wait(options, async || Ok(stack.look(&mut scalings).await?)).await
}

async fn on_local(local: &Connection, options: &ScaleOptions) -> Result<(), OpsError> {
    let before = local.status().await?;
    let to = options.wanted.iter().map(|it| (it.service, it.replicas)).collect();
    match local.ask(&ControlRequest::Scale { to }).await?.next().await? {
        Some(Reply::Done) => {}
        other => return Err(ConnectionError::unexpected(other).into()),
    }
    for wanted in &options.wanted {
        let had = before.slots_of(wanted.service.name()).filter(|it| !it.leaving);
        announce(*wanted, u64::try_from(had.count()).unwrap_or_default());
    }
    wait(options, async || {
        let status = local.status().await?;
        Ok(options.wanted.iter().map(|wanted| progress(*wanted, &status)).collect())
    })
    .await
}

fn announce(wanted: Wanted, had: u64) {
    let Wanted { service, replicas } = wanted;
    note(&match u64::from(replicas).cmp(&had) {
        Ordering::Equal => format!("{service}: {had} already"),
        Ordering::Greater => format!("{service}: {had} -> {replicas}"),
        Ordering::Less => format!(
            "{service}: {had} -> {replicas}; the highest numbers are stopped, busy replicas after their jobs"
        ),
    });
}

/// Waits until nothing is missing, and prints what is whenever that changes.
async fn wait(
    options: &ScaleOptions,
    mut look: impl AsyncFnMut() -> Result<Vec<ScaleProgress>, OpsError>,
) -> Result<(), OpsError> {
    if options.no_wait {
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    let mut last = (String::new(), Instant::now());
    loop {
        let progress = look().await?;
        let missing = options.wanted.iter().zip(&progress).filter_map(|(it, at)| missing(*it, at));
        let missing = missing.collect::<Vec<_>>().join("; ");
        if missing.is_empty() {
            let all = options.wanted.iter().map(|it| it.replicas).map(u32::from).sum::<u32>();
            note(&format!("{all} of {all} replicas are running"));
            return Ok(());
        }
        if Instant::now() > deadline {
            let timeout = options.timeout;
            let text = format!("not done after {timeout} s ({missing}); {}", goes_on());
            return Err(OpsError::NotYet(text));
        }
        if last.0 != missing || last.1.elapsed() > AGAIN {
            note(&format!("  {missing}"));
            last = (missing, Instant::now());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How far a service of a local stack has got.
fn progress(wanted: Wanted, status: &StackView) -> ScaleProgress {
    let slots = || status.slots_of(wanted.service.name());
    let leaving = slots().filter(|it| it.leaving).count();
    ScaleProgress {
        running: slots().filter(|it| !it.leaving && it.state != SlotState::Down).count(),
        surplus: (slots().count() - leaving).saturating_sub(wanted.replicas.into()),
        leaving,
        stuck: None,
    }
}

/// What is still missing, if anything is.
fn missing(wanted: Wanted, progress: &ScaleProgress) -> Option<String> {
    let ScaleProgress { running, surplus, leaving, stuck } = progress;
    let count = usize::from(wanted.replicas);
    let mut missing = Vec::new();
    if *running < count {
        missing.push(format!("{running} of {count} replicas are running"));
    }
    if *surplus > 0 {
        missing.push(format!("{surplus} too many"));
    }
    if *leaving > 0 {
        missing.push(format!("{leaving} still finishing a job"));
    }
    if !missing.is_empty() {
        missing.extend(stuck.clone());
    }
    (!missing.is_empty()).then(|| format!("{}: {}", wanted.service, missing.join(", ")))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn what_is_missing() {
        let missing = |progress: [usize; 3], stuck: Option<&str>| {
            let [running, surplus, leaving] = progress;
            let stuck = stuck.map(str::to_owned);
            let progress = ScaleProgress { running, surplus, leaving, stuck };
            missing("workflow=2".parse().unwrap(), &progress)
        };
        assert_eq!(missing([2, 0, 0], None), None);
        assert_eq!(missing([2, 0, 0], Some("of a replica that restarts")), None);
        let text = missing([1, 0, 0], Some("no suitable node")).unwrap();
        assert_eq!(text, "workflow-api: 1 of 2 replicas are running, no suitable node");
        let text = missing([3, 1, 2], None).unwrap();
        assert_eq!(text, "workflow-api: 1 too many, 2 still finishing a job");
    }
}
