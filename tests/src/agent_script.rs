//! The script of a `scripted-agent`, which is passed in its prompt.

use std::path::{Path, PathBuf};

use claude_stand_in::Ending;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The prefix of the prompt line that contains the script.
const MARK: &str = "SCRIPT ";

/// One action of the agent. In JSON, an object with one key, such as `{"sleep_ms": 500}`. Relative paths are relative
/// to the agent's working directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Sleeps.
    SleepMs(u64),
    /// Emits one assistant message with this text.
    Say(String),
    /// Writes a file (path, content), and creates its parent directories.
    Write(PathBuf, String),
    /// Emits these bytes unchanged, without adding a line break.
    EmitRaw(String),
    /// Emits this JSON as one line.
    Emit(Value),
    /// Emits many assistant messages.
    Flood(Flood),
    /// Emits one assistant message with this many bytes of text.
    LongLine(usize),
    /// Writes a line to standard error.
    Stderr(String),
    /// Starts a process without waiting for it.
    Spawn(Spawn),
    /// Ignores SIGTERM, SIGINT and SIGHUP from here on.
    IgnoreSignals(bool),
    /// Ignores the control message `interrupt` from here on.
    IgnoreInterrupt(bool),
    /// Emits the `result`. Without this step, a successful one follows the last step.
    Result(Ending),
    /// Exits at once with this code.
    Exit(i32),
    /// Hangs forever.
    Hang(bool),
    /// Closes standard output.
    CloseStdout(bool),
    /// Creates an empty file.
    Touch(PathBuf),
    /// Writes its environment, arguments, open descriptors and IDs to a file, as JSON. The file appears complete.
    EnvDump(PathBuf),
    /// Waits until the file exists.
    WaitFile(PathBuf),
    /// Appends a line `<pid> <session>` to the file, so that a test can count runs.
    LogRun(PathBuf),
}

/// See [`Step::Flood`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flood {
    /// The number of messages.
    pub lines: usize,
    /// The bytes of text in each.
    pub bytes: usize,
}

/// See [`Step::Spawn`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Whether it runs in a session of its own, like the CLI's shell commands.
    #[serde(default)]
    pub setsid: bool,
}

/// Builds a script, step by step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentScript {
    steps: Vec<Step>,
}

impl AgentScript {
    /// A script without steps: the agent says something and succeeds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The prompt that makes a `scripted-agent` follow this script.
    #[must_use]
    pub fn prompt(&self) -> String {
        let steps = serde_json::to_string(&self.steps).expect("steps are JSON");
        format!("Follow the script.\n{MARK}{steps}")
    }

    /// The script in a prompt; `None` if it contains none.
    ///
    /// # Errors
    /// If the script is invalid.
    pub fn parse(prompt: &str) -> Result<Option<Vec<Step>>, serde_json::Error> {
        prompt
            .lines()
            .find_map(|line| line.strip_prefix(MARK))
            .map(serde_json::from_str)
            .transpose()
    }

    /// Adds a step.
    #[must_use]
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Adds all steps of another script.
    #[must_use]
    pub fn then(mut self, other: &Self) -> Self {
        self.steps.extend(other.steps.iter().cloned());
        self
    }

    /// See [`Step::SleepMs`].
    #[must_use]
    pub fn sleep_ms(self, milliseconds: u64) -> Self {
        self.step(Step::SleepMs(milliseconds))
    }

    /// See [`Step::Say`].
    #[must_use]
    pub fn say(self, text: &str) -> Self {
        self.step(Step::Say(text.to_owned()))
    }

    /// See [`Step::Write`].
    #[must_use]
    pub fn write(self, path: impl AsRef<Path>, content: &str) -> Self {
        self.step(Step::Write(path.as_ref().to_owned(), content.to_owned()))
    }

    /// See [`Step::EmitRaw`].
    #[must_use]
    pub fn emit_raw(self, bytes: &str) -> Self {
        self.step(Step::EmitRaw(bytes.to_owned()))
    }

    /// See [`Step::Emit`].
    #[must_use]
    pub fn emit(self, json: Value) -> Self {
        self.step(Step::Emit(json))
    }

    /// See [`Step::Flood`].
    #[must_use]
    pub fn flood(self, lines: usize, bytes: usize) -> Self {
        self.step(Step::Flood(Flood { lines, bytes }))
    }

