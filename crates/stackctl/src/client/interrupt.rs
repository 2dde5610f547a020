//! Ctrl-C, and what to do about it.

use std::io::{self, BufRead, IsTerminal, Write as _};

use boot::{Signal, SignalListener};
use tokio::sync::oneshot;

use super::error::ClientError;

/// The signals that end a watch.
pub(crate) struct Interrupts {
    /// `None` if signals are handled elsewhere.
    signals: Option<Signals>,
}

struct Signals {
    interrupt: SignalListener,
    terminate: SignalListener,
    hangup: SignalListener,
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// Ctrl-C, probably: somebody may be there to answer a question.
    Keyboard,
    /// Another program wants this one to stop, or the terminal is gone.
    Order,
}

/// The answer of whoever pressed Ctrl-C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Cancel the job.
    Cancel,
    /// Stop watching it.
    Leave,
    /// Go on watching.
    GoOn,
}

impl Interrupts {
    pub(crate) fn listen() -> Result<Self, ClientError> {
        let listen = |signal| SignalListener::new(signal).map_err(ClientError::Signals);
        let signals = Signals {
            interrupt: listen(Signal::SIGINT)?,
            terminate: listen(Signal::SIGTERM)?,
            hangup: listen(Signal::SIGHUP)?,
        };
        Ok(Self { signals: Some(signals) })
    }

    /// Reports no signal: whoever watches handles signals elsewhere and stops by dropping the future.
    pub(crate) fn ignored() -> Self {
        Self { signals: None }
    }

    /// The next signal. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Interrupt {
        let Some(Signals { interrupt, terminate, hangup }) = &mut self.signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            () = interrupt.recv() => Interrupt::Keyboard,
            () = terminate.recv() => Interrupt::Order,
            () = hangup.recv() => Interrupt::Order,
        }
    }

    /// Asks `question`. A second Ctrl-C means to leave.
    pub(crate) async fn ask(&mut self, question: &str) -> Choice {
        let (answer, answered) = oneshot::channel();
        let question = question.to_owned();
        // On a thread of its own, because a read from a terminal cannot be cancelled and the runtime would wait for it.
        std::thread::spawn(move || {
            let _ = answer.send(ask_terminal(&question));
        });
        tokio::select! {
            choice = answered => choice.unwrap_or(Choice::Leave),
            _ = self.next() => Choice::Leave,
        }
    }
}

/// Whether there is somebody to ask.
pub(crate) fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

fn ask_terminal(question: &str) -> Choice {
    let mut lines = io::stdin().lock().lines();
    loop {
        let mut err = anstream::stderr();
        if write!(err, "\n{question} ").and_then(|()| err.flush()).is_err() {
            return Choice::Leave;
        }
        let Some(Ok(line)) = lines.next() else { return Choice::Leave };
        match line.trim().to_ascii_lowercase().as_str() {
            "c" | "cancel" => return Choice::Cancel,
            "l" | "leave" => return Choice::Leave,
            "" => return Choice::GoOn,
            _ => {}
        }
    }
}
