//! `stackctl serve`: one part of the stack, in this process.

use std::process::ExitCode;

use crate::cli::Part;

pub(crate) fn main(part: Part) -> ExitCode {
    match part {
        Part::Gateway => gateway::main(),
        Part::WorkflowApi => workflow_api::main(),
        Part::GithubPullApi => github_pull_api::main(),
        Part::ClaudeCodeApi => claude_code_api::main(),
    }
    .into()
}
