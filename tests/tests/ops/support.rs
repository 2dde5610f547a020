//! Helpers for these tests.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use testkit::target_binary;
use tokio::process::Command;

/// The deadline for anything that has no deadline of its own. It matters only when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The exit code and the output of a command.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// `stackctl` with these arguments, in an environment in which `host` is the only engine.
pub(crate) fn stackctl(host: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(target_binary("stackctl"));
    command.args(arguments).env_clear().env("DOCKER_HOST", host).kill_on_drop(true);
    // So that it does not find a workspace by accident.
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `stackctl` until it exits.
pub(crate) async fn ran(host: &str, arguments: &[&str]) -> Said {
    finished(stackctl(host, arguments)).await
}

/// Runs any command until it exits.
pub(crate) async fn finished(mut command: Command) -> Said {
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let Output { status, stdout, stderr } =
        output.unwrap_or_else(|_| panic!("did not exit: {command:?}")).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) }
}
