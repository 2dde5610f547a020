//! The rehearsal agent of `stackctl demo`. It needs no key and no network, and is free.
//!
//! It says that it is a stand-in, surveys its working directory, and changes one file there. The rest of the stack
//! cannot distinguish it from the CLI, so the demo shows everything except a model.

mod work;

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    time::Duration,
};

use serde_json::json;

use crate::{Agent, Ending, Flags, Persona, Usage, run};
use work::{Change, Survey, excerpt};

/// A program that is started by this name is the rehearsal agent. `CLAUDE_BIN` is a path without arguments, so the
/// agent is a symbolic link with this name.
pub const NAME: &str = "claude-rehearsal";

/// The pause between two messages, so that a viewer can follow.
const PACE: Duration = Duration::from_millis(350);

/// Whether a program that was started as `program` should be the rehearsal agent.
#[must_use]
pub fn is_called(program: Option<&OsStr>) -> bool {
    program.is_some_and(|program| Path::new(program).file_name() == Some(OsStr::new(NAME)))
}

/// Runs the agent, with the CLI's arguments.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ! {
    let persona = Persona {
        model: "rehearsal".to_owned(),
        version: concat!(env!("CARGO_PKG_VERSION"), " (stackctl rehearsal)"),
        api_key_source: "none",
        tools: &["Edit", "Glob", "Write"],
        usage: Usage::default(),
    };
    run(Flags::parse(args), persona, turn)
}

fn turn(agent: &Agent, prompt: &str) -> Ending {
    let pause = || agent.pause(PACE);
    pause();
    agent.say(&format!(
        "This is a rehearsal. I stand in for Claude Code: no model is called, and it costs nothing. You asked: {}",
        excerpt(prompt)
    ));
    pause();
    let glob = agent.use_tool("Glob", &json!({"pattern": "**/*"}));
    let survey = Survey::of(agent.cwd());
    agent.tool_result(&glob, &Ok(survey.listing()));
    pause();
    let change = Change::plan(agent.cwd(), prompt, &survey);
    agent.say(&format!("I will write what I found to {}.", change.file));
    pause();
    let input = change.input(agent.cwd());
    let write = agent.use_tool(change.tool, &input);
    pause();
    let mut ending = Ending::default();
    let has_tool = agent.tools().iter().any(|tool| tool == change.tool);
    let returned = if has_tool && agent.flags().may_write() {
        change
            .make(agent.cwd())
            .map(|()| format!("The file {} has been written.", change.file))
            .map_err(|error| error.to_string())
    } else {
        ending.denials.push(json!({
            "tool_name": change.tool, "tool_use_id": write, "tool_input": input,
        }));
        Err(format!("Permission to use {} has not been granted.", change.tool))
    };
    agent.tool_result(&write, &returned);
    pause();
    ending.text = match returned {
        Ok(_) => format!("Done: {} describes this repository.", change.file),
        Err(why) => format!("I changed nothing: {why}"),
    };
    agent.say(&ending.text);
    agent.result(&ending);
    ending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_compared_with_the_file_name() {
        for (program, called) in [
            (Some("/tmp/x/claude-rehearsal"), true),
            (Some("claude-rehearsal"), true),
            (Some("/usr/bin/stackctl"), false),
            (Some("/claude-rehearsal/stackctl"), false),
            (None, false),
        ] {
            assert_eq!(is_called(program.map(OsStr::new)), called, "{program:?}");
        }
    }
}
