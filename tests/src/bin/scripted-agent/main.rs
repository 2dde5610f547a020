//! Stands in for the Claude CLI in tests: the same flags, the same lines, the same exit codes,
//! but what it does is a script in its prompt (see `testkit::Step`).
//!
//! Threads and no runtime, so that it starts in milliseconds. Signals are blocked in every thread
//! and taken by one, so that SIGTERM ends it with 143, as it ends the CLI.

mod effects;
mod flags;

use std::{
    env,
    ffi::OsString,
    fs,
    io::{BufRead as _, Write as _},
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
    unistd::dup2_stdout,
};
use serde_json::{Value, json};
use testkit::{AgentMessages, AgentScript, Partial, ResultStep, Step};

use crate::{
    effects::{append, dump, launch_if_asked, start, write},
    flags::Flags,
};

/// Between two looks at a file that is waited for.
const INTERVAL: Duration = Duration::from_millis(5);

fn main() {
    let argv: Vec<OsString> = env::args_os().collect();
    launch_if_asked(&argv);
    let flags = Flags::parse(&argv);
    if flags.has("--version") {
        println!("2.1.197 (Claude Code)");
        return;
    }
    flags.refuse_root();
    let agent = Arc::new(Agent::new(flags));
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block().expect("failed to block signals");
    let (sender, inputs) = mpsc::channel();
    let (of_signals, of_input) = (Arc::clone(&agent), Arc::clone(&agent));
    thread::spawn(move || of_signals.take_signals(&signals));
    thread::spawn(move || of_input.read_input(&sender));
    agent.run(&inputs)
}

/// What arrives on standard input.
enum Input {
    User(String),
    End,
}

struct Agent {
    flags: Flags,
    session: String,
    cwd: PathBuf,
    messages: Mutex<AgentMessages>,
    /// Held by whoever writes a line; for good by the thread that ends an interrupted run.
    output: Mutex<()>,
    is_deaf_to_signals: AtomicBool,
    is_deaf_to_interrupts: AtomicBool,
    is_interrupted: AtomicBool,
}

impl Agent {
    fn new(flags: Flags) -> Self {
        let session = flags.resume.as_ref().or(flags.session.as_ref()).cloned();
        let session = session.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let model = flags.model.as_deref().unwrap_or("claude-opus-4-8");
        Self {
            messages: Mutex::new(AgentMessages::new(&session, model)),
            cwd: env::current_dir().expect("the working directory exists"),
            session,
            flags,
            output: Mutex::new(()),
            is_deaf_to_signals: AtomicBool::new(false),
            is_deaf_to_interrupts: AtomicBool::new(false),
            is_interrupted: AtomicBool::new(false),
        }
    }

    fn run(&self, inputs: &mpsc::Receiver<Input>) -> ! {
        let Ok(Input::User(prompt)) = inputs.recv() else { process::exit(0) };
        self.open_session(&prompt);
        if let Some(path) = env::var_os("SCRIPTED_AGENT_LOG_RUN") {
            self.log_run(Path::new(&path));
        }
        self.emit_state("running");
        let tools = self.flags.tools.as_deref().unwrap_or("Bash,Edit,Read,Write");
        let tools: Vec<&str> = tools.split(',').filter(|tool| !tool.is_empty()).collect();
        let mode = self.flags.permission_mode.as_deref().unwrap_or("default");
        self.emit(&self.messages().init(&self.cwd, &tools, mode));
        let steps = match AgentScript::parse(&prompt) {
            Ok(Some(steps)) => steps,
            Ok(None) => vec![Step::Say("Hello from the scripted agent.".to_owned())],
            Err(error) => {
                eprintln!("scripted-agent: the script does not parse: {error}");
                process::exit(2);
            }
        };
        let mut result = None;
        for step in steps {
            self.take(step, &mut result);
            if self.is_interrupted.load(SeqCst) {
                sleep_for_ever();
            }
        }
        let result = result.unwrap_or_else(|| {
            let result = ResultStep { text: "Done.".to_owned(), ..ResultStep::default() };
            self.emit(&self.messages().result(&result));
            result
        });
        self.append_transcript("assistant", &result.text);
        self.emit_state("idle");
        while !matches!(inputs.recv(), Ok(Input::End) | Err(_)) {}
        process::exit(i32::from(result.is_error));
    }

    fn take(&self, step: Step, result: &mut Option<ResultStep>) {
        match step {
            Step::SleepMs(milliseconds) => thread::sleep(Duration::from_millis(milliseconds)),
            Step::Say(text) => self.say(&text),
            Step::Write(path, content) => write(&path, content.as_bytes()),
            Step::EmitRaw(bytes) => print(&self.output(), bytes.as_bytes()),
            Step::Emit(line) => self.emit(&line),
            Step::Flood(flood) => {
                let text = "x".repeat(flood.bytes);
                (0..flood.lines).for_each(|_| self.say(&text));
            }
            Step::LongLine(bytes) => self.say(&"x".repeat(bytes)),
            Step::Stderr(text) => eprintln!("{text}"),
            Step::Spawn(spawn) => start(&spawn),
            Step::IgnoreSignals(ignore) => self.is_deaf_to_signals.store(ignore, SeqCst),
            Step::IgnoreInterrupt(ignore) => self.is_deaf_to_interrupts.store(ignore, SeqCst),
            Step::Result(step) => {
                self.emit(&self.messages().result(&step));
                *result = Some(step);
            }
            Step::Exit(code) => process::exit(code),
            Step::Hang(true) => sleep_for_ever(),
            Step::CloseStdout(true) => {
                let _silent = self.output();
                let null = fs::File::options().write(true).open("/dev/null").unwrap();
                dup2_stdout(null).expect("failed to close standard output");
            }
            Step::Hang(false) | Step::CloseStdout(false) => {}
            Step::Touch(path) => write(&path, b""),
            Step::EnvDump(path) => dump(&path),
            Step::WaitFile(path) => {
                while !path.exists() {
                    thread::sleep(INTERVAL);
                }
            }
            Step::LogRun(path) => self.log_run(&path),
        }
    }

