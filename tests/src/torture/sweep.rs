//! One kill per job, at every moment of its life.

use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, Instant},
};

use contract::Service;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{
    caller::{Caller, Read},
    kill::sentence,
    outcomes::{check_volume, runs},
    report::{Report, count, seconds},
    strike::{Death, SOON},
    volume::JobDirectory,
};
use crate::{AgentScript, GitServer, Stack, is_alive, wait_for};

/// How long to wait for a moment. It matters only if a guarantee is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// How soon every process of a killed `stackctl up` must be gone.
const ALL_GONE: Duration = Duration::from_secs(10);

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The replica that runs the workflow.
    Workflow,
    /// The replica that pulls.
    Pull,
    /// The replica that runs the agent.
    Claude,
    /// The gateway.
    Gateway,
    /// `stackctl up` itself. Another one is then started on the same volume and ports.
    Up,
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Workflow, Self::Pull, Self::Claude, Self::Gateway, Self::Up];

    fn part(self) -> &'static str {
        match self {
            Self::Workflow => "workflow-api",
            Self::Pull => "github-pull-api",
            Self::Claude => "claude-code-api",
            Self::Gateway => "gateway",
            Self::Up => "stackctl up",
        }
    }

    /// How a workflow may end if this victim dies.
    fn may_end_as(self, end: &str) -> bool {
        match self {
            // A pull is retried, and jobs continue without a gateway.
            Self::Pull | Self::Gateway => end == "complete",
            Self::Workflow | Self::Claude => ["complete", "replica_lost"].contains(&end),
            // Its replicas receive a signal and may have time to end their jobs themselves.
            Self::Up => ["complete", "replica_lost", "terminated", "cancelled"].contains(&end),
        }
    }
}

/// A moment in a job's life.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// This long after it was accepted.
    After(Duration),
    /// As soon as the job of this service (the workflow itself or one that it started) has this
    /// file.
    Has(Service, &'static str),
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(time) => write!(f, "{} ms after it was accepted", time.as_millis()),
            Self::Has(service, file) => write!(f, "when the {service:?} job has its {file}"),
        }
    }
}

impl Moment {
    /// The file is the journal, a claim or an outcome, and it must not be empty.
    fn has_come(self, job: &JobDirectory, accepted: Instant) -> bool {
        match self {
            Self::After(time) => accepted.elapsed() >= time,
            Self::Has(Service::Workflow, file) => job.has_bytes(file),
            Self::Has(service, file) => job.children().iter().any(|child| {
                let is_that = || child.record().is_some_and(|it| it["service"] == name_of(service));
                child.has_bytes(file) && is_that()
            }),
        }
    }
}

fn name_of(service: Service) -> &'static str {
    match service {
        Service::Workflow => "workflow-api",
        Service::Pull => "github-pull-api",
        Service::Claude => "claude-code-api",
    }
}

/// The size of the campaign.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// What is killed, one after the other.
    pub victims: Vec<Victim>,
    /// Time between two moments.
    pub step: Duration,
    /// The last moment; a job of the sweep takes about a second.
    pub until: Duration,
}

struct Sweeping {
    stack: Stack,
    git: GitServer,
    workspace: TempDir,
    runs: TempDir,
    callers: BTreeSet<String>,
    ends: Vec<String>,
    ends_of_dead: Vec<Duration>,
    all_gone: Vec<Duration>,
}

impl Sweep {
    /// Runs the campaign.
    ///
    /// # Panics
    /// If a stack cannot be started, or if it does not become idle again.
    pub async fn run(self) -> Report {
        let mut report = Report::new("sweep", None);
        let git = GitServer::start().await;
        git.create_repo("app", &[("README.md", "hello\n")]);
        let workspace = TempDir::new().unwrap();
        let stack = builder().workspace(workspace.path()).start().await;
        let mut sweeping = Sweeping {
            stack,
            git,
            workspace,
            runs: crate::scratch(),
            callers: BTreeSet::new(),
            ends: Vec::new(),
            ends_of_dead: Vec::new(),
            all_gone: Vec::new(),
        };
        let started = Instant::now();
        for &victim in &self.victims {
            let since = Instant::now();
            let moments = self.moments();
            for &moment in &moments {
                sweeping = sweeping.kill_at(victim, moment, &mut report).await;
            }
            eprintln!("{}: {} kills in {:.1?}", victim.part(), moments.len(), since.elapsed());
        }
        report.figure("jobs, each with one kill", sweeping.callers.len());
        report.figure("ends", serde_json::json!(count(sweeping.ends)));
        check_volume(&mut report, &sweeping.stack, &sweeping.callers);
        report.times("from a kill to the end of the job", &mut sweeping.ends_of_dead);
        report.times("until all processes of a killed `up` are gone", &mut sweeping.all_gone);
        report.figure("seconds", seconds(started.elapsed()));
        report
    }

