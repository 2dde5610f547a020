//! The rehearsal agent: a stand-in for the Claude Code CLI that needs no key and no network.
//!
//! It speaks the CLI's `stream-json` protocol on standard input and output, says that it is a stand-in, looks
//! around in its working directory, changes one file there, and costs nothing. The rest of the stack cannot
//! tell it from the CLI, so that everything but the model can be seen at work.
//!
//! `stackctl` is this agent when it is started under the name `claude-rehearsal`: `CLAUDE_BIN` is the path of one
//! program, without arguments, so a symbolic link of that name is all it takes.

mod flags;
mod messages;
mod transcript;
mod work;

use std::{
    ffi::{OsStr, OsString},
    io::{self, BufRead, Write},
    path::Path,
    process::ExitCode,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use serde_json::Value;

use flags::{Asks, Flags, Start};
use messages::{End, Messages};
use work::{Change, Survey, excerpt};

/// The name under which `stackctl` is the rehearsal agent.
pub(crate) const NAME: &str = "claude-rehearsal";

/// What it says its version is.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (stackctl rehearsal)");

/// Between two of its messages, so that somebody who watches can follow.
const PACE: Duration = Duration::from_millis(350);

/// Whether a program started as `program` is to be the rehearsal agent.
pub(crate) fn is_called(program: Option<&OsStr>) -> bool {
    program.is_some_and(|program| Path::new(program).file_name() == Some(OsStr::new(NAME)))
}

/// The agent, with the CLI's command line.
pub(crate) fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let flags = Flags::parse(args);
    if flags.asks == Asks::Version {
        // Nobody is there to be told if standard output is gone.
        let _ = writeln!(io::stdout(), "{VERSION}");
        return ExitCode::SUCCESS;
    }
    let cwd = match std::env::current_dir() {
        Ok(cwd) => cwd,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{NAME}: the working directory is gone: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (sender, inputs) = mpsc::channel();
    // It ends with standard input or with the process.
    thread::spawn(move || read(io::stdin().lock(), &sender));
    let tells_state = std::env::var_os("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS");
    let agent = Agent {
        messages: Messages::new(&flags.session),
        flags,
        inputs,
        output: io::stdout(),
        cwd: &cwd,
        pace: PACE,
        states: if tells_state.is_some_and(|it| it == "1") { States::Told } else { States::Kept },
    };
    ExitCode::from(agent.run())
}

/// What arrives on standard input.
#[derive(Debug, PartialEq)]
enum Input {
    User(String),
    /// With the request's id.
    Interrupt(Value),
    Garbage(String),
}

/// Reads lines until there are no more. What is neither a prompt nor an interrupt is passed over.
fn read(mut from: impl BufRead, to: &mpsc::Sender<Input>) {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let input = match serde_json::from_slice::<Value>(&line) {
            Ok(message) => input(&message),
            Err(_) if line.trim_ascii().is_empty() => None,
            Err(error) => Some(Input::Garbage(error.to_string())),
        };
        line.clear();
        if input.is_some_and(|input| to.send(input).is_err()) {
            return;
        }
    }
}

fn input(message: &Value) -> Option<Input> {
    let text = |pointer| message.pointer(pointer).and_then(Value::as_str);
    match text("/type")? {
        "user" => {
            let content = message.pointer("/message/content")?;
            let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
            let texts: Vec<_> =
                blocks.iter().filter_map(|block| block.get("text")?.as_str()).collect();
            Some(Input::User(content.as_str().map_or_else(|| texts.join("\n"), str::to_owned)))
        }
        "control_request" if text("/request/subtype")? == "interrupt" => {
            Some(Input::Interrupt(message.get("request_id")?.clone()))
        }
        _ => None,
    }
}

/// The caller wants the turn to end; this is the id of its request.
struct Interrupted(Value);

/// Whether `session_state_changed` is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum States {
    Told,
    Kept,
}

struct Agent<'a, W> {
    flags: Flags,
    messages: Messages,
    inputs: Receiver<Input>,
    output: W,
    cwd: &'a Path,
    pace: Duration,
    states: States,
}

