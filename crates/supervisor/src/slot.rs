//! One place in the stack: a process that is started again whenever it ends.

use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use child_process::{Child, Guest, Signal};
use contract::ReplicaId;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::watch,
    task::JoinSet,
};
use workspace::{Registry, Workspace};

use crate::{
    Error, Part, SlotId, environment::Environment, output::Output, roster::Roster,
    slots::StackPhase,
};

/// The pauses between starts of a part that keeps dying idle.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A part that ran this long before it died idle is restarted without a longer pause.
const LONG_LIFE: Duration = Duration::from_secs(30);
/// A part that is killed within this time has not begun to work.
const START_TIME: Duration = Duration::from_secs(1);
/// How long the processes that a dead part has left behind may take to end.
const SWEEP_TIME: Duration = Duration::from_secs(2);

/// What happens to the stack if the first process of a slot cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstStart {
    /// The slot is one that the stack starts with: the start of the stack fails.
    MustSucceed,
    /// The slot was added later: the stack goes on, and tries again.
    MayFail,
}

pub(crate) struct Slot {
    pub(crate) id: SlotId,
    pub(crate) first_start: FirstStart,
    pub(crate) program: PathBuf,
    pub(crate) workspace: Workspace,
    pub(crate) environment: Arc<Environment>,
    pub(crate) output: Output,
    pub(crate) roster: Arc<Roster>,
    /// This slot's own: it may leave before the others do.
    pub(crate) phases: watch::Receiver<StackPhase>,
}

impl Slot {
    /// Keeps the part running until the stack is past it.
    ///
    /// # Errors
    /// If it cannot be started at all.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let mut pause = FIRST_PAUSE;
        let mut first_start = self.first_start;
        loop {
            // Read once for each process. Signals tell it about later phases.
            let phase = *self.phases.borrow_and_update();
            if phase >= self.leaves_at() {
                return Ok(());
            }
            let replica = ReplicaId::new();
            let started = Instant::now();
            let mut child = match (self.start(replica, phase).await, first_start) {
                (Ok(child), _) => child,
                (Err(error), FirstStart::MustSucceed) => return Err(error),
                // What is missing comes back: processes, memory, the program while it is being rebuilt.
                (Err(error), FirstStart::MayFail) => {
                    let cause = std::error::Error::source(&error)
                        .map(|cause| format!(": {cause}"))
                        .unwrap_or_default();
                    let pause_ms = pause.as_millis();
                    self.log(format!("{error}{cause}; trying again in {pause_ms} ms")).await;
                    self.rest(&mut pause).await;
                    continue;
                }
            };
            first_start = FirstStart::MayFail;
            self.roster.started(self.id, child.id().as_raw(), replica);
            let status = self.live(&mut child, phase).await;
            drop(child);
            let failed = status.is_none_or(|status| !status.success());
            let told = *self.phases.borrow() >= self.leaves_at();
            self.roster.ended(self.id, (failed && !told).then(|| describe(status)));
            // This process adopts whatever the part has started, in whatever group or session that hides.
            let _ = child_process::kill_adopted(Instant::now() + SWEEP_TIME).await;
            if *self.phases.borrow() >= self.leaves_at() {
                return Ok(());
            }
            if !self.died_idle(replica, status, started.elapsed()) {
                pause = FIRST_PAUSE;
                continue;
            }
            if started.elapsed() > LONG_LIFE {
                // It does not die again and again.
                pause = FIRST_PAUSE;
            }
            self.log(format!(
                "{} failed before it had a job ({}); its last log lines say why. Starting it again in {} ms",
                self.id,
                describe(status),
                pause.as_millis()
            ))
            .await;
            self.rest(&mut pause).await;
        }
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

    fn leaves_at(&self) -> StackPhase {
        StackPhase::leaves(self.id.part)
    }

    async fn start(&self, replica: ReplicaId, phase: StackPhase) -> Result<Child, Error> {
        let mut guest = Guest::new(&self.program)
            .args(["serve", self.id.part.name()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Not SIGKILL: a replica whose parent has died ends its job first, with a terminal event.
            .die_with_parent(Signal::SIGHUP);
        for (name, value) in self.environment.of(self.id.part, replica) {
            guest = guest.env(name, value);
        }
        if self.id.part == Part::Gateway && phase > StackPhase::Run {
            guest = guest.env("DRAIN", "1");
        }
        let failed = |source| Error::Start { slot: self.id, program: self.program.clone(), source };
        guest.spawn().await.map_err(failed)
    }

    /// Passes on what the part logs, and passes phases to it as signals, until it ends. At its start it knew of `told`.
    async fn live(&mut self, child: &mut Child, mut told: StackPhase) -> Option<ExitStatus> {
        let mut logs = JoinSet::new();
        if let Some(stderr) = child.take_stderr() {
            let (output, id) = (self.output.clone(), self.id);
            logs.spawn(async move {
                let mut lines = BufReader::new(stderr).split(b'\n');
                while let Ok(Some(line)) = lines.next_segment().await {
                    output.line(id, String::from_utf8_lossy(&line).into_owned()).await;
                }
            });
        }
        let leaves_at = self.leaves_at();
        let status = loop {
            let phase = *self.phases.borrow_and_update();
            if phase > told {
                let signal = match (phase, self.id.part) {
                    (StackPhase::Kill, _) => Some(Signal::SIGKILL),
                    // A replica ends its job and leaves.
                    (StackPhase::EndJobs, _) => Some(Signal::SIGHUP),
                    _ if told < leaves_at && phase >= leaves_at => Some(Signal::SIGTERM),
                    // It leaves last, but it takes no new jobs from now on.
                    (StackPhase::DrainCallers, Part::Gateway) => Some(Signal::SIGUSR1),
                    _ => None,
                };
                told = phase;
                // Fails only if it is gone already.
                let _ = signal.map(|signal| child.signal(signal));
            }
            tokio::select! {
                status = child.wait() => break status.ok(),
                changed = self.phases.changed() => if changed.is_err() {
                    // There is nobody left to send a phase.
                    break child.wait().await.ok();
                },
            }
        };
        // Its last lines. A process that it left behind may keep the pipe open, so there is a limit.
        let _ = tokio::time::timeout(Duration::from_millis(500), logs.join_next()).await;
        status
    }

    /// Whether the part died without a job: its entry is still in the registry, or it never got there.
    fn died_idle(&self, id: ReplicaId, status: Option<ExitStatus>, life: Duration) -> bool {
        let announced = self
            .id
            .part
            .service()
            .map(|service| Registry::new(&self.workspace, service).contains(id))
            .is_some_and(|announced| announced.is_ok_and(|announced| announced));
        let failed = status.is_none_or(|status| !status.success());
        let by_itself = status.and_then(|status| status.code()).is_some();
        failed && (announced || by_itself || life < START_TIME)
    }

    async fn log(&self, text: String) {
        self.output.line(self.id, text).await;
    }
}

fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "in an unknown way".into(), |status| status.to_string())
}
