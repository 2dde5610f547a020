//! Helpers for these tests.

use std::process::Stdio;

use testkit::{CommandOutput, RunningCommand, target_binary};
use tokio::process::Command;

/// `stackctl` with these arguments, in an environment in which `host` is the only engine.
pub(crate) fn stackctl(host: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(target_binary("stackctl"));
    command.args(arguments).env_clear().env("DOCKER_HOST", host).kill_on_drop(true);
    // So that it does not find a workspace by accident.
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `stackctl` until it exits.
pub(crate) async fn ran(host: &str, arguments: &[&str]) -> CommandOutput {
    finished(stackctl(host, arguments)).await
}

/// Runs any command until it exits.
pub(crate) async fn finished(command: Command) -> CommandOutput {
    RunningCommand::start(command).finish().await
}