impl<W: Write> Agent<'_, W> {
    /// One turn, and then waiting for standard input to be closed. Returns what to exit with.
    fn run(mut self) -> u8 {
        let prompt = match self.inputs.recv() {
            Ok(Input::User(prompt)) => prompt,
            Ok(Input::Garbage(error)) => {
                let _ = writeln!(io::stderr(), "Error parsing streaming input line: {error}");
                return 1;
            }
            Ok(Input::Interrupt(id)) => {
                self.emit(&Messages::control_response(&id));
                return 1;
            }
            Err(_) => return 0,
        };
        if self.flags.start == Start::Resumed && !transcript::exists(self.cwd, &self.flags.session)
        {
            self.emit(&self.messages.result(End::NoSession, &[]));
            return 1;
        }
        self.write_down("user", &prompt);
        self.tell_state("running");
        let code = match self.turn(&prompt) {
            Ok(()) => 0,
            Err(Interrupted(id)) => {
                self.emit(&Messages::control_response(&id));
                self.emit(&self.messages.interrupted());
                self.emit(&self.messages.result(End::Interrupted, &[]));
                1
            }
        };
        self.tell_state("idle");
        // Until the other end closes; whatever still comes is for nobody.
        while self.inputs.recv().is_ok() {}
        code
    }

    fn turn(&mut self, prompt: &str) -> Result<(), Interrupted> {
        let (mode, tools) = (&self.flags.permission_mode, &self.flags.tools);
        self.emit(&self.messages.init(self.cwd, tools, mode));
        self.pause()?;
        self.say(&format!(
            "This is a rehearsal. I am a stand-in for Claude Code: no model is called and nothing is paid for. \
             You asked: {}",
            excerpt(prompt)
        ));
        self.pause()?;
        let glob = self.use_tool("Glob", &serde_json::json!({"pattern": "**/*"}));
        let survey = Survey::of(self.cwd);
        self.answer(&glob, &Ok(survey.listing()));
        self.pause()?;
        let change = Change::plan(self.cwd, prompt, &survey);
        self.say(&format!("I write down in {} what I have found.", change.file));
        self.pause()?;
        let input = change.input(self.cwd);
        let write = self.use_tool(change.tool, &input);
        self.pause()?;
        let mut denials = Vec::new();
        let said = if self.flags.may_write(change.tool) {
            change
                .make(self.cwd)
                .map(|()| format!("The file {} has been written.", change.file))
                .map_err(|error| error.to_string())
        } else {
            denials.push(serde_json::json!({
                "tool_name": change.tool, "tool_use_id": write, "tool_input": input,
            }));
            Err(format!("Permission to use {} has not been granted.", change.tool))
        };
        self.answer(&write, &said);
        self.pause()?;
        let last = match said {
            Ok(_) => format!("Done: {} says what is in this repository.", change.file),
            Err(why) => format!("I have changed nothing: {why}"),
        };
        self.say(&last);
        self.write_down("assistant", &last);
        self.emit(&self.messages.result(End::Done(&last), &denials));
        Ok(())
    }

    fn say(&mut self, text: &str) {
        let line = self.messages.text(text);
        self.emit(&line);
    }

    fn use_tool(&mut self, name: &str, input: &Value) -> String {
        let (line, id) = self.messages.tool_use(name, input);
        self.emit(&line);
        id
    }

    fn answer(&mut self, id: &str, said: &Result<String, String>) {
        self.emit(&self.messages.tool_result(id, said));
    }

    fn tell_state(&mut self, state: &str) {
        if self.states == States::Told {
            self.emit(&self.messages.state(state));
        }
    }

    /// As the CLI, it goes on to its end when its reader is gone.
    fn emit(&mut self, line: &Value) {
        let _ = writeln!(self.output, "{line}").and_then(|()| self.output.flush());
    }

    /// As the CLI, it works where there is no room for a transcript.
    fn write_down(&self, role: &str, text: &str) {
        let _ = transcript::append(self.cwd, &self.flags.session, role, text);
    }

    fn pause(&self) -> Result<(), Interrupted> {
        match self.inputs.recv_timeout(self.pace) {
            Ok(Input::Interrupt(id)) => Err(Interrupted(id)),
            Ok(Input::User(_) | Input::Garbage(_)) | Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(self.pace);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
