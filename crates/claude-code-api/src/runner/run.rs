//! A running agent, from its first line until its last descendant is gone.

use std::{
    future::Future, io, os::fd::AsFd, pin::Pin, process::ExitStatus, sync::Arc, time::Duration,
};

use child_process::{
    Child, Guest, JobBounds, Pid, Signal, Survivors, end_job, kill_descendants_now,
};
use contract::Timestamp;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    unistd,
};
use oneshot::Stop;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{ChildStderr, ChildStdout},
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use super::{
    Tail, TimeLimits,
    input::Input,
    lines::{Lines, MAX_LINE},
};
use crate::dialect::{AgentExit, Dialect, Kind, Message, RunRecord, State};

/// The minimum read size: the capacity of a pipe, pipe(7).
const READ: usize = 64 * 1024;

/// A running agent. Dropping it early kills the agent and all its descendants.
pub(crate) struct Run<D: Dialect> {
    dialect: Arc<D>,
    child: Child,
    input: Input,
    stdout: Option<ChildStdout>,
    /// When it was last read.
    received: Timestamp,
    lines: Lines,
    stderr: Option<ChildStderr>,
    tail: Tail,
    time_limits: TimeLimits,
    bounds: Arc<JobBounds>,
    step: RunStep,
    /// When the current step times out.
    deadline: Instant,
    /// Whether a request to stop was handled.
    is_stop_handled: bool,
    cause: Option<Cause>,
    has_begun: bool,
    report: Option<D::Report>,
    exit: Option<AgentExit>,
    sweep: Option<Pin<Box<dyn Future<Output = Survivors> + Send>>>,
    /// Whether standard output was closed before its end, so `lines` may hold an unterminated line.
    is_truncated: bool,
    is_over: bool,
}

/// The state of the run. While it is being ended, each step is more forceful than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RunStep {
    /// The agent is working. Only silence ends this step.
    Working,
    /// There is a result. The agent may still report that it is idle, or continue.
    Resulted,
    /// It was asked to end its turn.
    Interrupting,
    /// Its standard input is closed.
    Leaving,
    /// It was sent SIGTERM.
    Terminating,
    /// It was sent SIGKILL.
    Killing,
    /// It has exited, and its remaining descendants are being killed.
    Exited,
}

/// Why the runner ended the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The job was stopped.
    Stopped,
    /// The agent printed nothing for too long.
    Silent,
}

/// What can happen next.
enum Event {
    Stop,
    Deadline,
    Written,
    Stdout(io::Result<usize>),
    Stderr(io::Result<usize>),
    Exited(io::Result<ExitStatus>),
    Swept(Survivors),
}

impl<D: Dialect> Run<D> {
    /// Starts `guest` within `bounds` and sends it `prompt`. All its standard streams must be pipes.
    pub(crate) async fn start(
        dialect: Arc<D>,
        guest: Guest,
        bounds: Arc<JobBounds>,
        prompt: Vec<u8>,
        time_limits: TimeLimits,
    ) -> io::Result<Self> {
        let mut child = guest.bounded(&bounds).spawn().await?;
        Ok(Self {
            dialect,
            input: Input::new(child.take_stdin(), prompt),
            stdout: child.take_stdout(),
            received: Timestamp::now(),
            lines: Lines::new(MAX_LINE),
            stderr: child.take_stderr(),
            tail: Tail::default(),
            time_limits,
            bounds,
            step: RunStep::Working,
            deadline: Instant::now() + time_limits.silence,
            is_stop_handled: false,
            cause: None,
            has_begun: false,
            report: None,
            exit: None,
            sweep: None,
            is_truncated: false,
            is_over: false,
            child,
        })
    }

    pub(crate) fn id(&self) -> Pid {
        self.child.id()
    }

    /// When the last message was read.
    pub(crate) fn received(&self) -> Timestamp {
        self.received
    }

    /// The next message; `None` once the agent and all its descendants are gone. Until it is called again, at most
    /// one read is buffered, and the agent blocks on a full pipe.
    pub(crate) async fn next(&mut self, stop: &Stop) -> Option<Message<D::Report>> {
        loop {
            while let Some(line) = self.lines.next() {
                if let Some(message) = self.dialect.read(line) {
                    self.observe(&message.kind);
                    return Some(message);
                }
            }
            if std::mem::take(&mut self.is_truncated)
                && let Some(message) = self.last_line()
            {
                self.observe(&message.kind);
                return Some(message);
            }
            if self.step == RunStep::Exited
                && self.stdout.is_none()
                && self.stderr.is_none()
                && self.sweep.is_none()
            {
                self.is_over = true;
                return None;
            }
            let event = self.event(stop).await;
            if let Some(message) = self.handle(event) {
                self.observe(&message.kind);
                return Some(message);
            }
        }
    }

