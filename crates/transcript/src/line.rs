//! The lines of a transcript, and what goes on between them.

use anstyle::{AnsiColor, Style};
use contract::Timestamp;

/// One item of a transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A line that stays.
    Line(Line),
    /// What is going on until the next activity.
    Activity(Activity),
}

/// A line that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What kind of line it is.
    pub role: Role,
    /// In steps of two spaces.
    pub indent: usize,
    /// Without a line break.
    pub text: String,
}

/// What kind of line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The beginning of a step.
    Heading,
    /// Something good to know.
    Detail,
    /// What the agent says.
    Words,
    /// A tool that the agent uses.
    Tool,
    /// Something went wrong.
    Trouble,
    /// The job succeeded.
    Success,
    /// The job failed.
    Failure,
}

/// What is going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing worth a line.
    None,
    /// The job, or one of its own jobs, waits in a queue.
    Waiting(String),
    /// A transfer, or other work of known length.
    Transfer(Transfer),
    /// Work of unknown length.
    Working(String),
}

/// How far a stage of a pull has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// What git calls it.
    pub stage: String,
    /// How many objects or files are done.
    pub done: u64,
    /// Of how many; 0 if that is not known.
    pub total: u64,
    /// How many bytes were received.
    pub bytes: u64,
    /// When that was.
    pub at: Option<Timestamp>,
}

impl Line {
    /// The line as it is printed, with its indent and the style of its role. A stream that is not a terminal removes
    /// the style.
    #[must_use]
    pub fn styled(&self) -> String {
        let style = match self.role {
            Role::Heading => Style::new().bold(),
            Role::Detail => Style::new().dimmed(),
            Role::Words => Style::new(),
            Role::Tool => AnsiColor::Cyan.on_default(),
            Role::Trouble => AnsiColor::Yellow.on_default(),
            Role::Success => AnsiColor::Green.on_default().bold(),
            Role::Failure => AnsiColor::Red.on_default().bold(),
        };
        let indent = 2 * self.indent;
        format!("{:indent$}{style}{}{style:#}", "", self.text)
    }
}