    fn moments(&self) -> Vec<Moment> {
        let mut moments = Vec::new();
        for service in [Service::Workflow, Service::Pull, Service::Claude] {
            for file in ["claim", "events.ndjson", "outcome"] {
                moments.push(Moment::Has(service, file));
            }
        }
        let mut time = Duration::ZERO;
        while time <= self.until {
            moments.push(Moment::After(time));
            time += self.step;
        }
        moments
    }
}

/// One replica each, so that the victim is clear, and two for pulls, for the second attempt.
fn builder() -> crate::StackBuilder {
    Stack::builder().replicas(1, 2, 1).env("LOG_LEVEL", "warn")
}

impl Sweeping {
    async fn kill_at(mut self, victim: Victim, moment: Moment, report: &mut Report) -> Self {
        let which = format!("{} killed {moment}", victim.part());
        let script = AgentScript::new()
            .spawn_in_new_session(&["sleep", "300"])
            .flood(20, 100)
            .sleep_ms(100)
            .flood(20, 100);
        let caller = Caller::workflow(&self.stack, &self.git.url("app"), &script)
            .logging_runs(&script, self.runs.path());
        let job = JobDirectory::of(self.stack.workspace(), &caller.id);
        let id = caller.id.clone();
        self.callers.insert(id.clone());
        let reading = tokio::spawn(async move { caller.read().await });
        if !reach(job.clone(), moment).await {
            report.violate(format!("{which}: that moment never came ({id})"));
        }
        match victim {
            Victim::Up => self = self.kill_up(report, &which).await,
            Victim::Gateway | Victim::Workflow | Victim::Pull | Victim::Claude => {
                self.kill_part(victim, report, &which).await;
            }
        }
        self.judge(victim, &id, reading, report, &which).await;
        self
    }

    /// Kills the replica of this part that has a job, or any other one if none has.
    async fn kill_part(&mut self, victim: Victim, report: &mut Report, which: &str) {
        let pids = self.stack.processes_of(victim.part());
        let at_work = |pid: &&u32| super::strike::has_job(self.stack.workspace(), **pid);
        let Some(&pid) = pids.iter().find(at_work).or_else(|| pids.first()) else {
            // It has just exited, and its successor is not running yet. Having nothing to kill is
            // not a failure.
            return;
        };
        let Some(death) = Death::of(self.stack.workspace(), pid) else { return };
        match death.settled().await {
            Ok(times) => self.ends_of_dead.extend(times),
            Err(late) => report.violate(format!("{which}: {late}")),
        }
    }

    async fn kill_up(mut self, report: &mut Report, which: &str) -> Self {
        let mut below = self.stack.descendants();
        self.stack.signal(Signal::SIGKILL);
        let killed = Instant::now();
        let mut late = None;
        loop {
            below.retain(|process| is_alive(process.pid));
            if below.is_empty() || killed.elapsed() > ALL_GONE {
                break;
            }
            if killed.elapsed() > SOON {
                late.get_or_insert_with(|| below.clone());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        report.check(late.is_none(), || format!("{which}: still running after {SOON:?}: {late:?}"));
        let took = killed.elapsed();
        self.all_gone.push(took);
        let ports = self.stack.ports();
        // Waits for the jobs of the dead process, and checks that no other process is left.
        drop(self.stack);
        self.stack = builder().workspace(self.workspace.path()).ports(ports).start().await;
        self
    }

    async fn judge(
        &mut self,
        victim: Victim,
        id: &str,
        reading: JoinHandle<Read>,
        report: &mut Report,
        which: &str,
    ) {
        match reading.await.map_err(sentence) {
            Err(broken) => report.violate(format!("{which}: {broken}")),
            Ok(Read { end, .. }) => {
                report.check(victim.may_end_as(&end), || format!("{which}: {id} ended {end}"));
                let runs = runs(self.runs.path(), id);
                let expected = if end == "complete" { runs == 1 } else { runs <= 1 };
                report.check(expected, || format!("{which}: {id}: {runs} runs, {end}"));
                self.ends.push(end);
            }
        }
        // Its agent and its children end too, and then the stack is as before.
        wait_for("the end of the agent's processes", ALL_GONE, || async {
            self.stack.agents().is_empty().then_some(())
        })
        .await;
        self.stack.wait_until_idle().await;
    }
}

/// Looks almost without a pause, so that the moment has not passed when it is noticed.
async fn reach(job: JobDirectory, moment: Moment) -> bool {
    let look = move || {
        let (pause, begun) = (Duration::from_micros(200), Instant::now());
        while !job.has("job.json") && begun.elapsed() < PATIENCE {
            std::thread::sleep(pause);
        }
        let accepted = Instant::now();
        while !moment.has_come(&job, accepted) {
            if begun.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(pause);
        }
        true
    };
    tokio::task::spawn_blocking(look).await.unwrap()
}