    fn messages(&self) -> MutexGuard<'_, AgentMessages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn output(&self) -> MutexGuard<'_, ()> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, text: &str) {
        let wants_partial = self.flags.has("--include-partial-messages");
        let partial = if wants_partial { Partial::Included } else { Partial::Omitted };
        let lines = self.messages().assistant(text, partial);
        lines.iter().for_each(|line| self.emit(line));
    }

    fn emit(&self, line: &Value) {
        print_line(&self.output(), line);
    }

    /// The CLI tells of its state only when the environment asks for it.
    fn emit_state(&self, state: &str) {
        if env::var_os("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS").is_some_and(|it| it == "1") {
            self.emit(&self.messages().state(state));
        }
    }

    fn take_signals(&self, signals: &SigSet) {
        loop {
            let signal = signals.wait().expect("failed to wait for signals");
            match signal {
                _ if self.is_deaf_to_signals.load(SeqCst) => {}
                Signal::SIGINT => {
                    let _output = self.interrupt(None);
                    process::exit(1);
                }
                other => process::exit(128 + other as i32),
            }
        }
    }

    fn read_input(&self, sender: &mpsc::Sender<Input>) {
        let mut input = std::io::stdin().lock();
        let mut line = Vec::new();
        let mut interrupted = None;
        while input.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let message: Value = serde_json::from_slice(&line).unwrap_or_else(|error| {
                eprintln!("Error parsing streaming input line: {error}");
                process::exit(1);
            });
            line.clear();
            match message["type"].as_str() {
                Some("user") => {
                    // The main thread may be gone with the script's end.
                    let _late = sender.send(Input::User(text_of(&message["message"]["content"])));
                }
                Some("control_request")
                    if message["request"]["subtype"] == "interrupt"
                        && interrupted.is_none()
                        && !self.is_deaf_to_interrupts.load(SeqCst) =>
                {
                    interrupted = Some(self.interrupt(Some(&message["request_id"])));
                }
                _ => {}
            }
        }
        if interrupted.is_some() {
            process::exit(1);
        }
        let _late = sender.send(Input::End);
    }

    /// Ends the run as the CLI does. What it returns keeps every other thread from writing.
    fn interrupt(&self, request: Option<&Value>) -> MutexGuard<'_, ()> {
        self.is_interrupted.store(true, SeqCst);
        let messages = self.messages();
        let result = ResultStep {
            is_error: true,
            api_error_status: None,
            text: "[ede_diagnostic] result_type=user last_content_type=n/a".to_owned(),
            subtype: Some("error_during_execution".to_owned()),
        };
        let output = self.output();
        if let Some(request) = request {
            print_line(&output, &messages.control_response(request));
        }
        print_line(&output, &messages.interrupted());
        print_line(&output, &messages.result(&result));
        if env::var_os("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS").is_some_and(|it| it == "1") {
            print_line(&output, &messages.state("idle"));
        }
        output
    }

    /// Refuses a session that does not exist, or one that should not, and writes the prompt down.
    fn open_session(&self, prompt: &str) {
        let Some(transcript) = self.transcript() else { return };
        if self.flags.resume.is_some() && fs::metadata(&transcript).map_or(0, |it| it.len()) == 0 {
            let text = format!("No conversation found with session ID: {}", self.session);
            eprintln!("{text}");
            self.emit(&self.messages().result(&ResultStep {
                is_error: true,
                api_error_status: None,
                text,
                subtype: Some("error_during_execution".to_owned()),
            }));
            process::exit(1);
        }
        if self.flags.resume.is_none() && transcript.exists() {
            eprintln!("Error: Session ID {} is already in use.", self.session);
            process::exit(1);
        }
        self.append_transcript("user", prompt);
    }

    /// `$CLAUDE_CONFIG_DIR/projects/<cwd, encoded>/<session>.jsonl`.
    fn transcript(&self) -> Option<PathBuf> {
        let config = env::var_os("CLAUDE_CONFIG_DIR").map(PathBuf::from);
        let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".claude"));
        let cwd = self.cwd.canonicalize().ok()?;
        let encode = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let encoded: String = cwd.to_string_lossy().chars().map(encode).collect();
        let file = format!("{}.jsonl", self.session);
        // Longer names are cut and hashed by the CLI, in a way that is not known.
        (encoded.len() <= 200)
            .then_some(config.or_else(home)?.join("projects").join(encoded).join(file))
    }

    fn append_transcript(&self, role: &str, text: &str) {
        let Some(path) = self.transcript() else { return };
        let line = json!({
            "type": role,
            "message": {"role": role, "content": text},
            "sessionId": self.session,
            "cwd": self.cwd,
        });
        fs::create_dir_all(path.parent().unwrap()).expect("failed to make the transcript's place");
        append(&path, &format!("{line}\n"));
    }

    fn log_run(&self, path: &Path) {
        append(path, &format!("{} {}\n", process::id(), self.session));
    }
}

fn text_of(content: &Value) -> String {
    let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>();
    content.as_str().map_or_else(|| text.join("\n"), str::to_owned)
}

fn print_line(output: &MutexGuard<'_, ()>, line: &Value) {
    print(output, format!("{line}\n").as_bytes());
}

/// Like the CLI, it goes on when its reader is gone.
fn print(_output: &MutexGuard<'_, ()>, bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _gone = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

fn sleep_for_ever() -> ! {
    loop {
        thread::park();
    }
}
