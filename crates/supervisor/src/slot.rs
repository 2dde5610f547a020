//! A slot of the stack: its process is restarted whenever it exits.

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

/// The pauses between starts of a part that keeps dying without a job.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After running this long, a part that dies without a job restarts with the first pause.
const LONG_LIFE: Duration = Duration::from_secs(30);
/// A part that is killed within this time has not started properly.
const START_TIME: Duration = Duration::from_secs(1);
/// How long a part without a job may take to exit. A gateway and a replica finish their responses in 10 s.
const EXIT_TIME: Duration = Duration::from_secs(15);
/// How long the orphans of a dead part may take to disappear.
const SWEEP_TIME: Duration = Duration::from_secs(2);

/// What to do if the first process of a slot cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstStart {
    /// The slot exists from the start of the stack, which fails.
    MustSucceed,
    /// The slot was added to a running stack, which continues and retries the start.
    MayFail,
}

/// When to look next at a part that was told to exit, and what the last look has found.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    /// Whether it has a job, or that is not known.
    has_job: bool,
}

pub(crate) struct Slot {
    pub(crate) id: SlotId,
    pub(crate) first_start: FirstStart,
    pub(crate) program: PathBuf,
    pub(crate) workspace: Workspace,
    pub(crate) environment: Arc<Environment>,
    pub(crate) output: Output,
    pub(crate) roster: Arc<Roster>,
    /// The phases of this slot, which may leave before others.
    pub(crate) phases: watch::Receiver<StackPhase>,
}

impl Slot {
    /// Keeps the part running until the stack's phase is past it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let mut pause = FIRST_PAUSE;
        let mut first_start = self.first_start;
        loop {
            // Read once per process, which is informed of later phases by signals.
            let phase = *self.phases.borrow_and_update();
            if phase >= self.leaves_at() {
                return Ok(());
            }
            let replica = ReplicaId::new();
            let started = Instant::now();
            let mut child = match (self.start(replica, phase).await, first_start) {
                (Ok(child), _) => child,
                (Err(error), FirstStart::MustSucceed) => return Err(error),
                // The cause may be temporary: processes, memory, or a program that is being rebuilt.
                (Err(error), FirstStart::MayFail) => {
                    let cause = std::error::Error::source(&error)
                        .map(|cause| format!(": {cause}"))
                        .unwrap_or_default();
                    let pause_ms = pause.as_millis();
                    self.log(format!("{error}{cause}; retrying in {pause_ms} ms")).await;
                    self.rest(&mut pause).await;
                    continue;
                }
            };
            first_start = FirstStart::MayFail;
            self.roster.started(self.id, child.id().as_raw(), replica);
            let status = self.supervise(&mut child, replica, phase).await;
            drop(child);
            let failed = status.is_none_or(|status| !status.success());
            let told = *self.phases.borrow() >= self.leaves_at();
            self.roster.ended(self.id, (failed && !told).then(|| describe(status)));
            // This process has adopted its orphans, in any group or session.
            let _ = child_process::kill_adopted(Instant::now() + SWEEP_TIME).await;
            if *self.phases.borrow() >= self.leaves_at() {
                return Ok(());
            }
            if !self.died_idle(replica, status, started.elapsed()) {
                pause = FIRST_PAUSE;
                continue;
            }
            if started.elapsed() > LONG_LIFE {
                // It does not keep dying.
                pause = FIRST_PAUSE;
            }
            self.log(format!(
                "{} failed before it got a job ({}); its last log lines say why. Restarting in {} ms",
                self.id,
                describe(status),
                pause.as_millis()
            ))
            .await;
            self.rest(&mut pause).await;
        }
    }

    /// Pauses before the next start, each time twice as long, unless the stack's phase is past this part.
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
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Not SIGKILL: a replica whose parent has died ends its job first, with a terminal event.
            .die_with_parent(Signal::SIGHUP);
        let (environment, mut sent) = self.environment.of(self.id.part, replica);
        for (name, value) in environment {
            guest = guest.env(name, value);
        }
        if self.id.part == Part::Gateway && phase > StackPhase::Run {
            sent.add("DRAIN", "1");
        }
        let failed = |source| Error::Start { slot: self.id, program: self.program.clone(), source };
        let ((name, value), settings) = sent.send().map_err(failed)?;
        guest.env(name, value).stdin(settings).spawn().await.map_err(failed)
    }

    /// Forwards the part's log lines and the stack's phases until it exits. `told` is the phase when it was started.
    ///
    /// Once it is told to exit, it is killed unless it has a job: it may hang while it starts, or be stopped, and the
    /// grace period is for jobs.
    async fn supervise(
        &mut self,
        child: &mut Child,
        replica: ReplicaId,
        mut told: StackPhase,
    ) -> Option<ExitStatus> {
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
        let mut overdue = None;
        let status = loop {
            let phase = *self.phases.borrow_and_update();
            if phase > told {
                let signal = match (phase, self.id.part) {
                    (StackPhase::Kill, _) => Some(Signal::SIGKILL),
                    // A replica ends its job and exits.
                    (StackPhase::EndJobs, _) => Some(Signal::SIGHUP),
                    _ if told < leaves_at && phase >= leaves_at => Some(Signal::SIGTERM),
                    // It exits last, but accepts no new jobs from now on.
                    (StackPhase::DrainCallers, Part::Gateway) => Some(Signal::SIGUSR1),
                    _ => None,
                };
                told = phase;
                // Fails only if it has already exited.
                let _ = signal.map(|signal| child.signal(signal));
                if phase >= leaves_at {
                    overdue.get_or_insert_with(|| self.next_look(replica));
                }
            }
            let late = async {
                match overdue {
                    Some(Look { at, .. }) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                status = child.wait() => break status.ok(),
                changed = self.phases.changed() => if changed.is_err() {
                    // The stack is gone, so only wait.
                    break child.wait().await.ok();
                },
                () = late => {
                    let next = self.next_look(replica);
                    let had_job = overdue.replace(next).is_none_or(|last| last.has_job);
                    // Nor at the last look: a job that has just ended is still being written.
                    if !had_job && !next.has_job {
                        let seconds = EXIT_TIME.as_secs();
                        self.log(format!("{} has no job and did not exit within {seconds} s: killing it", self.id)).await;
                        let _ = child.signal(Signal::SIGKILL);
                    }
                }
            }
        };
        // Its last log lines. An orphan may hold the pipe and is not waited for.
        let _ = tokio::time::timeout(Duration::from_millis(500), logs.join_next()).await;
        status
    }

    /// Looks whether the part has a job.
    fn next_look(&self, id: ReplicaId) -> Look {
        let is_busy = |service| Registry::new(&self.workspace, service).is_busy(id).unwrap_or(true);
        let has_job = self.id.part.service().is_some_and(is_busy);
        Look { at: Instant::now() + EXIT_TIME, has_job }
    }

    /// Whether the part died without a job: its entry is still announced, or was never announced.
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
