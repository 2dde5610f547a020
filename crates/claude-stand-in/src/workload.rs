//! The workload agent of `stackctl bench`: its prompt is a [`Workload`], and that is all it does.
//!
//! At the end it reports what it has cost, so that whoever measures the stack can subtract it.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Agent, Ending, Flags, Persona, run};

/// A program that is started by this name is the workload agent; see [`rehearsal::NAME`](crate::rehearsal::NAME).
pub const NAME: &str = "claude-workload";

/// What an agent says before it waits.
pub const HELD: &str = "held=1;";

/// What the agent does in its turn. The prompt is this as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Workload {
    /// Emit so many messages as fast as possible, each with a write of its own, like the CLI.
    Flood {
        /// How many.
        messages: u64,
        /// The length of each line, in bytes. A shorter line than a message needs is not possible.
        bytes: usize,
    },
    /// Emit a message every so often. Each contains the time of its start as `sent=<nanoseconds since 1970>;`.
    Paced {
        /// How many.
        messages: u64,
        /// The time from one message to the next, in microseconds.
        period_micros: u64,
    },
    /// Say [`HELD`], and wait until another process opens this named pipe for writing.
    Held {
        /// The pipe.
        pipe: PathBuf,
    },
}

/// What an agent has cost by the end of its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Its processor time, in microseconds.
    pub cpu_micros: u64,
    /// How many calls to read or write it has made, if the kernel counts them.
    pub calls: u64,
}

/// Whether a program that was started as `program` should be the workload agent.
#[must_use]
pub fn is_called(program: Option<&OsStr>) -> bool {
    program.is_some_and(|program| Path::new(program).file_name() == Some(OsStr::new(NAME)))
}

/// Runs the agent, with the CLI's arguments.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ! {
    let persona = Persona {
        model: "workload".to_owned(),
        version: concat!(env!("CARGO_PKG_VERSION"), " (stackctl workload)"),
        api_key_source: "none",
        tools: &[],
        usage: crate::Usage::default(),
    };
    run(Flags::parse(args), persona, turn)
}

fn turn(agent: &Agent, prompt: &str) -> Ending {
    let ending = match serde_json::from_str::<Workload>(prompt) {
        Ok(workload) => match workload.perform(agent) {
            Ok(()) => Ending { text: Cost::of_this_process().to_string(), ..Ending::default() },
            Err(error) => Ending::gave_up(format!("the workload failed: {error}")),
        },
        Err(error) => Ending::gave_up(format!("the prompt is no workload: {error}")),
    };
    agent.result(&ending);
    ending
}

impl Workload {
    /// The prompt for it.
    #[must_use]
    pub fn prompt(&self) -> String {
        json!(self).to_string()
    }

    fn perform(&self, agent: &Agent) -> std::io::Result<()> {
        match self {
            Self::Flood { messages, bytes } => {
                // Each is encoded, like those of any agent.
                let session = &agent.flags().session_id;
                (0..*messages).for_each(|_| agent.emit_raw(line_of(session, *bytes).as_bytes()));
            }
            Self::Paced { messages, period_micros } => {
                for _ in 0..*messages {
                    agent.pause(Duration::from_micros(*period_micros));
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    agent.say(&format!("sent={};", now.as_nanos()));
                }
            }
            Self::Held { pipe } => {
                agent.say(HELD);
                fs::File::open(pipe)?;
            }
        }
        Ok(())
    }
}

/// An assistant message as a line of so many bytes, if they are enough for one.
fn line_of(session: &str, bytes: usize) -> String {
    // The length of everything but the text.
    const FRAME: usize = 106;
    let text = "x".repeat(bytes.saturating_sub(FRAME + session.len()));
    let content = json!([{"type": "text", "text": text}]);
    let message = json!({"role": "assistant", "content": content});
    format!("{}\n", json!({"type": "assistant", "message": message, "session_id": session}))
}

impl Cost {
    fn of_this_process() -> Self {
        let micros = |time: nix::sys::time::TimeVal| time.num_microseconds();
        let usage = getrusage(UsageWho::RUSAGE_SELF);
        let cpu = usage.map_or(0, |it| micros(it.user_time()) + micros(it.system_time()));
        let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
        let count = |name: &str| -> u64 {
            let line = io.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.and_then(|count| count.parse().ok()).unwrap_or(0)
        };
        let calls = count("syscr") + count("syscw");
        Self { cpu_micros: u64::try_from(cpu).unwrap_or(0), calls }
    }

    /// The first cost in a text that contains one, as the agent's `result` does.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("cpuMicros=")?;
        let (cpu, rest) = rest.split_once(" calls=")?;
        let (calls, _) = rest.split_once(';')?;
        Some(Self { cpu_micros: cpu.parse().ok()?, calls: calls.parse().ok()? })
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cpuMicros={} calls={};", self.cpu_micros, self.calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts() {
        let flood = Workload::Flood { messages: 2, bytes: 3 };
        let paced = Workload::Paced { messages: 2, period_micros: 500 };
        let held = Workload::Held { pipe: "/tmp/pipe".into() };
        for (workload, prompt) in [
            (flood, r#"{"flood":{"bytes":3,"messages":2}}"#),
            (paced, r#"{"paced":{"messages":2,"periodMicros":500}}"#),
            (held, r#"{"held":{"pipe":"/tmp/pipe"}}"#),
        ] {
            assert_eq!(workload.prompt(), prompt);
            assert_eq!(serde_json::from_str::<Workload>(prompt).unwrap(), workload);
        }
    }

    #[test]
    fn the_length_of_a_line() {
        let session = uuid::Uuid::nil().to_string();
        let shortest = line_of(&session, 0).len();
        assert!(shortest < 180, "{shortest}");
        assert_eq!(
            [line_of(&session, shortest).len(), line_of(&session, 200).len()],
            [shortest, 200]
        );
    }

    #[test]
    fn a_cost_is_found_in_an_event() {
        let cost = Cost { cpu_micros: 12, calls: 3 };
        assert_eq!(Cost::find(&format!(r#"{{"result":"{cost}"}}"#)), Some(cost));
        assert_eq!(Cost::find("cpuMicros=x calls=3;"), None);
        assert_eq!(Cost::find(""), None);
    }

    #[test]
    fn this_process_has_a_cost() {
        assert!(Cost::of_this_process().cpu_micros > 0);
    }
}
