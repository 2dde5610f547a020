//! One pull by the program itself.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use testkit::{SseClient, wait_for};

use crate::upstream::isolated;

/// Starts a replica on `workspace`, sends it `body`, and returns its terminal event.
pub(crate) async fn pull(workspace: &Path, environment: &[(&str, String)], body: &Value) -> Value {
    let mut command = isolated(env!("CARGO_BIN_EXE_github-pull-api"), 60);
    command.env("WORKSPACE_DIR", workspace).env("PORT", "0").env("BIND_ADDRESS", "127.0.0.1");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
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
    tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    events.last().unwrap().json.clone()
}
