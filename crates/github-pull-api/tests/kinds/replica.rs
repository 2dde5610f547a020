//! Pulls by the program itself.

use std::{
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use testkit::{SseClient, wait_for};

use crate::upstream::isolated;

/// What a replica said, and what it took.
pub(crate) struct Run {
    pub(crate) events: Vec<Value>,
    /// The most memory that the replica itself had, without git, in KiB.
    pub(crate) peak_kib: u64,
}

impl Run {
    pub(crate) fn terminal(&self) -> &Value {
        self.events.last().unwrap()
    }
}

/// Starts a replica on `workspace` and sends it `body`.
pub(crate) async fn run(workspace: &Path, environment: &[(&str, String)], body: &Value) -> Run {
    run_with_mask(workspace, environment, body, None).await
}

/// The same, with a umask.
pub(crate) async fn run_with_mask(
    workspace: &Path,
    environment: &[(&str, String)],
    body: &Value,
    mask: Option<u32>,
) -> Run {
    let program = env!("CARGO_BIN_EXE_github-pull-api");
    let mut command = isolated(if mask.is_some() { "sh" } else { program }, 0);
    if let Some(mask) = mask {
        command.args(["-c", &format!("umask {mask:o}; exec {program}")]);
    }
    command.env("WORKSPACE_DIR", workspace).env("PORT", "0").env("BIND_ADDRESS", "127.0.0.1");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdout(Stdio::null());
    let mut child = Kill(command.spawn().unwrap());
    let peak = Arc::new(AtomicU64::new(0));
    let watch = std::thread::spawn({
        let (peak, path) = (Arc::clone(&peak), format!("/proc/{}/status", child.0.id()));
        move || {
            while let Some(kib) = high_water(&path) {
                peak.store(kib, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    let registry = workspace.join(".stack/replicas/github-pull-api");
    let address = wait_for("the replica's entry", Duration::from_secs(20), || async {
        std::fs::read_dir(&registry).ok()?.flatten().find_map(|entry| {
            let entry: Value = serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()?;
            entry["address"].as_str().map(str::to_owned)
        })
    })
    .await;
    let url = format!("http://{address}/api/pull");
    let events = SseClient::post(&url, body).send().await.collect_all().await;
    // It exits after its one job.
    tokio::task::spawn_blocking(move || {
        child.0.wait().unwrap();
        watch.join().unwrap();
    })
    .await
    .unwrap();
    let events = events.into_iter().map(|event| event.json).collect();
    Run { events, peak_kib: peak.load(Ordering::SeqCst) }
}

/// The most memory that a process has had, in KiB; `None` once it has ended.
fn high_water(status: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Ends the process with the test.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
