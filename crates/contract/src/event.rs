//! The events of the services, and how a job ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{
    BranchName, Code, DeliverMode, DeliveryBranch, EventLine, JobId, JobState, Prompt, RepoUrl,
    Service, SessionId, Timestamp,
};

/// An event of a pull.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of the contract, by name")]
pub enum PullEvent<'a> {
    /// The first event.
    Connected { job_id: JobId, repo_url: &'a RepoUrl, target_path: &'a str },
    /// A message for people.
    Message { message: &'a str, timestamp: Timestamp },
    /// The progress of the transfer. `received` and `total` count objects or files, `bytes` counts bytes.
    Progress { stage: &'a str, received: u64, total: u64, bytes: u64, timestamp: Timestamp },
    /// The checkout is ready.
    Completed {
        job_id: JobId,
        target_path: &'a str,
        timestamp: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        branch: Option<&'a BranchName>,
        #[serde(skip_serializing_if = "Option::is_none")]
        commit: Option<&'a str>,
    },
    /// The pull failed.
    Error { error: &'a str, timestamp: Timestamp, code: Code },
}

/// An event of a delivery.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of the contract, by name")]
pub enum DeliverEvent<'a> {
    /// The first event. `result_of` is the job whose result is delivered.
    Connected { job_id: JobId, result_of: JobId, repo_url: &'a str },
    /// A message for people.
    Message { message: &'a str, timestamp: Timestamp },
    /// The result is at the git host. `url` is that of the pull request.
    Completed {
        job_id: JobId,
        branch: &'a DeliveryBranch,
        commit: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        url: Option<&'a str>,
        timestamp: Timestamp,
    },
}

/// The end of a look at what a job has left. What is printed before are the messages of a [`PullEvent`].
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of the contract, by name")]
pub enum ChangesEvent {
    /// The answer is there.
    Completed {
        job_id: JobId,
        changes_of: JobId,
        files: usize,
        additions: u64,
        deletions: u64,
        truncated: bool,
        timestamp: Timestamp,
    },
}

/// What became of a workflow's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryView {
    /// How it was to be delivered.
    pub mode: DeliverMode,
    /// Whether it was.
    pub status: DeliveryStatus,
    /// The branch it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The branch's commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The pull request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Whether a result was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// It is at the git host.
    Delivered,
    /// The agent changed nothing.
    Empty,
}

/// What is known about an agent's run after its end.
#[derive(Debug, Default, Clone)]
pub struct AgentSummary {
    /// The session the agent ran in.
    pub session_id: Option<SessionId>,
    /// The agent's final message.
    pub result: Option<String>,
    /// The cost in US dollars.
    pub cost_usd: Option<f64>,
    /// The number of turns.
    pub num_turns: Option<u64>,
    /// The duration in milliseconds.
    pub duration_ms: Option<u64>,
    /// The CLI's token counts, unchanged.
    pub usage: Option<Box<RawValue>>,
    /// What the stack has counted in the answers of the Messages API.
    pub api_usage: ApiUsage,
    /// What the commands said that the request names, if they have run.
    pub verification: Option<Verification>,
}

/// The outcome of the commands in `verify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Whether all of them succeeded in the end.
    pub verified: bool,
    /// The end of what the last one of them printed.
    pub output: String,
}

impl AgentSummary {
    /// Adds what earlier runs of the same job have used.
    pub fn add(&mut self, earlier: &Self) {
        let Self { cost_usd, num_turns, duration_ms, usage, api_usage, .. } = earlier;
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
        self.num_turns = sum(self.num_turns, *num_turns);
        self.duration_ms = sum(self.duration_ms, *duration_ms);
        self.cost_usd = match (self.cost_usd, *cost_usd) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        self.usage = match (self.usage.take(), usage) {
            (Some(one), Some(other)) => Some(added(one, other)),
            (one, other) => one.or_else(|| other.clone()),
        };
        for (model, earlier) in api_usage {
            let all = self.api_usage.entry(model.clone()).or_default();
            all.requests += earlier.requests;
            all.input_tokens += earlier.input_tokens;
            all.output_tokens += earlier.output_tokens;
            all.cache_read_tokens += earlier.cache_read_tokens;
            all.cache_write_tokens += earlier.cache_write_tokens;
        }
    }
}

/// The CLI's token counts of two runs: the numbers are added, everything else is that of the last one.
fn added(last: Box<RawValue>, earlier: &RawValue) -> Box<RawValue> {
    let map = |raw: &RawValue| serde_json::from_str::<serde_json::Map<_, _>>(raw.get());
    let (Ok(mut sum), Ok(earlier)) = (map(&last), map(earlier)) else { return last };
    for (name, value) in earlier {
        if let (Some(one), Some(other)) = (sum.get(&name).and_then(Value::as_u64), value.as_u64()) {
            sum.insert(name, one.saturating_add(other).into());
        }
    }
    serde_json::value::to_raw_value(&sum).unwrap_or(last)
}

/// The tokens that the Messages API has reported, for each model, sub-agents and retries included.
pub type ApiUsage = BTreeMap<String, ModelUsage>;

/// The tokens of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelUsage {
    /// How many answers reported tokens.
    pub requests: u64,
    /// Input tokens that were neither read from a cache nor written to one.
    pub input_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Input tokens read from a cache.
    pub cache_read_tokens: u64,
    /// Input tokens written to a cache.
    pub cache_write_tokens: u64,
}

