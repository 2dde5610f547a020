//! The running CLI, from its first line to the end of its last descendant.

use std::{future::Future, io, pin::Pin, process::ExitStatus, time::Duration};

use child_process::{Child, Guest, Pid, Signal, kill_descendants, kill_descendants_now};
use oneshot::Stop;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{ChildStderr, ChildStdout},
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use crate::{
    Patience,
    input::Input,
    invocation::INTERRUPT,
    lines::{Lines, MAX_LINE},
    message::{Kind, Message, RunResult, State},
    tail::Tail,
    verdict::Exit,
};

/// How much is read at once, at least: what a pipe holds, pipe(7).
const READ: usize = 64 * 1024;

/// A running CLI. Dropped before its end it is killed, with everything below it.
pub(crate) struct Agent {
    child: Child,
    input: Input,
    stdout: Option<ChildStdout>,
    lines: Lines,
    stderr: Option<ChildStderr>,
    tail: Tail,
    patience: Patience,
    phase: Phase,
    /// When the phase ends by itself.
    deadline: Instant,
    /// Whether a request to stop was taken note of.
    is_told: bool,
    cause: Option<Cause>,
    began: bool,
    result: Option<RunResult>,
    exit: Option<Exit>,
    sweep: Option<Pin<Box<dyn Future<Output = Vec<Pid>> + Send>>>,
    is_over: bool,
}

/// Where in its life the CLI is. On the way to its end each phase is a firmer request than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// It works. Ends by silence.
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
    /// It is gone; what it left behind is being ended.
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

/// What a run leaves to be judged.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) cause: Option<Cause>,
    pub(crate) began: bool,
    pub(crate) result: Option<RunResult>,
    pub(crate) exit: Exit,
    pub(crate) stderr: Tail,
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

impl Agent {
    /// Starts `guest`, whose standard streams are all pipes, and gives it `prompt`.
    pub(crate) async fn start(
        guest: Guest,
        prompt: Vec<u8>,
        patience: Patience,
    ) -> io::Result<Self> {
        let mut child = guest.spawn().await?;
        Ok(Self {
            input: Input::new(child.take_stdin(), prompt),
            stdout: child.take_stdout(),
            lines: Lines::new(MAX_LINE),
            stderr: child.take_stderr(),
            tail: Tail::default(),
            patience,
            phase: Phase::Working,
            deadline: Instant::now() + patience.silence,
            is_told: false,
            cause: None,
            began: false,
            result: None,
            exit: None,
            sweep: None,
            is_over: false,
            child,
        })
    }

    pub(crate) fn id(&self) -> Pid {
        self.child.id()
    }

