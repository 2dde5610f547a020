//! Many short jobs while processes are killed all the time: every job still ends exactly once.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use contract::{PerService, Service};
use fastrand::Rng;
use tempfile::TempDir;
use tokio::{
    task::{JoinError, JoinSet},
    time::MissedTickBehavior,
};

use super::{
    caller::Caller,
    outcomes::{check_volume, entries, runs},
    report::{Report, count, seconds},
    strike::{Deaths, Of},
};
use crate::{AgentScript, GitServer, Stack, wait_for};

/// Several repositories, so that not every pull waits for the turn of the same checkout.
const REPOSITORIES: usize = 8;

/// The processes that may be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any replica of any service.
    Replicas,
    /// Replicas of this service; all jobs are for this service.
    Service(Service),
    /// The gateway.
    Gateway,
    /// Replicas and the gateway.
    All,
}

impl Target {
    fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Replicas => &["workflow-api", "github-pull-api", "claude-code-api"],
            Self::Service(Service::Workflow) => &["workflow-api"],
            Self::Service(Service::Pull) => &["github-pull-api"],
            Self::Service(Service::Claude) => &["claude-code-api"],
            Self::Gateway => &["gateway"],
            Self::All => &["workflow-api", "github-pull-api", "claude-code-api", "gateway"],
        }
    }
}

/// The size of the campaign.
#[derive(Clone, Debug)]
pub struct Kill {
    /// How many jobs the callers send.
    pub jobs: usize,
    /// How many callers there are at once.
    pub callers: usize,
    /// Time between two kills.
    pub every: Duration,
    /// What is killed.
    pub target: Target,
    /// Replicas of each service.
    pub replicas: PerService<usize>,
    /// The seed for the jobs and the kills.
    pub seed: u64,
    /// The directory for the volume. By default, a temporary directory.
    pub workspace: Option<PathBuf>,
}

/// What all callers share.
struct Field {
    stack: Stack,
    git: GitServer,
    runs: TempDir,
    next: AtomicUsize,
    options: Kill,
}

/// The result of one job.
struct Done {
    id: String,
    end: String,
    /// The terminal event.
    said: String,
    cuts: usize,
    /// Whether this end is possible only if an agent has run.
    needs_agent: bool,
}

impl Kill {
    /// Runs the campaign.
    ///
    /// # Panics
    /// If a stack cannot be started, or if it does not become idle again.
    pub async fn run(self) -> Report {
        let mut report = Report::new("kill", Some(self.seed));
        let temporary = TempDir::new().unwrap();
        let mut stack = Stack::builder()
            .replicas_of_each(self.replicas)
            .env("LOG_LEVEL", "warn")
            .env("TMPDIR", temporary.path());
        if let Some(workspace) = &self.workspace {
            stack = stack.workspace(workspace);
        }
        let git = GitServer::start().await;
        for number in 0..REPOSITORIES {
            git.create_repo(&repository(number), &[("README.md", "hello\n")]);
        }
        let field = Arc::new(Field {
            stack: stack.start().await,
            git,
            runs: crate::scratch(),
            next: AtomicUsize::new(0),
            options: self,
        });
        let started = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..field.options.callers {
            callers.spawn(Arc::clone(&field).call());
        }
        let (done, deaths) = field.strike_until_done(&mut callers, &mut report).await;
        report.figure("seconds", seconds(started.elapsed()));
        field.conclude(&mut report, &done).await;
        deaths.conclude(&mut report).await;
        // This is not guaranteed: a replica that is killed while it creates or removes its agent's
        // directory leaves one without a lock.
        report.figure("directories left in TMPDIR", entries(temporary.path()));
        let state = field.stack.workspace().join(".stack");
        report.figure("files left in .stack/tmp", entries(&state.join("tmp")));
        report
    }
}

fn repository(number: usize) -> String {
    format!("repository-{number}")
}

