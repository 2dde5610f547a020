//! What the tests here have in common.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use testkit::target_binary;
use tokio::process::Command;

/// How long anything may take that has no bound of its own. It matters only when a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a command has said.
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

/// `stackctl` with these arguments, in an environment with nothing but `host` for an engine.
pub(crate) fn stackctl(host: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(target_binary("stackctl"));
    command.args(arguments).env_clear().env("DOCKER_HOST", host).kill_on_drop(true);
    // Not a workspace by chance.
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end.
pub(crate) async fn ran(host: &str, arguments: &[&str]) -> Said {
    finished(stackctl(host, arguments)).await
}

/// Runs any command to its end.
pub(crate) async fn finished(mut command: Command) -> Said {
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let Output { status, stdout, stderr } =
        output.unwrap_or_else(|_| panic!("no end: {command:?}")).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) }
}
