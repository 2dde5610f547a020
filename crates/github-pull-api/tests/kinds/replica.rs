//! Pulls by the program itself.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use testkit::{SseClient, wait_for};

use crate::upstream::isolated;

/// What a replica said, and what it took.
pub(crate) struct Run {
    pub(crate) events: Vec<Value>,
    /// From its request to its terminal event.
    pub(crate) took: Duration,
    /// The most memory that the replica had together with its git, in KiB.
    pub(crate) tree_kib: u64,
    /// The most memory that the replica itself had, in KiB.
    pub(crate) peak_kib: u64,
}

impl Run {
    pub(crate) fn terminal(&self) -> &Value {
        self.events.last().unwrap()
    }
}

/// Starts a replica on `workspace` and sends it `body`.
pub(crate) async fn run(workspace: &Path, environment: &[(&str, String)], body: &Value) -> Run {
    run_with(workspace, environment, body, None, Memory::Watched).await
}

/// Whether to look at the memory of processes, which slows them down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    Watched,
    Ignored,
}

/// The same, with a umask, or without a look at the memory, which is then 0.
pub(crate) async fn run_with(
    workspace: &Path,
    environment: &[(&str, String)],
    body: &Value,
    mask: Option<u32>,
    memory: Memory,
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
    let watch = Watch::start(child.0.id(), memory);
    let registry = workspace.join(".stack/replicas/github-pull-api");
    let address = wait_for("the replica's entry", Duration::from_secs(20), || async {
        fs::read_dir(&registry).ok()?.flatten().find_map(|entry| {
            let entry: Value = serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?;
            entry["address"].as_str().map(str::to_owned)
        })
    })
    .await;
    let url = format!("http://{address}/api/pull");
    let start = Instant::now();
    let events = SseClient::post(&url, body).send().await.collect_all().await;
    let took = start.elapsed();
    // It exits after its one job.
    let (tree_kib, peak_kib) = tokio::task::spawn_blocking(move || {
        child.0.wait().unwrap();
        watch.stop()
    })
    .await
    .unwrap();
    let events = events.into_iter().map(|event| event.json).collect();
    Run { events, took, tree_kib, peak_kib }
}

/// Ends the process with the test.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks at the memory of a process and its descendants until it is stopped.
pub(crate) struct Watch {
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, u64)>,
}

impl Watch {
    pub(crate) fn start(pid: u32, memory: Memory) -> Self {
        let is_over = Arc::new(AtomicBool::new(memory == Memory::Ignored));
        let thread = std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                let (mut all, mut alone) = (0, 0);
                while !is_over.load(Ordering::SeqCst) {
                    all = all.max(resident(pid));
                    alone = alone.max(high_water(pid).unwrap_or_default());
                    std::thread::sleep(Duration::from_millis(20));
                }
                (all, alone)
            }
        });
        Self { is_over, thread }
    }

    /// The most there was, of all together and of the process itself, in KiB.
    pub(crate) fn stop(self) -> (u64, u64) {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// What a process and its descendants have in memory, in KiB; what they share counts once.
fn resident(pid: u32) -> u64 {
    let children = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children: u64 = children
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .map(|list| list.split_whitespace().map(|pid| resident(pid.parse().unwrap())).sum::<u64>())
        .sum();
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let own = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    children + own.unwrap_or_default()
}

/// The most memory that a process has had, in KiB; `None` once it has ended.
fn high_water(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
