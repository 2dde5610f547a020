//! Engine events about containers that start and exit.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::engine::Engine;

/// The output of `docker events`, written to a file until this is dropped.
#[derive(Debug)]
pub(crate) struct Events {
    child: Child,
    file: PathBuf,
    _directory: TempDir,
}

/// How long slots were without a container.
#[derive(Debug)]
pub(crate) struct DeadTimes {
    sorted: Vec<Duration>,
}

impl Events {
    /// Records from now on. The engine keeps only the last few hundred events, so they must be read
    /// as they come.
    pub(crate) fn record(engine: &Engine) -> Self {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("events");
        let mut command = Command::new("docker");
        command.args(["--host", engine.host(), "events", "--filter", "type=container"]);
        command.args([
            "--filter",
            "event=die",
            "--filter",
            "event=start",
            "--format",
            "{{json .}}",
        ]);
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(File::create(&file).unwrap());
        let child = command.spawn().expect("docker is installed");
        Self { child, file, _directory: directory }
    }

    /// The times from each container's exit to the start of its successor in the same slot.
    pub(crate) fn dead_times(&self) -> DeadTimes {
        let mut ended: HashMap<String, u64> = HashMap::new();
        let mut sorted = Vec::new();
        for line in fs::read_to_string(&self.file).unwrap().lines() {
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            let task = &event["Actor"]["Attributes"]["com.docker.swarm.task.name"];
            // For example wstest_workflow-api.3.abc.
            let Some((slot, _)) = task.as_str().and_then(|task| task.rsplit_once('.')) else {
                continue;
            };
            let at = event["timeNano"].as_u64().unwrap();
            if event["Action"] == "die" {
                ended.insert(slot.to_owned(), at);
            } else if let Some(since) = ended.remove(slot) {
                sorted.push(Duration::from_nanos(at.saturating_sub(since)));
            }
        }
        sorted.sort_unstable();
        DeadTimes { sorted }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl DeadTimes {
    /// How many containers had a successor.
    pub(crate) fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The time that this percentage of the containers did not exceed.
    pub(crate) fn percentile(&self, hundredths: usize) -> Duration {
        let at = (self.sorted.len().saturating_sub(1)) * hundredths / 100;
        *self.sorted.get(at).expect("a container had a successor")
    }
}
