//! What each section measures, and how.

pub(crate) mod latency;
pub(crate) mod listing;
pub(crate) mod memory;
pub(crate) mod processor;
pub(crate) mod pull;
pub(crate) mod relay;
pub(crate) mod sessions;
pub(crate) mod start;
pub(crate) mod turnaround;
pub(crate) mod workflow;

use std::path::{Path, PathBuf};

use claude_stand_in::workload::Workload;
use contract::Service;
use serde_json::{Value, json};

use crate::{
    Bench, Result,
    caller::{self, Observe, Read},
    repository,
    stack::Stack,
};

/// An agent that says nothing but its result.
pub(crate) const NOTHING: Workload = Workload::Flood { messages: 0, bytes: 0 };

/// A repository with hardly anything in it.
async fn small_repository(bench: &Bench) -> Result<PathBuf> {
    let path = bench.path("small.git");
    repository::create(bench, &path, repository::Contents { files: 4, commits: 3 }).await?;
    Ok(path)
}

/// The request of a workflow.
fn workflow(repository: &Path, workload: &Workload) -> Value {
    json!({"repoUrl": repository::url(repository), "prompt": workload.prompt()})
}

/// Runs a workflow.
async fn run_workflow(
    stack: &Stack,
    repository: &Path,
    workload: &Workload,
    observer: &mut impl Observe,
) -> Result<Read> {
    let (address, body) = (stack.address(Service::Workflow), workflow(repository, workload));
    caller::post(address, Service::Workflow, &body, observer).await
}
