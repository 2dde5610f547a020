//! One place in the stack: a process that is started again whenever it ends.

use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use child_process::{Child, Guest, Signal};
use contract::ReplicaId;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::watch,
    task::JoinSet,
};
use workspace::{Replicas, Workspace};

use super::{environment::Environment, output::Output, roster::Roster};
use crate::cli::Part;

/// Waits between starts of a part that keeps dying idle.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After a life as long as this a part that dies idle is started as if it were for the first time.
const LONG_LIFE: Duration = Duration::from_secs(30);
/// A part that dies within this time, and not by its own decision, has not come to work.
const START_TIME: Duration = Duration::from_secs(1);
/// How long what a dead part has left behind may take to be gone.
const SWEEP_TIME: Duration = Duration::from_secs(2);

/// Why there is a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The stack began with it: if it cannot be started, the stack cannot.
    Beginning,
    /// It was asked for while the stack ran, which goes on whatever becomes of it.
    Scaled,
}

/// What the stack as a whole is doing. Only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Run,
    LeaveWorkflows,
    LeaveWorkers,
    LeaveGateway,
    Kill,
}

pub(crate) struct Slot {
    pub(crate) part: Part,
    /// From 1, among those of the same part.
    pub(crate) number: u16,
    pub(crate) origin: Origin,
    pub(crate) program: PathBuf,
    pub(crate) workspace: Workspace,
    pub(crate) environment: Arc<Environment>,
    pub(crate) output: Output,
    pub(crate) roster: Arc<Roster>,
    /// This slot's own: it may leave before the others do.
    pub(crate) phases: watch::Receiver<Phase>,
}

impl Slot {
    /// Keeps the part running until the stack is past it; returns which slot this was.
    ///
    /// # Errors
    /// If it cannot be started at all.
    pub(crate) async fn run(mut self) -> anyhow::Result<(Part, u16)> {
        let mut pause = FIRST_PAUSE;
        let mut first = self.origin == Origin::Beginning;
        loop {
            // Seen once for the whole life of the part: what is said after this, be it while it starts, it is
            // told by a signal.
            let phase = *self.phases.borrow_and_update();
            if phase >= self.leaves_at() {
                break;
            }
            let id = ReplicaId::new();
            let started = Instant::now();
            let mut child = match self.start(id, phase).await {
                Ok(child) => child,
                // The very first start tells whether it can be started at all; later ones fail for want of
                // something that comes back: processes, memory, the program while it is being rebuilt.
                Err(error) if first => return Err(error),
                Err(error) => {
                    self.say(format!("{error:#}: trying again in {} ms", pause.as_millis())).await;
                    self.rest(&mut pause).await;
                    continue;
                }
            };
            first = false;
            self.roster.started(self.part, self.number, child.id().as_raw(), id);
            let status = self.live(&mut child, phase).await;
            drop(child);
            let failed = status.is_none_or(|status| !status.success());
            let told = *self.phases.borrow() >= self.leaves_at();
            self.roster.ended(self.part, self.number, (failed && !told).then(|| describe(status)));
            // What it started is adopted by this process, in whatever group or session it hides.
            let _ = child_process::kill_adopted(Instant::now() + SWEEP_TIME).await;
            if *self.phases.borrow() >= self.leaves_at() {
                break;
            }
            if !self.died_idle(id, status, started.elapsed()) {
                pause = FIRST_PAUSE;
                continue;
            }
            if started.elapsed() > LONG_LIFE {
                // It does not keep dying.
                pause = FIRST_PAUSE;
            }
            self.say(format!(
                "ended idle ({}): starting again in {} ms",
                describe(status),
                pause.as_millis()
            ))
            .await;
            self.rest(&mut pause).await;
        }
        Ok((self.part, self.number))
    }

    /// Waits before the next start, each time twice as long, but not once the stack is past this part.
    async fn rest(&self, pause: &mut Duration) {
        let mut phases = self.phases.clone();
        let leaves_at = self.leaves_at();
        tokio::select! {
            () = tokio::time::sleep(*pause) => {}
            _ = phases.wait_for(|phase| *phase >= leaves_at) => {}
        }
        *pause = (*pause * 2).min(LONGEST_PAUSE);
    }

    fn leaves_at(&self) -> Phase {
        match self.part {
            Part::WorkflowApi => Phase::LeaveWorkflows,
            Part::GithubPullApi | Part::ClaudeCodeApi => Phase::LeaveWorkers,
            Part::Gateway => Phase::LeaveGateway,
        }
    }

    async fn start(&self, id: ReplicaId, phase: Phase) -> anyhow::Result<Child> {
        let mut guest = Guest::new(&self.program)
            .args(["serve", self.part.name()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Not SIGKILL: a replica whose parent is gone ends its job first, and says so.
            .die_with_parent(Signal::SIGHUP);
        for (name, value) in self.environment.of(self.part, id) {
            guest = guest.env(name, value);
        }
        if self.part == Part::Gateway && phase > Phase::Run {
            guest = guest.env("DRAIN", "1");
        }
        guest.spawn().await.with_context(|| format!("cannot start {}", self.program.display()))
    }

    /// Passes on what the part logs and what it is told, until it ends. It was `told` that much at its start.
    async fn live(&mut self, child: &mut Child, mut told: Phase) -> Option<ExitStatus> {
        let mut logs = JoinSet::new();
        if let Some(stderr) = child.take_stderr() {
            let (output, part, number) = (self.output.clone(), self.part, self.number);
            logs.spawn(async move {
                let mut lines = BufReader::new(stderr).split(b'\n');
                while let Ok(Some(line)) = lines.next_segment().await {
                    output.line(part, number, String::from_utf8_lossy(&line).into_owned()).await;
                }
            });
        }
        let leaves_at = self.leaves_at();
        let status = loop {
            let phase = *self.phases.borrow_and_update();
            if phase > told {
                let signal = match phase {
                    Phase::Kill => Some(Signal::SIGKILL),
                    _ if told < leaves_at && phase >= leaves_at => Some(Signal::SIGTERM),
                    // Its own turn comes last, but it takes no new jobs from now on.
                    Phase::LeaveWorkflows if self.part == Part::Gateway => Some(Signal::SIGUSR1),
                    _ => None,
                };
                told = phase;
                // Fails only if it is gone already.
                let _ = signal.map(|signal| child.signal(signal));
            }
            tokio::select! {
                status = child.wait() => break status.ok(),
                changed = self.phases.changed() => if changed.is_err() {
                    // Nobody is left to say anything.
                    break child.wait().await.ok();
                },
            }
        };
        // Its last words; a process it left behind may hold the pipe, and is not waited for.
        let _ = tokio::time::timeout(Duration::from_millis(500), logs.join_next()).await;
        status
    }

    /// Whether the part died without a job: its entry is still announced, or it never came to announce one.
    fn died_idle(&self, id: ReplicaId, status: Option<ExitStatus>, life: Duration) -> bool {
        let announced = self
            .part
            .service()
            .is_some_and(|service| Replicas::new(&self.workspace, service).contains(id));
        let failed = status.is_none_or(|status| !status.success());
        let by_itself = status.and_then(|status| status.code()).is_some();
        failed && (announced || by_itself || life < START_TIME)
    }

    async fn say(&self, text: String) {
        self.output.line(self.part, self.number, text).await;
    }
}

fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "in an unknown way".into(), |status| status.to_string())
}
