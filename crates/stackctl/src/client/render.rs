//! Shows a drawing on a terminal, as plain lines, or not at all.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    time::{Duration, Instant},
};

use anstyle::{AnsiColor, Style};
use contract::EventLine;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::draw::{Draw, Line, Progress, Role, Status};

/// How often the progress of a transfer is printed without a terminal. Its end is printed too.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

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
    /// The one that the command line and standard output call for.
    pub(crate) fn new(json: bool) -> Self {
        let target = ProgressDrawTarget::stdout();
        if json {
            Self::Json
        } else if io::stdout().is_terminal() && !target.is_hidden() {
            Self::Terminal(Terminal { live: None, status: Status::None })
        } else {
            Self::Plain(Plain::default())
        }
    }

    /// Draws, for a person.
    pub(crate) fn draw(&mut self, draw: &Draw) -> io::Result<()> {
        match (self, draw) {
            (Self::Terminal(terminal), Draw::Line(line)) => terminal.print(&styled(line)),
            (Self::Terminal(terminal), Draw::Status(status)) => {
                terminal.status = status.clone();
                terminal.show();
                Ok(())
            }
            (Self::Plain(_), Draw::Line(line)) => print(&styled(line)),
            (Self::Plain(plain), Draw::Status(status)) => match plain.line(status) {
                Some(line) => print(&styled(&line)),
                None => Ok(()),
            },
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

    /// Hides the moving line until [`resume`](Self::resume) or the next drawing.
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

fn print(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout();
    writeln!(out, "{text}")?;
    out.flush()
}

fn styled(line: &Line) -> String {
    let style = match line.role {
        Role::Heading => Style::new().bold(),
        Role::Detail => Style::new().dimmed(),
        Role::Words => Style::new(),
        Role::Tool => AnsiColor::Cyan.on_default(),
        Role::Trouble => AnsiColor::Yellow.on_default(),
        Role::Success => AnsiColor::Green.on_default().bold(),
        Role::Failure => AnsiColor::Red.on_default().bold(),
    };
    let indent = 2 * line.indent;
    format!("{:indent$}{style}{}{style:#}", "", line.text)
}

/// Lines, and a moving one below them.
pub(crate) struct Terminal {
    live: Option<Live>,
    status: Status,
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
            Some(live) => live.bar.suspend(|| print(text)),
            None => print(text),
        }
    }

    fn show(&mut self) {
        match self.status.clone() {
            Status::None => self.clear(),
            Status::Waiting(text) | Status::Working(text) => {
                let bar = self.live(Kind::Spinner);
                bar.set_message(text);
            }
            Status::Progress(progress) => {
                let bar = self.live(Kind::Bar(progress.stage));
                bar.set_length(progress.total);
                bar.set_position(progress.done.min(progress.total));
                bar.set_message(bytes(progress.bytes));
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

/// Few lines, and no moving one.
#[derive(Default)]
pub(crate) struct Plain {
    waiting: Option<String>,
    /// The last stage, and when a line was printed for it; `None` once its end was.
    printed: Option<(String, Option<Instant>)>,
}

impl Plain {
    /// The line for a change of status, if it deserves one.
    fn line(&mut self, status: &Status) -> Option<Line> {
        match status {
            Status::Waiting(text) if self.waiting.as_ref() != Some(text) => {
                self.waiting = Some(text.clone());
                Some(Line { role: Role::Detail, indent: 0, text: text.clone() })
            }
            Status::Progress(progress) => self.progress(progress),
            Status::None | Status::Working(_) | Status::Waiting(_) => None,
        }
    }

    fn progress(&mut self, progress: &Progress) -> Option<Line> {
        let now = Instant::now();
        let whole = progress.total > 0 && progress.done >= progress.total;
        let same = self.printed.as_ref().filter(|(stage, _)| *stage == progress.stage);
        let due = match same {
            None => {
                // Most stages are too short for a line about their beginning.
                self.printed = Some((progress.stage.clone(), Some(now)));
                whole
            }
            Some((_, None)) => false,
            Some((_, Some(at))) => whole || now.duration_since(*at) >= PLAIN_INTERVAL,
        };
        if !due {
            return None;
        }
        self.printed = Some((progress.stage.clone(), (!whole).then_some(now)));
        let mut text = format!("{}: {}", progress.stage, progress.done);
        if progress.total > 0 {
            let _ = write!(text, " of {}", progress.total);
        }
        if progress.bytes > 0 {
            let _ = write!(text, ", {}", bytes(progress.bytes));
        }
        Some(Line { role: Role::Detail, indent: 1, text })
    }
}

/// For people.
fn bytes(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { indicatif::DecimalBytes(bytes).to_string() }
}
