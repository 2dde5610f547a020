//! The protocol: a prompt, one turn, and the exit.
//!
//! Uses threads and no async runtime, so a process starts in milliseconds. Signals are blocked in all threads and
//! taken by one, so SIGTERM ends the agent with 143, like the CLI.

use std::{
    env, fs,
    io::{self, BufRead as _, Write as _},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{SigSet, Signal},
    unistd::{dup2_stdout, geteuid},
};
use serde_json::Value;

use crate::{
    Ending, Flags, Messages, Partial, Persona, Session,
    transcript::{self, State},
};

/// Runs the agent: one turn, then the exit when standard input is closed.
///
/// `turn` receives the prompt. It emits all messages through the [`Agent`], including its [`Agent::result`], and
/// returns how the run ended. After an interrupt or a signal, its next [`Agent::pause`] or message does not return.
pub fn run(flags: Flags, persona: Persona, turn: impl FnOnce(&Agent, &str) -> Ending) -> ! {
    if flags.version {
        let printed = writeln!(io::stdout(), "{}", persona.version);
        exit(i32::from(printed.is_err()));
    }
    // Like the CLI outside a sandbox.
    let in_sandbox = env::var_os("IS_SANDBOX").is_some_and(|it| it == "1");
    if flags.permission_mode == "bypassPermissions" && geteuid().is_root() && !in_sandbox {
        fail(
            "--dangerously-skip-permissions cannot be used with root/sudo privileges for security reasons",
        );
    }
    let cwd = env::current_dir()
        .unwrap_or_else(|error| fail(&format!("failed to find the working directory: {error}")));
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    if let Err(error) = signals.thread_block() {
        fail(&format!("failed to block signals: {error}"));
    }
    let default_tools = persona.tools.iter().copied().map(str::to_owned).collect();
    let agent = Arc::new(Agent {
        tools: flags.tools.clone().unwrap_or(default_tools),
        lines: Mutex::new(Messages::new(&flags.session_id, persona)),
        flags,
        cwd,
        ignores_signals: AtomicBool::new(false),
        ignores_interrupts: AtomicBool::new(false),
        interrupted: AtomicBool::new(false),
    });
    let (sender, inputs) = mpsc::channel();
    let (of_signals, of_input) = (Arc::clone(&agent), Arc::clone(&agent));
    // Both threads run until the process exits.
    thread::spawn(move || of_signals.take_signals(&signals));
    thread::spawn(move || of_input.read_input(&sender));

    let Ok(Input::User(prompt)) = inputs.recv() else { exit(0) };
    agent.open_session(&prompt);
    agent.emit_state("running");
    agent.emit_init();
    let ending = turn(&agent, &prompt);
    agent.write_transcript("assistant", &ending.text);
    agent.emit_state("idle");
    while !matches!(inputs.recv(), Ok(Input::End) | Err(_)) {}
    exit(i32::from(ending.is_error))
}

/// What arrives on standard input.
enum Input {
    User(String),
    End,
}

/// A running agent, for its turn.
#[derive(Debug)]
pub struct Agent {
    flags: Flags,
    tools: Vec<String>,
    cwd: PathBuf,
    /// Locked while a line is written. The thread that handles an interrupt keeps the lock until the exit.
    lines: Mutex<Messages>,
    ignores_signals: AtomicBool,
    ignores_interrupts: AtomicBool,
    interrupted: AtomicBool,
}

impl Agent {
    /// The command line.
    #[must_use]
    pub fn flags(&self) -> &Flags {
        &self.flags
    }

    /// The tools it may use.
    #[must_use]
    pub fn tools(&self) -> &[String] {
        &self.tools
    }

    /// The working directory.
    #[must_use]
    pub fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// Emits an assistant message.
    pub fn say(&self, text: &str) {
        let mut lines = self.lines();
        lines.text(text, self.partial()).iter().for_each(print);
    }

    /// Emits a tool call. Returns its ID.
    pub fn use_tool(&self, name: &str, input: &Value) -> String {
        let mut lines = self.lines();
        let (messages, id) = lines.tool_use(name, input, self.partial());
        messages.iter().for_each(print);
        id
    }

    /// Emits the result of a tool call.
    pub fn tool_result(&self, id: &str, returned: &Result<String, String>) {
        print(&self.lines().tool_result(id, returned));
    }

    /// Emits the `result`.
    pub fn result(&self, ending: &Ending) {
        print(&self.lines().result(ending));
    }

    /// Emits any JSON as one line.
    pub fn emit(&self, line: &Value) {
        let _lines = self.lines();
        print(line);
    }

    /// Emits unchanged bytes.
    pub fn emit_raw(&self, bytes: &[u8]) {
        let _lines = self.lines();
        print_bytes(bytes);
    }

    /// Sleeps. Does not return after an interrupt.
    pub fn pause(&self, time: Duration) {
        thread::sleep(time);
        while self.interrupted.load(SeqCst) {
            thread::park();
        }
    }

    /// Ignores SIGTERM, SIGINT and SIGHUP from now on, or stops ignoring them.
    pub fn ignore_signals(&self, ignore: bool) {
        self.ignores_signals.store(ignore, SeqCst);
    }