    /// The next message. Nothing once the CLI and everything below it is gone. As long as nobody asks for
    /// the next message, no more than one read is held and the CLI waits.
    pub(crate) async fn next(&mut self, stop: &Stop) -> Option<Message> {
        loop {
            while let Some(line) = self.lines.next() {
                if let Some(message) = Message::read(line) {
                    self.note(&message.kind);
                    return Some(message);
                }
            }
            if self.phase == Phase::Exited
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

    /// Takes what is known, after the end.
    pub(crate) fn remains(&mut self) -> Remains {
        Remains {
            cause: self.cause,
            began: self.began,
            result: self.result.take(),
            exit: self.exit.unwrap_or(Exit::Forced),
            stderr: std::mem::take(&mut self.tail),
        }
    }

    async fn event(&mut self, stop: &Stop) -> Event {
        // Whether output that waits to be read is looked at before the deadline, or cannot hold it off. After
        // the exit it need not: one read takes all that the pipe holds, and comes before the deadline has passed.
        let is_patient = self.phase <= Phase::Resulted;
        tokio::select! {
            // In this order, so that a flood of output, from whomever, cannot hold off the rest.
            biased;
            _ = stop.requested(), if !self.is_told => Event::Stop,
            () = sleep_until(self.deadline), if !is_patient => Event::Late,
            () = self.input.write() => Event::Written,
            status = self.child.wait(), if self.phase != Phase::Exited => Event::Exited(status),
            left = swept(&mut self.sweep) => Event::Swept(left),
            read = read(&mut self.stdout, self.lines.buffer()) => Event::Stdout(read),
            read = read(&mut self.stderr, self.tail.buffer()) => Event::Stderr(read),
            () = sleep_until(self.deadline), if is_patient => Event::Late,
        }
    }

    /// Takes note of an event. Gives the message that had no end of its line, if the output ended with one.
    fn handle(&mut self, event: Event) -> Option<Message> {
        match event {
            Event::Stdout(Ok(1..)) => self.refresh(),
            Event::Stdout(_) => {
                self.stdout = None;
                let last = self.lines.last().and_then(Message::read);
                if self.phase < Phase::Leaving {
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
                    warn!(?left, "processes of the agent cannot be killed");
                }
            }
            Event::Stop => self.stop(Cause::Stopped),
            Event::Late => self.late(),
        }
        None
    }

    /// What a message means for how to go on.
    fn note(&mut self, kind: &Kind) {
        match (kind, self.phase) {
            (Kind::Init, _) => self.began = true,
            (Kind::Result(result), phase) => {
                self.result = Some((**result).clone());
                match phase {
                    Phase::Working => self.enter(Phase::Resulted, self.patience.idle),
                    Phase::Interrupting => self.leave(self.patience.leave),
                    _ => {}
                }
            }
            (Kind::State(State::Idle), Phase::Resulted) => self.leave(self.patience.exit),
            // Another turn, for a background task.
            (Kind::State(State::Busy), Phase::Resulted) => {
                self.enter(Phase::Working, self.patience.silence);
            }
            (Kind::State(_) | Kind::Other, _) => {}
        }
    }

    fn enter(&mut self, phase: Phase, lasts: Duration) {
        debug!(pid = %self.id(), ?phase, "the agent");
        self.phase = phase;
        self.deadline = Instant::now() + lasts;
    }

    /// There was output.
    fn refresh(&mut self) {
        match self.phase {
            Phase::Working => self.deadline = Instant::now() + self.patience.silence,
            Phase::Resulted => self.deadline = Instant::now() + self.patience.idle,
            _ => {}
        }
    }

    /// Closes standard input: the CLI then exits as soon as it is idle.
    fn leave(&mut self, lasts: Duration) {
        self.input.close();
        self.enter(Phase::Leaving, lasts);
    }

    /// Begins to end the run.
    fn stop(&mut self, cause: Cause) {
        self.is_told = true;
        if self.result.is_some() && matches!(self.phase, Phase::Resulted | Phase::Leaving) {
            // Its work is done and counts; it only has to make haste.
            return self.leave(self.patience.leave);
        }
        self.cause.get_or_insert(cause);
        match self.phase {
            Phase::Working if self.input.is_open() => {
                self.input.push(INTERRUPT);
                self.enter(Phase::Interrupting, self.patience.interrupt);
            }
            Phase::Working | Phase::Resulted | Phase::Leaving => self.leave(self.patience.leave),
            Phase::Interrupting | Phase::Terminating | Phase::Killing | Phase::Exited => {}
        }
    }

    /// The phase has lasted as long as it may.
    fn late(&mut self) {
        match self.phase {
            Phase::Working => self.stop(Cause::Silent),
            Phase::Resulted => self.leave(self.patience.exit),
            Phase::Interrupting => self.leave(self.patience.leave),
            Phase::Leaving => {
                self.signal(Signal::SIGTERM);
                self.enter(Phase::Terminating, self.patience.terminate);
            }
            Phase::Terminating => {
                self.signal(Signal::SIGKILL);
                self.enter(Phase::Killing, self.patience.remains);
            }
            // In an uninterruptible system call: nothing more can be done.
            Phase::Killing => self.exited(Err(io::ErrorKind::TimedOut.into())),
            Phase::Exited => {
                // Somebody who cannot be killed holds the other end.
                (self.stdout, self.stderr, self.sweep) = (None, None, None);
            }
        }
    }

    fn exited(&mut self, status: io::Result<ExitStatus>) {
        let was_forced = self.cause.is_none() && self.phase >= Phase::Terminating;
        self.exit = Some(match status {
            Ok(status) if !was_forced => Exit::Own(status),
            _ => Exit::Forced,
        });
        self.input.close();
        self.enter(Phase::Exited, self.patience.remains);
        // What it has left behind, in sessions of their own, too. Then nobody holds the pipes any more, and
        // what is in them is read to its end.
        let until = std::time::Instant::now() + self.patience.remains.mul_f32(0.8);
        self.sweep = Some(Box::pin(kill_descendants(&[], until)));
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = self.child.signal_group(signal) {
            debug!(pid = %self.id(), %signal, %error, "failed to signal the agent");
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.is_over {
            let left = kill_descendants_now(&[], self.patience.terminate);
            if !left.is_empty() {
                warn!(?left, "processes of the agent cannot be killed");
            }
        }
    }
}

/// Reads some bytes. Never ready without a pipe. May be dropped at any time.
async fn read(pipe: &mut Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> io::Result<usize> {
    match pipe {
        Some(pipe) => {
            into.reserve(READ);
            pipe.read_buf(into).await
        }
        None => std::future::pending().await,
    }
}

async fn swept(sweep: &mut Option<Pin<Box<dyn Future<Output = Vec<Pid>> + Send>>>) -> Vec<Pid> {
    match sweep {
        Some(sweep) => sweep.await,
        None => std::future::pending().await,
    }
}