    /// After the end: what is known about the run, and why the runner ended it, if it did.
    pub(crate) fn record(&mut self) -> (RunRecord<D::Report>, Option<Cause>) {
        let record = RunRecord {
            has_begun: self.has_begun,
            report: self.report.take(),
            exit: self.exit.unwrap_or(AgentExit::Forced),
            stderr: std::mem::take(&mut self.tail),
        };
        (record, self.cause)
    }

    /// The unterminated last line, if any.
    fn last_line(&mut self) -> Option<Message<D::Report>> {
        let line = self.lines.last()?;
        self.dialect.read(line)
    }

    async fn event(&mut self, stop: &Stop) -> Event {
        // While the agent may keep running, output that arrived in time counts, so it is read before the deadline is
        // checked. Once the run is being ended, output must not delay the deadline. After the exit nothing is lost,
        // because the pipes are drained before they are closed.
        let output_first = self.step <= RunStep::Resulted;
        tokio::select! {
            // Ordered, so that a flood of output cannot starve the other branches.
            biased;
            _ = stop.requested(), if !self.is_stop_handled => Event::Stop,
            () = sleep_until(self.deadline), if !output_first => Event::Deadline,
            () = self.input.write() => Event::Written,
            status = self.child.wait(), if self.step != RunStep::Exited => Event::Exited(status),
            left = swept(&mut self.sweep) => Event::Swept(left),
            read = read(&mut self.stdout, self.lines.buffer()) => Event::Stdout(read),
            read = read(&mut self.stderr, self.tail.buffer()) => Event::Stderr(read),
            () = sleep_until(self.deadline), if output_first => Event::Deadline,
        }
    }

    /// Handles an event. Returns the unterminated last line when the output ends.
    fn handle(&mut self, event: Event) -> Option<Message<D::Report>> {
        match event {
            Event::Stdout(Ok(1..)) => {
                self.received = Timestamp::now();
                self.refresh();
            }
            Event::Stdout(_) => {
                self.stdout = None;
                let last = self.last_line();
                if self.step < RunStep::Leaving {
                    // No more output can come, so end the run.
                    self.leave(if self.is_stop_handled {
                        self.time_limits.leave
                    } else {
                        self.time_limits.exit
                    });
                }
                return last;
            }
            Event::Stderr(Ok(1..)) => {
                self.tail.trim();
                self.refresh();
            }
            Event::Stderr(_) => self.stderr = None,
            Event::Written => {}
            Event::Exited(status) => self.exited(status),
            Event::Swept(left) => {
                self.sweep = None;
                if !left.is_empty() {
                    warn!(?left, "some processes of the agent could not be killed");
                }
            }
            Event::Stop => self.stop(Cause::Stopped),
            Event::Deadline => self.deadline_passed(),
        }
        None
    }

    /// Updates the state after a message.
    fn observe(&mut self, kind: &Kind<D::Report>) {
        match (kind, self.step) {
            (Kind::Begun, _) => self.has_begun = true,
            (Kind::Report(report), step) => {
                self.report = Some((**report).clone());
                match step {
                    RunStep::Working => self.enter(RunStep::Resulted, self.time_limits.idle),
                    RunStep::Interrupting => self.leave(self.time_limits.leave),
                    _ => {}
                }
            }
            (Kind::State(State::Idle), RunStep::Resulted) => self.leave(self.time_limits.exit),
            // Another turn, for a background task.
            (Kind::State(State::Busy), RunStep::Resulted) => {
                self.enter(RunStep::Working, self.time_limits.silence);
            }
            (Kind::State(_) | Kind::Answer | Kind::Other, _) => {}
        }
    }

    fn enter(&mut self, step: RunStep, lasts: Duration) {
        debug!(pid = %self.id(), ?step, "the agent");
        self.step = step;
        self.deadline = Instant::now() + lasts;
    }

    /// Resets the deadline after output.
    fn refresh(&mut self) {
        match self.step {
            RunStep::Working => self.deadline = Instant::now() + self.time_limits.silence,
            RunStep::Resulted => self.deadline = Instant::now() + self.time_limits.idle,
            _ => {}
        }
    }

    /// Closes standard input: the CLI then exits as soon as it is idle.
    fn leave(&mut self, lasts: Duration) {
        self.input.close();
        self.enter(RunStep::Leaving, lasts);
    }

