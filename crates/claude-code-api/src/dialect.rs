//! The interface between the runner and one agent program.
//!
//! The runner starts a process, passes on its lines, and ends it with all its descendants. It does not interpret what
//! the lines mean. A [`Dialect`] knows the program: its command line, its input and output, the files that hold a
//! conversation, and when a run was a success.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use child_process::Guest;
use contract::{
    AgentSummary, Code, Ending, EventLine, ExecuteOptions, ExecuteRequest, Prompt, SessionId,
    WorkspacePath,
};
use workspace::{Session, Workspace};

use crate::{
    refusal::Refusal,
    runner::{Line, Private, Tail},
};

/// An agent program.
pub(crate) trait Dialect: Send + Sync + 'static {
    /// What the program reports at the end of a turn.
    type Report: Clone + Send + Sync;

    /// What this process does for the program while it runs. It ends when it is dropped.
    type Aid: Send + Sync;

    /// Refuses a run that the program itself would refuse.
    fn may_run(&self, options: &ExecuteOptions) -> Result<(), Refusal>;

    /// The program with its arguments, environment and credential, but without its standard streams. Blocking: it may
    /// read the repository's instructions. Called in a runtime.
    fn command(&self, call: &Call<'_>) -> Result<(Guest, Self::Aid), Refusal>;

    /// The refusal of a job whose program cannot be started. `why` is a clause such as "it is not on the PATH".
    fn cannot_start(&self, why: &str) -> Refusal;

    /// The bytes to write to standard input for the prompt.
    fn prompt(&self, prompt: &Prompt) -> Vec<u8>;

    /// The bytes to write to standard input to interrupt the current turn.
    fn interrupt(&self) -> &'static [u8];

    /// Parses a line of standard output. Returns `None` for an empty line.
    fn read(&self, line: Line<'_>) -> Option<Message<Self::Report>>;

    /// The file that holds a session's conversation.
    fn transcript(session: &Session) -> PathBuf;

    /// Checks what is at a transcript's path. Blocking.
    fn read_transcript(path: &Path) -> io::Result<Transcript>;

    /// Links a session's files to where a program that works in `cwd` looks for them. Blocking.
    fn open_conversation(project: &Path, private: &Private, cwd: &str) -> io::Result<()>;

    /// How a run ended. `stopped` says why the runner ended it, if it did.
    fn verdict(
        &self,
        session: SessionId,
        record: RunRecord<Self::Report>,
        aid: &Self::Aid,
        stopped: Option<&Stopped>,
    ) -> Verdict;
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The code and the sentence for the caller, if it failed.
    pub(crate) outcome: Result<(), (Code, String)>,
    /// What is known about it.
    pub(crate) summary: AgentSummary,
}

impl Verdict {
    /// The terminal event.
    pub(crate) fn ending(&self) -> Ending {
        match &self.outcome {
            Ok(()) => Ending::agent_success(&self.summary),
            Err((code, sentence)) => Ending::agent_failure(*code, sentence, &self.summary),
        }
    }
}

/// The parameters of a command line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) request: &'a ExecuteRequest,
    pub(crate) session: SessionArgument,
    pub(crate) workspace: &'a Workspace,
    /// Where it works, relative to the volume.
    pub(crate) place: &'a WorkspacePath,
    pub(crate) private: &'a Private,
}

/// The session, and whether there is something to continue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionArgument {
    pub(crate) history: History,
    pub(crate) id: SessionId,
}

/// What is left of the conversation from earlier runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum History {
    /// Nothing was ever said in it.
    None,
    /// A transcript.
    Transcript,
}

/// What is at a transcript's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transcript {
    /// A conversation that the program can continue.
    Conversation,
    /// Nothing, or what a program leaves if it was killed before anything was said.
    Empty,
    /// Something that the program did not write.
    Damaged,
}

/// One line of the program's output, as it is passed to the caller.
#[derive(Debug)]
pub(crate) struct Message<R> {
    /// The line, one JSON object.
    pub(crate) content: EventLine,
    /// What it means to the runner.
    pub(crate) kind: Kind<R>,
}

/// The messages that the runner has to distinguish.
#[derive(Clone, Debug)]
pub(crate) enum Kind<R> {
    /// The program has started.
    Begun,
    /// The program reports whether it is busy.
    State(State),
    /// The model has answered.
    Answer,
    /// A turn has ended.
    Report(Box<R>),
    /// Anything else.
    Other,
}

/// What the program reports about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Idle,
    Busy,
}

/// Everything the verdict on a run is based on.
#[derive(Debug)]
pub(crate) struct RunRecord<R> {
    /// Whether the program reported that it had started.
    pub(crate) has_begun: bool,
    /// The last report.
    pub(crate) report: Option<R>,
    pub(crate) exit: AgentExit,
    /// The end of standard error.
    pub(crate) stderr: Tail,
}

/// How the program's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgentExit {
    /// It exited by itself.
    Own(ExitStatus),
    /// It was killed, because it did not exit although it had finished or closed its output.
    Forced,
}

/// Why the runner ended a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stopped {
    pub(crate) code: Code,
    /// One sentence for the caller.
    pub(crate) sentence: String,
}
