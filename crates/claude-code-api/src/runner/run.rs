//! The running program, from its first line to the end of its last descendant.

use std::{
    future::Future, io, os::fd::AsFd, pin::Pin, process::ExitStatus, sync::Arc, time::Duration,
};

use child_process::{Child, Guest, JobBounds, Pid, Signal, end_job, kill_descendants_now};
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
    Patience, Tail,
    input::Input,
    lines::{Lines, MAX_LINE},
};
use crate::dialect::{AgentExit, Dialect, Kind, Message, Remains, State};

/// The least that is read at once: the size of a pipe, pipe(7).
const READ: usize = 64 * 1024;

/// A running program. Dropped before its end it is killed, with everything below it.
pub(crate) struct Run<D: Dialect> {
    dialect: Arc<D>,
    child: Child,
    input: Input,
    stdout: Option<ChildStdout>,
    lines: Lines,
    stderr: Option<ChildStderr>,
    tail: Tail,
    patience: Patience,
    bounds: Arc<JobBounds>,
    step: RunStep,
    /// When the step ends by itself.
    deadline: Instant,
    /// Whether a request to stop was taken note of.
    is_told: bool,
    cause: Option<Cause>,
    has_begun: bool,
    report: Option<D::Report>,
    exit: Option<AgentExit>,
    sweep: Option<Pin<Box<dyn Future<Output = Vec<Pid>> + Send>>>,
    /// Whether standard output was closed before its end, so that a line without an end may be in `lines`.
    is_cut_off: bool,
    is_over: bool,
}

/// What the program is at. On the way to its end each step is a firmer request than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RunStep {
    /// It works. Silence ends this step.
    Working,
    /// There is a result; it may still say that it is idle, or go on.
    Resulted,
    /// It was asked to give up its turn.
    Interrupting,
    /// Its standard input is closed.
    Leaving,
    /// It was sent SIGTERM.
    Terminating,
    /// It was sent SIGKILL.
    Killing,
    /// It has exited; what it left behind is being killed.
    Exited,
}

/// Why a run was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The job should stop.
    Stopped,
    /// It printed nothing for too long.
    Silent,
}

/// What can happen next.
enum Event {
    Stop,
    Late,
    Written,
    Stdout(io::Result<usize>),
    Stderr(io::Result<usize>),
    Exited(io::Result<ExitStatus>),
    Swept(Vec<Pid>),
}

impl<D: Dialect> Run<D> {
    /// Starts `guest`, whose standard streams are all pipes, within `bounds`, and gives it `prompt`.
    pub(crate) async fn start(
        dialect: Arc<D>,
        guest: Guest,
        bounds: Arc<JobBounds>,
        prompt: Vec<u8>,
        patience: Patience,
    ) -> io::Result<Self> {
        let mut child = guest.bounded(&bounds).spawn().await?;
        Ok(Self {
            dialect,
            input: Input::new(child.take_stdin(), prompt),
            stdout: child.take_stdout(),
            lines: Lines::new(MAX_LINE),
            stderr: child.take_stderr(),
            tail: Tail::default(),
            patience,
            bounds,
            step: RunStep::Working,
            deadline: Instant::now() + patience.silence,
            is_told: false,
            cause: None,
            has_begun: false,
            report: None,
            exit: None,
            sweep: None,
            is_cut_off: false,
            is_over: false,
            child,
        })
    }

    pub(crate) fn id(&self) -> Pid {
        self.child.id()
    }

    /// The next message. Nothing once the program and everything below it is gone. As long as nobody asks for
    /// the next message, no more than one read is held and the program waits.
    pub(crate) async fn next(&mut self, stop: &Stop) -> Option<Message<D::Report>> {
        loop {
            while let Some(line) = self.lines.next() {
                if let Some(message) = self.dialect.read(line) {
                    self.note(&message.kind);
                    return Some(message);
                }
            }
            if std::mem::take(&mut self.is_cut_off)
                && let Some(message) = self.last_line()
            {
                self.note(&message.kind);
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
                self.note(&message.kind);
                return Some(message);
            }
        }
    }

    /// Takes what is known, after the end, and why the run was ended from outside, if it was.
    pub(crate) fn remains(&mut self) -> (Remains<D::Report>, Option<Cause>) {
        let remains = Remains {
            has_begun: self.has_begun,
            report: self.report.take(),
            exit: self.exit.unwrap_or(AgentExit::Forced),
            stderr: std::mem::take(&mut self.tail),
        };
        (remains, self.cause)
    }

    /// The line that has no end, if the output ended with one.
    fn last_line(&mut self) -> Option<Message<D::Report>> {
        let line = self.lines.last()?;
        self.dialect.read(line)
    }

    async fn event(&mut self, stop: &Stop) -> Event {
        // Whether output that waits to be read is looked at before the deadline, or cannot hold it off. After
        // the exit it need not: when the deadline has passed, what is in the pipes is read before they are closed.
        let is_patient = self.step <= RunStep::Resulted;
        tokio::select! {
            // In this order, so that a flood of output, from whomever, cannot hold off the rest.
            biased;
            _ = stop.requested(), if !self.is_told => Event::Stop,
            () = sleep_until(self.deadline), if !is_patient => Event::Late,
            () = self.input.write() => Event::Written,
            status = self.child.wait(), if self.step != RunStep::Exited => Event::Exited(status),
            left = swept(&mut self.sweep) => Event::Swept(left),
            read = read(&mut self.stdout, self.lines.buffer()) => Event::Stdout(read),
            read = read(&mut self.stderr, self.tail.buffer()) => Event::Stderr(read),
            () = sleep_until(self.deadline), if is_patient => Event::Late,
        }
    }