    /// Starts ending the run.
    fn stop(&mut self, cause: Cause) {
        self.is_stop_handled = true;
        if self.report.is_some() && matches!(self.step, RunStep::Resulted | RunStep::Leaving) {
            // The work is done and counts, so only shorten the deadline.
            return self.leave(self.time_limits.leave);
        }
        self.cause.get_or_insert(cause);
        match self.step {
            RunStep::Working if self.input.is_open() => {
                self.input.push(self.dialect.interrupt());
                self.enter(RunStep::Interrupting, self.time_limits.interrupt);
            }
            RunStep::Working | RunStep::Resulted | RunStep::Leaving => {
                self.leave(self.time_limits.leave)
            }
            RunStep::Interrupting | RunStep::Terminating | RunStep::Killing | RunStep::Exited => {}
        }
    }

    /// Handles a step's timeout.
    fn deadline_passed(&mut self) {
        match self.step {
            RunStep::Working => self.stop(Cause::Silent),
            RunStep::Resulted => self.leave(self.time_limits.exit),
            RunStep::Interrupting => self.leave(self.time_limits.leave),
            RunStep::Leaving => {
                self.signal(Signal::SIGTERM);
                self.enter(RunStep::Terminating, self.time_limits.terminate);
            }
            RunStep::Terminating => {
                self.signal(Signal::SIGKILL);
                self.enter(RunStep::Killing, self.time_limits.cleanup);
            }
            // Stuck in an uninterruptible system call: nothing more can be done.
            RunStep::Killing => self.exited(Err(io::ErrorKind::TimedOut.into())),
            RunStep::Exited => {
                // Either a process that could not be killed holds the other end, or this process was too slow to read
                // and the agent's last output is still in the pipes.
                self.sweep = None;
                if let Some(pipe) = self.stderr.take() {
                    drain(&pipe, self.tail.buffer());
                    self.tail.trim();
                }
                if let Some(pipe) = self.stdout.take() {
                    drain(&pipe, self.lines.buffer());
                    self.is_truncated = true;
                }
            }
        }
    }

    fn exited(&mut self, status: io::Result<ExitStatus>) {
        let was_forced = self.cause.is_none() && self.step >= RunStep::Terminating;
        self.exit = Some(match status {
            Ok(status) if !was_forced => AgentExit::Own(status),
            _ => AgentExit::Forced,
        });
        self.input.close();
        self.enter(RunStep::Exited, self.time_limits.cleanup);
        // Descendants in sessions of their own are killed too. After that, no process holds the pipes, and they are
        // read to their end.
        let until = std::time::Instant::now() + self.time_limits.cleanup.mul_f32(0.8);
        let bounds = Arc::clone(&self.bounds);
        self.sweep = Some(Box::pin(async move { end_job(&bounds, until).await }));
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = self.child.signal_group(signal) {
            debug!(pid = %self.id(), %signal, %error, "failed to signal the agent");
        }
    }
}

impl<D: Dialect> Drop for Run<D> {
    fn drop(&mut self) {
        if !self.is_over {
            self.bounds.kill();
            let left = kill_descendants_now(&[], self.time_limits.terminate);
            if !left.is_empty() {
                warn!(?left, "some processes of the agent could not be killed");
            }
        }
    }
}

/// Reads some bytes. Stays pending if there is no pipe. Cancel-safe.
async fn read(pipe: &mut Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> io::Result<usize> {
    match pipe {
        Some(pipe) => {
            into.reserve(READ);
            pipe.read_buf(into).await
        }
        None => std::future::pending().await,
    }
}

/// Reads what is in a pipe now, without blocking. It asks the kernel, because the runtime may not have been notified
/// yet.
fn drain(pipe: &impl AsFd, into: &mut Vec<u8>) {
    // A surviving process may keep writing, so read no more than the pipe's capacity: that is all the old output.
    let capacity = fcntl(pipe.as_fd(), FcntlArg::F_GETPIPE_SZ);
    let mut left = capacity.ok().and_then(|size| usize::try_from(size).ok()).unwrap_or(READ);
    let mut buffer = vec![0; READ];
    while left > 0 {
        // Tokio made the pipe non-blocking.
        match unistd::read(pipe.as_fd(), &mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                into.extend_from_slice(buffer.get(..read).unwrap_or_default());
                left = left.saturating_sub(read);
            }
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

async fn swept(sweep: &mut Option<Pin<Box<dyn Future<Output = Survivors> + Send>>>) -> Survivors {
    match sweep {
        Some(sweep) => sweep.await,
        None => std::future::pending().await,
    }
}
