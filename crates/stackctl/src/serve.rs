//! `stackctl serve`: one part of the stack, in this process.

use std::process::ExitCode;

use crate::cli::Part;

pub(crate) fn main(part: Part) -> ExitCode {
    // On one machine the agent is a process of the same user as every part, whatever secrets that has.
    if let Err(error) = child_process::hide_environment() {
        anstream::eprintln!("{}: cannot hide its environment from the agent: {error}", part.name());
        return ExitCode::FAILURE;
    }
    match part {
        Part::Gateway => gateway::main(),
        Part::WorkflowApi => workflow_api::main(),
        Part::GithubPullApi => github_pull_api::main(),
        Part::ClaudeCodeApi => claude_code_api::main(),
    }
    .into()
}