    /// Takes note of an event. Gives the message that had no end of its line, if the output ended with one.
    fn handle(&mut self, event: Event) -> Option<Message<D::Report>> {
        match event {
            Event::Stdout(Ok(1..)) => self.refresh(),
            Event::Stdout(_) => {
                self.stdout = None;
                let last = self.last_line();
                if self.step < RunStep::Leaving {
                    // It has nothing more to say, whatever it does.
                    self.leave(if self.is_told { self.patience.leave } else { self.patience.exit });
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
            Event::Late => self.late(),
        }
        None
    }

    /// What a message means for how to go on.
    fn note(&mut self, kind: &Kind<D::Report>) {
        match (kind, self.step) {
            (Kind::Begun, _) => self.has_begun = true,
            (Kind::Report(report), step) => {
                self.report = Some((**report).clone());
                match step {
                    RunStep::Working => self.enter(RunStep::Resulted, self.patience.idle),
                    RunStep::Interrupting => self.leave(self.patience.leave),
                    _ => {}
                }
            }
            (Kind::State(State::Idle), RunStep::Resulted) => self.leave(self.patience.exit),
            // Another turn, for a background task.
            (Kind::State(State::Busy), RunStep::Resulted) => {
                self.enter(RunStep::Working, self.patience.silence);
            }
            (Kind::State(_) | Kind::Answer | Kind::Other, _) => {}
        }
    }

    fn enter(&mut self, step: RunStep, lasts: Duration) {
        debug!(pid = %self.id(), ?step, "the agent");
        self.step = step;
        self.deadline = Instant::now() + lasts;
    }

    /// There was output.
    fn refresh(&mut self) {
        match self.step {
            RunStep::Working => self.deadline = Instant::now() + self.patience.silence,
            RunStep::Resulted => self.deadline = Instant::now() + self.patience.idle,
            _ => {}
        }
    }

    /// Closes standard input: the CLI then exits as soon as it is idle.
    fn leave(&mut self, lasts: Duration) {
        self.input.close();
        self.enter(RunStep::Leaving, lasts);
    }

    /// Begins to end the run.
    fn stop(&mut self, cause: Cause) {
        self.is_told = true;
        if self.report.is_some() && matches!(self.step, RunStep::Resulted | RunStep::Leaving) {
            // Its work is done and counts; it only has to make haste.
            return self.leave(self.patience.leave);
        }
        self.cause.get_or_insert(cause);
        match self.step {
            RunStep::Working if self.input.is_open() => {
                self.input.push(self.dialect.interrupt());
                self.enter(RunStep::Interrupting, self.patience.interrupt);
            }
            RunStep::Working | RunStep::Resulted | RunStep::Leaving => {
                self.leave(self.patience.leave)
            }
            RunStep::Interrupting | RunStep::Terminating | RunStep::Killing | RunStep::Exited => {}
        }
    }

    /// The step has lasted as long as it may.
    fn late(&mut self) {
        match self.step {
            RunStep::Working => self.stop(Cause::Silent),
            RunStep::Resulted => self.leave(self.patience.exit),
            RunStep::Interrupting => self.leave(self.patience.leave),
            RunStep::Leaving => {
                self.signal(Signal::SIGTERM);
                self.enter(RunStep::Terminating, self.patience.terminate);
            }
            RunStep::Terminating => {
                self.signal(Signal::SIGKILL);
                self.enter(RunStep::Killing, self.patience.remains);
            }
            // In an uninterruptible system call: nothing more can be done.
            RunStep::Killing => self.exited(Err(io::ErrorKind::TimedOut.into())),
            RunStep::Exited => {
                // Somebody who cannot be killed holds the other end; or this process had no time to read until
                // now, and what the agent said is still in the pipes.
                self.sweep = None;
                if let Some(pipe) = self.stderr.take() {
                    drain(&pipe, self.tail.buffer());
                    self.tail.trim();
                }
                if let Some(pipe) = self.stdout.take() {
                    drain(&pipe, self.lines.buffer());
                    self.is_cut_off = true;
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
        self.enter(RunStep::Exited, self.patience.remains);
        // What it has left behind, in sessions of their own, too. Then nobody holds the pipes any more, and
        // what is in them is read to its end.
        let until = std::time::Instant::now() + self.patience.remains.mul_f32(0.8);
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
            let left = kill_descendants_now(&[], self.patience.terminate);
            if !left.is_empty() {
                warn!(?left, "some processes of the agent could not be killed");
            }
        }
    }
}

/// Reads some bytes; never ready without a pipe. Cancel-safe.
async fn read(pipe: &mut Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> io::Result<usize> {
    match pipe {
        Some(pipe) => {
            into.reserve(READ);
            pipe.read_buf(into).await
        }
        None => std::future::pending().await,
    }
}

/// Reads what is in a pipe at this moment, however much that is, and waits for nothing. It asks the kernel: the
/// runtime may not have heard yet that there is something.
fn drain(pipe: &impl AsFd, into: &mut Vec<u8>) {
    // Somebody may go on writing: no more is taken than a pipe can hold, which tells what is old from what is new.
    let capacity = fcntl(pipe.as_fd(), FcntlArg::F_GETPIPE_SZ);
    let mut left = capacity.ok().and_then(|size| usize::try_from(size).ok()).unwrap_or(READ);
    let mut buffer = vec![0; READ];
    while left > 0 {
        // Tokio has made the pipe non-blocking.
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

async fn swept(sweep: &mut Option<Pin<Box<dyn Future<Output = Vec<Pid>> + Send>>>) -> Vec<Pid> {
    match sweep {
        Some(sweep) => sweep.await,
        None => std::future::pending().await,
    }
}
