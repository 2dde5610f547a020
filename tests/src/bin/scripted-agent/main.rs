//! Replaces the Claude Code CLI in tests. It has the same flags, output and exit codes, but follows a script in its
//! prompt (see `testkit::Step`).

mod effects;

use std::{env, path::Path, process, thread, time::Duration};

use claude_stand_in::{Agent, Ending, Flags, Persona, Usage};
use testkit::{AgentScript, Step};

use crate::effects::{append, dump, launch_if_asked, start, write};

/// The interval for polling a file.
const INTERVAL: Duration = Duration::from_millis(5);

fn main() {
    let argv: Vec<_> = env::args_os().collect();
    launch_if_asked(&argv);
    let flags = Flags::parse(argv.into_iter().skip(1));
    let persona = Persona {
        model: flags.model.clone().unwrap_or_else(|| "claude-opus-4-8".to_owned()),
        version: "2.1.197 (Claude Code)",
        api_key_source: "ANTHROPIC_API_KEY",
        tools: &["Bash", "Edit", "Read", "Write"],
        usage: Usage {
            input: 1000,
            cache_write: 200,
            cache_read: 300,
            output: 50,
            cost_usd: 0.00765,
        },
    };
    claude_stand_in::run(flags, persona, turn)
}

#[expect(clippy::exit, reason = "an invalid script ends the agent")]
fn turn(agent: &Agent, prompt: &str) -> Ending {
    if let Some(path) = env::var_os("SCRIPTED_AGENT_LOG_RUN") {
        log_run(agent, Path::new(&path));
    }
    let steps = match AgentScript::parse(prompt) {
        Ok(Some(steps)) => steps,
        Ok(None) => vec![Step::Say("Hello from the scripted agent.".to_owned())],
        Err(error) => {
            eprintln!("scripted-agent: the script is invalid: {error}");
            process::exit(2);
        }
    };
    let mut result = None;
    for step in steps {
        take(agent, step, &mut result);
        agent.pause(Duration::ZERO);
    }
    result.unwrap_or_else(|| {
        let result = Ending { text: "Done.".to_owned(), ..Ending::default() };
        agent.result(&result);
        result
    })
}

#[expect(clippy::exit, reason = "a script may end the agent")]
fn take(agent: &Agent, step: Step, result: &mut Option<Ending>) {
    match step {
        Step::SleepMs(milliseconds) => agent.pause(Duration::from_millis(milliseconds)),
        Step::Say(text) => agent.say(&text),
        Step::Write(path, content) => write(&path, content.as_bytes()),
        Step::EmitRaw(bytes) => agent.emit_raw(bytes.as_bytes()),
        Step::Emit(line) => agent.emit(&line),
        Step::Flood(flood) => {
            let text = "x".repeat(flood.bytes);
            (0..flood.lines).for_each(|_| agent.say(&text));
        }
        Step::LongLine(bytes) => agent.say(&"x".repeat(bytes)),
        Step::Stderr(text) => eprintln!("{text}"),
        Step::Spawn(spawn) => start(&spawn),
        Step::IgnoreSignals(ignore) => agent.ignore_signals(ignore),
        Step::IgnoreInterrupt(ignore) => agent.ignore_interrupts(ignore),
        Step::Result(step) => {
            agent.result(&step);
            *result = Some(step);
        }
        Step::Exit(code) => process::exit(code),
        Step::Hang(true) => loop {
            thread::park();
        },
        Step::CloseStdout(true) => agent.close_output().expect("failed to close standard output"),
        Step::Hang(false) | Step::CloseStdout(false) => {}
        Step::Touch(path) => write(&path, b""),
        Step::EnvDump(path) => dump(&path),
        Step::WaitFile(path) => {
            while !path.exists() {
                thread::sleep(INTERVAL);
            }
        }
        Step::LogRun(path) => log_run(agent, &path),
    }
}

fn log_run(agent: &Agent, path: &Path) {
    append(path, &format!("{} {}\n", process::id(), agent.flags().session_id));
}