    /// See [`Step::LongLine`].
    #[must_use]
    pub fn long_line(self, bytes: usize) -> Self {
        self.step(Step::LongLine(bytes))
    }

    /// See [`Step::Stderr`].
    #[must_use]
    pub fn stderr(self, text: &str) -> Self {
        self.step(Step::Stderr(text.to_owned()))
    }

    /// Starts a process in the agent's own session; see [`Step::Spawn`].
    #[must_use]
    pub fn spawn(self, argv: &[&str]) -> Self {
        let argv = argv.iter().copied().map(str::to_owned).collect();
        self.step(Step::Spawn(Spawn { argv, setsid: false }))
    }

    /// Starts a process in a session of its own; see [`Step::Spawn`].
    #[must_use]
    pub fn spawn_in_new_session(self, argv: &[&str]) -> Self {
        let argv = argv.iter().copied().map(str::to_owned).collect();
        self.step(Step::Spawn(Spawn { argv, setsid: true }))
    }

    /// See [`Step::IgnoreSignals`].
    #[must_use]
    pub fn ignore_signals(self) -> Self {
        self.step(Step::IgnoreSignals(true))
    }

    /// See [`Step::IgnoreInterrupt`].
    #[must_use]
    pub fn ignore_interrupt(self) -> Self {
        self.step(Step::IgnoreInterrupt(true))
    }

    /// See [`Step::Result`].
    #[must_use]
    pub fn result(self, result: Ending) -> Self {
        self.step(Step::Result(result))
    }

    /// Reports an API error with this status.
    #[must_use]
    pub fn api_error(self, status: u16, text: &str) -> Self {
        self.result(Ending {
            is_error: true,
            api_error_status: Some(status),
            text: text.to_owned(),
            ..Ending::default()
        })
    }

    /// See [`Step::Exit`].
    #[must_use]
    pub fn exit(self, code: i32) -> Self {
        self.step(Step::Exit(code))
    }

    /// See [`Step::Hang`].
    #[must_use]
    pub fn hang(self) -> Self {
        self.step(Step::Hang(true))
    }

    /// See [`Step::CloseStdout`].
    #[must_use]
    pub fn close_stdout(self) -> Self {
        self.step(Step::CloseStdout(true))
    }

    /// See [`Step::Touch`].
    #[must_use]
    pub fn touch(self, path: impl AsRef<Path>) -> Self {
        self.step(Step::Touch(path.as_ref().to_owned()))
    }

    /// See [`Step::EnvDump`].
    #[must_use]
    pub fn env_dump(self, path: impl AsRef<Path>) -> Self {
        self.step(Step::EnvDump(path.as_ref().to_owned()))
    }

    /// See [`Step::WaitFile`].
    #[must_use]
    pub fn wait_file(self, path: impl AsRef<Path>) -> Self {
        self.step(Step::WaitFile(path.as_ref().to_owned()))
    }

    /// See [`Step::LogRun`].
    #[must_use]
    pub fn log_run(self, path: impl AsRef<Path>) -> Self {
        self.step(Step::LogRun(path.as_ref().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_round_trips_through_its_prompt() {
        let script = AgentScript::new()
            .sleep_ms(5)
            .write("a/b", "line\nline")
            .flood(2, 3)
            .spawn_in_new_session(&["sleep", "300"])
            .api_error(401, "no")
            .env_dump("dump")
            .hang();
        assert_eq!(AgentScript::parse(&script.prompt()).unwrap(), Some(script.steps));
    }

    #[test]
    fn a_handwritten_script_is_parsed() {
        let prompt = "\nplease\nSCRIPT [{\"sleep_ms\":1},{\"write\":[\"p\",\"c\"]},\
                      {\"spawn\":{\"argv\":[\"true\"]}},{\"result\":{\"is_error\":true}}]\nthanks";
        let steps = AgentScript::parse(prompt).unwrap().unwrap();
        let expected = [
            Step::SleepMs(1),
            Step::Write("p".into(), "c".into()),
            Step::Spawn(Spawn { argv: vec!["true".into()], setsid: false }),
            Step::Result(Ending { is_error: true, ..Ending::default() }),
        ];
        assert_eq!(steps, expected);
        assert_eq!(AgentScript::parse("just a prompt").unwrap(), None);
        assert!(AgentScript::parse("SCRIPT [{\"dance\":1}]").is_err());
    }
}