impl Field {
    /// A caller that sends one job after the other until there are enough.
    async fn call(self: Arc<Self>) -> Vec<Result<Done, String>> {
        let mut done = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.options.jobs {
                return done;
            }
            // In its own task, so that a violation ends this job and not the campaign.
            let one = tokio::spawn(Arc::clone(&self).one(number));
            done.push(one.await.map_err(sentence));
        }
    }

    /// One job. Its kind depends only on the seed and its number.
    async fn one(self: Arc<Self>, number: usize) -> Done {
        let mut rng = Rng::with_seed(self.options.seed ^ (number as u64).rotate_left(32));
        let url = self.git.url(&repository(rng.usize(..REPOSITORIES)));
        let script = match rng.usize(..4) {
            0 => AgentScript::new(),
            1 => AgentScript::new().sleep_ms(rng.u64(..150)),
            2 => AgentScript::new().flood(rng.usize(1..50), 200),
            _ => AgentScript::new().spawn_in_new_session(&["sleep", "300"]).sleep_ms(20),
        };
        let stack = &self.stack;
        let service = match (self.options.target, rng.usize(..10)) {
            (Target::Service(service), _) => service,
            (_, 0..4) => Service::Workflow,
            (_, 4..7) => Service::Pull,
            _ => Service::Claude,
        };
        let (caller, has_agent) = match service {
            Service::Workflow => (Caller::workflow(stack, &url, &script), true),
            Service::Pull => (Caller::pull(stack, &url), false),
            Service::Claude => (Caller::execute(stack, &script), true),
        };
        let caller =
            if has_agent { caller.logging_runs(&script, self.runs.path()) } else { caller };
        let read = caller.read().await;
        let needs_agent = has_agent && read.end == "complete";
        let said = read.events.last().map(|event| event.json.to_string()).unwrap_or_default();
        Done { id: caller.id, end: read.end, said, cuts: read.cuts, needs_agent }
    }

    /// Kills at every tick, as long as a caller has work.
    async fn strike_until_done(
        self: &Arc<Self>,
        callers: &mut JoinSet<Vec<Result<Done, String>>>,
        report: &mut Report,
    ) -> (Vec<Done>, Deaths) {
        let mut rng = Rng::with_seed(self.options.seed);
        let mut ticks = tokio::time::interval(self.options.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut all, mut deaths) = (Vec::new(), Deaths::default());
        let mut told = Instant::now();
        loop {
            tokio::select! {
                one = callers.join_next() => {
                    let Some(one) = one else { return (all, deaths) };
                    for done in one.unwrap() {
                        match done {
                            Ok(done) => all.push(done),
                            Err(broken) => report.violate(broken),
                        }
                    }
                }
                _ = ticks.tick() => {
                    let parts = self.options.target.parts();
                    deaths.strike(&self.stack, parts, Of::All, &mut rng);
                }
            }
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                let (sent, killed) = (self.next.load(Ordering::Relaxed), &deaths.killed);
                eprintln!("{sent} of {} jobs sent, killed: {killed:?}", self.options.jobs);
            }
        }
    }

    async fn conclude(&self, report: &mut Report, done: &[Done]) {
        self.stack.wait_until_idle().await;
        wait_for("the end of the agents' processes", Duration::from_secs(10), || async {
            self.stack.agents().is_empty().then_some(())
        })
        .await;
        report.figure("jobs sent", self.options.jobs);
        report.figure("terminal events received by their callers", done.len());
        report.check(done.len() == self.options.jobs, || {
            format!("{} of {} jobs have ended", done.len(), self.options.jobs)
        });
        let ends = count(done.iter().map(|done| done.end.clone()));
        for done in done.iter().filter(|done| !is_expected(&done.end)) {
            report.violate(format!("an end that no killed process explains: {}", done.said));
        }
        report.figure("ends", serde_json::json!(ends));
        report.figure("streams cut and resumed", done.iter().map(|done| done.cuts).sum::<usize>());
        let mut agents = 0;
        for done in done {
            let runs = runs(self.runs.path(), &done.id);
            agents += runs;
            let expected = if done.needs_agent { runs == 1 } else { runs <= 1 };
            report.check(expected, || {
                format!("{}: {} after {runs} runs of its agent", done.id, done.end)
            });
        }
        report.figure("agents that have run", agents);
        let callers: BTreeSet<_> = done.iter().map(|done| done.id.clone()).collect();
        check_volume(report, &self.stack, &callers);
        if !report.is_whole() && self.options.workspace.is_some() {
            keep_log(&self.stack);
        }
    }
}

fn keep_log(stack: &Stack) {
    let path = stack.workspace().join("stack.log");
    let kept = std::fs::write(&path, stack.log());
    eprintln!("the stack's log is in {} ({kept:?})", path.display());
}

fn is_expected(end: &str) -> bool {
    ["complete", "replica_lost"].contains(&end)
}

/// The message of a task that panicked.
pub(crate) fn sentence(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "a task was cancelled".to_owned() };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}
