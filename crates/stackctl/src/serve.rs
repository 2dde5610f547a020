//! `stackctl serve`: one part of the stack, in this process. This is the one place that knows which crate a part is in.

use std::process::ExitCode;

use boot::{Exit, Settings};
use contract::Service;
use supervisor::Part;

pub(crate) fn main(part: Part) -> ExitCode {
    // On one machine the agent is a process of the same user as every part, whatever secrets that has.
    if let Err(error) = child_process::hide_environment() {
        anstream::eprintln!("{part}: cannot hide its environment from the agent: {error}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = boot::receive_settings() {
        anstream::eprintln!("{part}: cannot read the settings that it was sent: {error}");
        return ExitCode::FAILURE;
    }
    run(part).into()
}

fn run(part: Part) -> Exit {
    match part {
        Part::Gateway => gateway::main(),
        Part::Replica(Service::Workflow) => workflow_api::main(),
        Part::Replica(Service::Pull) => github_pull_api::main(),
        Part::Replica(Service::Claude) => claude_code_api::main(),
    }
}

/// Reads the settings of a part as [`run`] does, and starts nothing.
pub(crate) fn read_settings(part: Part, settings: &mut Settings<'_>) {
    boot::Logging::read(settings);
    if let Part::Replica(service) = part {
        oneshot::ReplicaConfig::read(settings, service);
    }
    match part {
        Part::Gateway => drop(gateway::Config::read(settings)),
        Part::Replica(Service::Workflow) => drop(workflow_api::Config::read(settings)),
        Part::Replica(Service::Pull) => drop(github_pull_api::Config::read(settings)),
        Part::Replica(Service::Claude) => drop(claude_code_api::Config::read(settings)),
    }
}

#[cfg(test)]
mod tests;