/// What keeps an agent from everything that is not its own, as the kernel enforces it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Isolation {
    /// The version of Landlock's ABI, which confines files; 0 if nothing does.
    pub landlock: u32,
    /// Whether it cannot signal processes outside, nor connect to their abstract Unix sockets.
    pub scopes: bool,
    /// Whether system calls that only change the machine or other processes are refused.
    pub seccomp: bool,
    /// Whether it has a user of its own.
    pub uid: bool,
}

/// An event of an agent's run.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of the contract, by name")]
pub enum ExecuteEvent<'a> {
    /// The first event. `session_id` is the one given to the CLI.
    Connected {
        session_id: SessionId,
        resuming: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        resumed_from: Option<SessionId>,
        job_id: JobId,
        workspace: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        isolation: Option<Isolation>,
    },
    /// A message of the CLI, complete and unchanged.
    Message { content: &'a RawValue, timestamp: Timestamp },
    /// A command in `verify` starts. `attempt` is how often a failure was given back to the agent before.
    VerificationStarted { attempt: u32, command: &'a str, timestamp: Timestamp },
    /// It has ended. `output` is the end of what it printed.
    VerificationResult {
        attempt: u32,
        command: &'a str,
        passed: bool,
        /// None if a signal ended it.
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        output: &'a str,
        timestamp: Timestamp,
    },
    /// The agent succeeded.
    Completed {
        timestamp: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        session_id: Option<SessionId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cost_usd: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        num_turns: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        duration_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        api_usage: &'a ApiUsage,
        #[serde(skip_serializing_if = "Option::is_none")]
        verified: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        verify_output: Option<&'a str>,
    },
    /// The run failed.
    Error {
        error: &'a str,
        timestamp: Timestamp,
        code: Code,
        #[serde(skip_serializing_if = "Option::is_none")]
        session_id: Option<SessionId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cost_usd: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        num_turns: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        duration_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        usage: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        api_usage: &'a ApiUsage,
        #[serde(skip_serializing_if = "Option::is_none")]
        verified: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        verify_output: Option<&'a str>,
    },
}

/// An event of a workflow.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of the contract, by name")]
pub enum WorkflowEvent<'a> {
    /// Step 1 starts.
    #[serde(rename = "workflow_started", rename_all = "camelCase")]
    PullStarted {
        workflow_id: JobId,
        step: u8,
        step_name: &'a str,
        prompt: &'a Prompt,
        repo_url: &'a RepoUrl,
        timestamp: Timestamp,
    },
    /// A message for people.
    Message { message: &'a str, timestamp: Timestamp },
    /// An event of the pull, complete and unchanged.
    PullProgress { data: &'a RawValue, timestamp: Timestamp },
    /// The pull has completed.
    #[serde(rename_all = "camelCase")]
    WorkflowStepComplete {
        step: u8,
        step_name: &'a str,
        target_path: &'a str,
        timestamp: Timestamp,
    },
    /// Step 2 starts.
    #[serde(rename = "workflow_started", rename_all = "camelCase")]
    ExecuteStarted {
        workflow_id: JobId,
        step: u8,
        step_name: &'a str,
        prompt: &'a Prompt,
        workspace: &'a str,
        timestamp: Timestamp,
    },
    /// Step 3 starts.
    #[serde(rename = "workflow_started", rename_all = "camelCase")]
    DeliverStarted {
        workflow_id: JobId,
        step: u8,
        step_name: &'a str,
        prompt: &'a Prompt,
        mode: DeliverMode,
        timestamp: Timestamp,
    },
    /// An event of the delivery, complete and unchanged.
    DeliveryProgress { data: &'a RawValue, timestamp: Timestamp },
    /// The delivery has completed.
    #[serde(rename = "workflow_step_complete", rename_all = "camelCase")]
    DeliverComplete {
        step: u8,
        step_name: &'a str,
        branch: &'a str,
        commit: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        url: Option<&'a str>,
        timestamp: Timestamp,
    },
    /// All steps succeeded.
    #[serde(rename_all = "camelCase")]
    WorkflowComplete {
        workflow_id: JobId,
        timestamp: Timestamp,
        #[serde(skip_serializing_if = "Option::is_none")]
        delivery: Option<&'a DeliveryView>,
        #[serde(skip_serializing_if = "Option::is_none")]
        verified: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        verify_output: Option<&'a str>,
    },
    /// A step failed.
    #[serde(rename_all = "camelCase")]
    WorkflowError {
        workflow_id: JobId,
        error: &'a str,
        timestamp: Timestamp,
        code: Code,
        #[serde(skip_serializing_if = "Option::is_none")]
        step: Option<u8>,
    },
}

/// The position of a job in the gateway's queue. Sent when it changes, and not written to the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "queued", rename_all = "camelCase")]
pub struct QueuedEvent {
    /// The service whose replica it waits for.
    pub service: Service,
    /// The position, starting at 1.
    pub position: usize,
    /// What it waits for in addition to a replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// When it was at that position.
    pub timestamp: Timestamp,
}

/// How a job ends: its terminal event and its entry in listings.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The terminal event.
    pub event: EventLine,
    /// [`Succeeded`](JobState::Succeeded), [`Failed`](JobState::Failed) or [`Cancelled`](JobState::Cancelled).
    pub state: JobState,
    /// Why it failed.
    pub code: Option<Code>,
    /// Why it failed, for people.
    pub error: Option<String>,
}

impl Ending {
    /// A job that succeeded; `event` is its terminal event.
    pub fn success<T: Serialize>(event: &T) -> Self {
        Self {
            event: EventLine::encode(event),
            state: JobState::Succeeded,
            code: None,
            error: None,
        }
    }

    /// A job of `service` that failed, or was cancelled if `code` says so.
    #[must_use]
    pub fn failure(service: Service, job: JobId, code: Code, error: &str) -> Self {
        (service.spec().failure)(job, code, error)
    }

    /// A pull that failed.
    #[must_use]
    pub fn pull_failure(code: Code, error: &str) -> Self {
        let event = PullEvent::Error { error, timestamp: Timestamp::now(), code };
        Self::failed(EventLine::encode(&event), code, error)
    }

    /// A workflow that failed in `step` (1: pull, 2: execute, 3: deliver), or outside a step.
    #[must_use]
    pub fn workflow_failure(workflow_id: JobId, step: Option<u8>, code: Code, error: &str) -> Self {
        let event = WorkflowEvent::WorkflowError {
            workflow_id,
            error,
            timestamp: Timestamp::now(),
            code,
            step,
        };
        Self::failed(EventLine::encode(&event), code, error)
    }

    /// An agent's run that failed, with what is known about it.
    #[must_use]
    pub fn agent_failure(code: Code, error: &str, summary: &AgentSummary) -> Self {
        let event = ExecuteEvent::Error {
            error,
            timestamp: Timestamp::now(),
            code,
            session_id: summary.session_id,
            result: summary.result.as_deref(),
            cost_usd: summary.cost_usd,
            num_turns: summary.num_turns,
            duration_ms: summary.duration_ms,
            usage: summary.usage.as_deref(),
            api_usage: &summary.api_usage,
            verified: summary.verification.as_ref().map(|it| it.verified),
            verify_output: summary.verification.as_ref().map(|it| it.output.as_str()),
        };
        Self::failed(EventLine::encode(&event), code, error)
    }

    /// An agent's run that succeeded.
    #[must_use]
    pub fn agent_success(summary: &AgentSummary) -> Self {
        Self::success(&ExecuteEvent::Completed {
            timestamp: Timestamp::now(),
            session_id: summary.session_id,
            result: summary.result.as_deref(),
            cost_usd: summary.cost_usd,
            num_turns: summary.num_turns,
            duration_ms: summary.duration_ms,
            usage: summary.usage.as_deref(),
            api_usage: &summary.api_usage,
            verified: summary.verification.as_ref().map(|it| it.verified),
            verify_output: summary.verification.as_ref().map(|it| it.output.as_str()),
        })
    }

    pub(crate) fn failed(event: EventLine, code: Code, error: &str) -> Self {
        let state = match code {
            Code::Cancelled | Code::CallerLeft => JobState::Cancelled,
            _ => JobState::Failed,
        };
        Self { event, state, code: Some(code), error: Some(error.to_owned()) }
    }
}

#[cfg(test)]
mod tests;