    /// Ignores the control message `interrupt` from now on, or stops ignoring it.
    pub fn ignore_interrupts(&self, ignore: bool) {
        self.ignores_interrupts.store(ignore, SeqCst);
    }

    /// Closes standard output.
    ///
    /// # Errors
    /// If it cannot be replaced by `/dev/null`.
    pub fn close_output(&self) -> io::Result<()> {
        let _lines = self.lines();
        let null = fs::File::options().write(true).open("/dev/null")?;
        Ok(dup2_stdout(null)?)
    }

    fn lines(&self) -> MutexGuard<'_, Messages> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn partial(&self) -> Partial {
        if self.flags.partial_messages { Partial::Included } else { Partial::Omitted }
    }

    fn emit_init(&self) {
        print(&self.lines().init(&self.cwd, &self.tools, &self.flags.permission_mode));
    }

    fn emit_state(&self, state: &str) {
        let lines = self.lines();
        if tells_state() {
            print(&lines.state(state));
        }
    }

    fn take_signals(&self, signals: &SigSet) {
        loop {
            match signals.wait() {
                _ if self.ignores_signals.load(SeqCst) => {}
                Ok(Signal::SIGINT) => {
                    let _lines = self.interrupt(None);
                    exit(1);
                }
                Ok(signal) => exit(128 + signal as i32),
                Err(error) => fail(&format!("failed to wait for signals: {error}")),
            }
        }
    }

    fn read_input(&self, sender: &mpsc::Sender<Input>) {
        let mut input = io::stdin().lock();
        let mut line = Vec::new();
        let mut interrupted = None;
        while input.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let content = std::mem::take(&mut line);
            if content.trim_ascii().is_empty() {
                continue;
            }
            let message: Value = serde_json::from_slice(&content).unwrap_or_else(|error| {
                fail(&format!("Error parsing streaming input line: {error}"))
            });
            let text = |pointer| message.pointer(pointer).and_then(Value::as_str);
            match (text("/type"), text("/request/subtype")) {
                (Some("user"), _) => {
                    // After the turn, the receiver is gone.
                    let _late = sender.send(Input::User(prompt(&message)));
                }
                (Some("control_request"), Some("interrupt"))
                    if interrupted.is_none() && !self.ignores_interrupts.load(SeqCst) =>
                {
                    interrupted = Some(self.interrupt(message.get("request_id")));
                }
                _ => {}
            }
        }
        if interrupted.is_some() {
            exit(1);
        }
        let _late = sender.send(Input::End);
    }

    /// Ends the run like the CLI. The returned lock prevents every other thread from writing.
    fn interrupt(&self, request: Option<&Value>) -> MutexGuard<'_, Messages> {
        self.interrupted.store(true, SeqCst);
        let lines = self.lines();
        if let Some(request) = request {
            print(&Messages::control_response(request));
        }
        print(&lines.interrupted());
        let text = "[ede_diagnostic] result_type=user last_content_type=n/a".to_owned();
        print(&lines.result(&Ending::gave_up(text)));
        if tells_state() {
            print(&lines.state("idle"));
        }
        lines
    }

    /// Refuses to resume a session that does not exist and to start one that does, and records the prompt.
    fn open_session(&self, prompt: &str) {
        let session = &self.flags.session_id;
        match (self.flags.session, transcript::state(&self.cwd, session)) {
            (Session::Resumed, State::Missing | State::Empty) => {
                let text = format!("No conversation found with session ID: {session}");
                self.result(&Ending::gave_up(text.clone()));
                fail(&text);
            }
            (Session::New, State::Empty | State::Written) => {
                fail(&format!("Error: Session ID {session} is already in use."));
            }
            (Session::New, State::Missing) | (Session::Resumed, State::Written) => {}
        }
        self.write_transcript("user", prompt);
    }

    /// Like the CLI, continues if the transcript cannot be written.
    fn write_transcript(&self, role: &str, text: &str) {
        let _no_room = transcript::append(&self.cwd, &self.flags.session_id, role, text);
    }
}

/// The CLI reports its state only if the environment requests it.
fn tells_state() -> bool {
    env::var_os("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS").is_some_and(|it| it == "1")
}

fn prompt(message: &Value) -> String {
    let content = message.pointer("/message/content").unwrap_or(&Value::Null);
    let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<_> = blocks.iter().filter_map(|block| block.get("text")?.as_str()).collect();
    content.as_str().map_or_else(|| texts.join("\n"), str::to_owned)
}

/// Prints a line. The caller must hold the lock of [`Agent::lines`].
fn print(line: &Value) {
    print_bytes(format!("{line}\n").as_bytes());
}

/// Like the CLI, continues if the reader is gone.
fn print_bytes(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _gone = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// Exits with 1 and this sentence on standard error.
fn fail(why: &str) -> ! {
    let _gone = writeln!(io::stderr(), "{why}");
    exit(1)
}

#[expect(clippy::exit, reason = "any thread of the agent may end the process")]
fn exit(code: i32) -> ! {
    process::exit(code)
}
