//! What one agent's program speaks, as the runner has to know it.
//!
//! The runner starts a process, passes its lines on, ends it and all below it, and knows nothing of what they
//! mean. A [`Dialect`] knows the program: how it is called, how it is told things, what its lines say, which files
//! hold a conversation, and when a run was a success.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use child_process::Guest;
use contract::{Code, Ending, ExecuteOptions, ExecuteRequest, Prompt, SessionId, WorkspacePath};
use serde_json::value::RawValue;
use workspace::{Session, Workspace};

use crate::{
    refusal::Refusal,
    runner::{Line, Private, Tail},
};

/// One agent's program.
pub(crate) trait Dialect: Send + Sync + 'static {
    /// What the program says of a turn when it has ended.
    type Report: Clone + Send + Sync;

    /// Whether the program would run at all.
    fn may_run(&self, options: &ExecuteOptions) -> Result<(), Refusal>;

    /// The program with its arguments, environment and credential, and nothing of its standard streams. Blocking:
    /// it may read the repository's instructions.
    fn command(&self, call: &Call<'_>) -> Result<Guest, Refusal>;

    /// The refusal of a job whose program cannot be started, because of `why`.
    fn cannot_start(&self, why: &str) -> Refusal;

    /// The prompt as it goes to standard input.
    fn prompt(&self, prompt: &Prompt) -> Vec<u8>;

    /// What is written to standard input to end the running turn.
    fn interrupt(&self) -> &'static [u8];

    /// Reads a line of standard output; nothing for one that says nothing.
    fn read(&self, line: Line) -> Option<Message<Self::Report>>;

    /// The file that holds a session's conversation.
    fn transcript(session: &Session) -> PathBuf;

    /// What is at the place of a transcript. Blocking.
    fn read_transcript(path: &Path) -> io::Result<Transcript>;

    /// Puts a session's files where a program that works in `cwd` looks for them. Blocking.
    fn open_conversation(project: &Path, private: &Private, cwd: &str) -> io::Result<()>;

    /// The terminal event of a run of which these are the remains; `stopped` says why it was ended from outside.
    fn verdict(
        &self,
        session: SessionId,
        remains: Remains<Self::Report>,
        stopped: Option<&Stopped>,
    ) -> Ending;
}

/// What a command line is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) request: &'a ExecuteRequest,
    pub(crate) session: SessionArgument,
    pub(crate) workspace: &'a Workspace,
    /// Where it works, relative to the volume.
    pub(crate) place: &'a WorkspacePath,
    pub(crate) private: &'a Private,
}

/// Which session is meant, and whether there is something to continue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionArgument {
    pub(crate) history: History,
    pub(crate) id: SessionId,
}

/// What there is of a conversation before a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum History {
    /// Nothing was ever said in it.
    None,
    /// A transcript.
    Transcript,
}

/// What is at the place of a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transcript {
    /// A conversation that the program can continue.
    Conversation,
    /// Nothing, or what a program leaves that was killed before anything was said.
    Empty,
    /// Something that the program has not written.
    Damaged,
}

/// One line of the program's output, as it goes to the caller.
#[derive(Debug)]
pub(crate) struct Message<R> {
    /// The line as it stands: one JSON object.
    pub(crate) content: Box<RawValue>,
    /// What it means to the runner.
    pub(crate) kind: Kind<R>,
}

/// What of the program's messages matters to how it is run and judged.
#[derive(Clone, Debug)]
pub(crate) enum Kind<R> {
    /// It has begun.
    Begun,
    /// It says whether it works.
    State(State),
    /// The model has answered.
    Answer,
    /// A turn has ended.
    Report(Box<R>),
    /// Anything else.
    Other,
}

/// What the program says it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Idle,
    Busy,
}

/// What a run leaves to be judged.
#[derive(Debug)]
pub(crate) struct Remains<R> {
    /// Whether it said that it had begun.
    pub(crate) has_begun: bool,
    /// The last report.
    pub(crate) report: Option<R>,
    pub(crate) exit: AgentExit,
    /// The end of its standard error.
    pub(crate) stderr: Tail,
}

/// How the program's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgentExit {
    /// By itself.
    Own(ExitStatus),
    /// It did not, although it had nothing more to do or to say, and was killed.
    Forced,
}

/// Why a run was ended from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stopped {
    pub(crate) code: Code,
    /// One sentence for the caller.
    pub(crate) sentence: String,
}
