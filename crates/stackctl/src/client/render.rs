//! Prints a transcript on a terminal, as plain lines, or not at all.

use std::{
    io::{self, IsTerminal, Write as _},
    time::Duration,
};

use contract::EventLine;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use transcript::{Activity, Item, Plain, bytes};

use super::error::ClientError;

/// Where a job's events go.
pub(crate) enum Renderer {
    /// To a person at a terminal.
    Terminal(Terminal),
    /// To a file or a pipe, as lines.
    Plain(Plain),
    /// To a program, unchanged.
    Json,
}

impl Renderer {
    /// The renderer for this command line and this standard output.
    pub(crate) fn new(json: bool) -> Self {
        let target = ProgressDrawTarget::stdout();
        if json {
            Self::Json
        } else if io::stdout().is_terminal() && !target.is_hidden() {
            Self::Terminal(Terminal { live: None, activity: Activity::None })
        } else {
            Self::Plain(Plain::default())
        }
    }

    /// Prints an item, for a person.
    pub(crate) fn item(&mut self, item: &Item) -> io::Result<()> {
        match (self, item) {
            (Self::Terminal(terminal), Item::Line(line)) => terminal.print(&line.styled()),
            (Self::Terminal(terminal), Item::Activity(activity)) => {
                terminal.activity = activity.clone();
                terminal.show();
                Ok(())
            }
            (Self::Plain(plain), item) => {
                plain.line(item).map_or(Ok(()), |line| print_line(&line.styled()))
            }
            (Self::Json, _) => Ok(()),
        }
    }

    /// Passes an event on to a program.
    pub(crate) fn event(&self, line: &EventLine) -> io::Result<()> {
        if !matches!(self, Self::Json) {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Prints something about the watching, not about the job. It goes to standard error, so that standard output is
    /// the same however often a connection breaks.
    pub(crate) fn note(&mut self, text: &str) {
        self.pause();
        note(text);
    }

    /// Hides the moving line until [`resume`](Self::resume) or the next item.
    pub(crate) fn pause(&mut self) {
        if let Self::Terminal(terminal) = self {
            terminal.clear();
        }
    }

    /// Shows the moving line again.
    pub(crate) fn resume(&mut self) {
        if let Self::Terminal(terminal) = self {
            terminal.show();
        }
    }
}

/// Prints a sentence on standard error.
pub(crate) fn note(text: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Prints text on standard output. Returns whether anybody reads it.
pub(crate) fn print(text: &str) -> Result<bool, ClientError> {
    print_on(&mut anstream::stdout(), text)
}

/// The same on another stream.
pub(crate) fn print_on(out: &mut impl io::Write, text: &str) -> Result<bool, ClientError> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        printed => printed.map(|()| true).map_err(ClientError::Output),
    }
}

fn print_line(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Lines, and a moving one below them.
pub(crate) struct Terminal {
    live: Option<Live>,
    activity: Activity,
}

struct Live {
    kind: Kind,
    bar: ProgressBar,
}

#[derive(PartialEq, Eq)]
enum Kind {
    Spinner,
    /// For this stage.
    Bar(String),
}

impl Terminal {
    fn print(&mut self, text: &str) -> io::Result<()> {
        match &self.live {
            Some(live) => live.bar.suspend(|| print_line(text)),
            None => print_line(text),
        }
    }

    fn show(&mut self) {
        match self.activity.clone() {
            Activity::None => self.clear(),
            Activity::Waiting(text) | Activity::Working(text) => {
                let bar = self.live(Kind::Spinner);
                bar.set_message(text);
            }
            Activity::Transfer(transfer) => {
                let bar = self.live(Kind::Bar(transfer.stage));
                bar.set_length(transfer.total);
                bar.set_position(transfer.done.min(transfer.total));
                bar.set_message(if transfer.bytes == 0 {
                    String::new()
                } else {
                    bytes(transfer.bytes)
                });
            }
        }
    }

    /// The moving line of this kind, which may be a new one.
    fn live(&mut self, kind: Kind) -> &ProgressBar {
        let fits = self.live.as_ref().is_some_and(|live| live.kind == kind);
        if !fits {
            self.clear();
        }
        &self.live.get_or_insert_with(|| Live::new(kind)).bar
    }

    fn clear(&mut self) {
        if let Some(live) = self.live.take() {
            live.bar.finish_and_clear();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Live {
    fn new(kind: Kind) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        let template = match &kind {
            Kind::Spinner => "{spinner} {wide_msg} {elapsed}",
            Kind::Bar(_) => "  {prefix:10} {bar:30} {percent:>3}% {pos}/{len} {wide_msg}",
        };
        if let Kind::Bar(stage) = &kind {
            bar.set_prefix(stage.clone());
        }
        // If the template did not parse, indicatif's default would remain.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { kind, bar }
    }
}
