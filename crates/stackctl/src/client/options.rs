//! The command lines of the client's commands.

use clap::{Args, builder::RangedU64ValueParser};
use contract::JobState;
use web::BaseUrl;

/// Where the stack is, and in which form answers are printed.
#[derive(Clone, Debug, Args)]
pub(crate) struct StackOptions {
    /// Where workflows are posted
    #[arg(long, env = "STACK_URL", value_name = "URL", default_value = DEFAULT_URL)]
    pub(crate) url: BaseUrl,
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a stack on this machine answers at.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:5000";

/// Run an agent on a repository and watch it
///
/// Posts a workflow and shows what happens: the queue, the clone, what the agent says and does, what it cost.
/// When the connection breaks or the gateway restarts, the stream is taken up again where it broke.
///
/// Ctrl-C asks whether to cancel the job or to leave it running. Where nobody can be asked (standard input or
/// standard error is no terminal), it leaves the job running and says how to come back. A job that still waits
/// in the queue is given up when its caller leaves.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl run --repo https://github.com/user/repo.git --prompt 'Add a README'
  stackctl run --repo https://github.com/user/repo.git --prompt - --max-turns 20 < task.md
  stackctl run --repo https://github.com/user/repo.git --prompt 'Fix the build' --json | jq -c .type

Exit codes: 0 complete, 1 failed, 2 wrong usage or a refused request, 3 the stack cannot be reached or takes no
job now, 130 cancelled or left with Ctrl-C.")]
pub(crate) struct RunOptions {
    /// The repository: https, ssh or git@host:path
    #[arg(long, value_name = "URL")]
    pub(crate) repo: String,
    /// What the agent is to do; `-` reads it from standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: String,
    /// The branch [default: the repository's own]
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    /// Work in the shared checkout of that name, which is kept; jobs on it take turns [default: a fresh one]
    #[arg(long, value_name = "NAME")]
    pub(crate) directory: Option<String>,
    #[command(flatten)]
    pub(crate) retry: RetryOptions,
    #[command(flatten)]
    pub(crate) stack: StackOptions,
    // The last, since its heading holds for all that follow.
    #[command(flatten)]
    pub(crate) agent: AgentOptions,
}

/// What may be asked of the agent.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Agent")]
pub(crate) struct AgentOptions {
    /// The model, by the CLI's names
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// How many turns the agent may take
    #[arg(long, value_name = "N")]
    pub(crate) max_turns: Option<u32>,
    /// What the job may cost, in US dollars
    #[arg(long, value_name = "USD")]
    pub(crate) max_budget_usd: Option<f64>,
    /// How long the job may run
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout_seconds: Option<u64>,
    /// The tools the agent has, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) allowed_tools: Vec<String>,
    /// Text to add to the system prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) append_system_prompt: Option<String>,
}

/// How long a stack that was there may be away.
#[derive(Clone, Debug, Args)]
pub(crate) struct RetryOptions {
    /// How long to go on trying when a stack that was there does not answer
    #[arg(long, value_name = "SECONDS", default_value_t = RetryOptions::default().retry_seconds)]
    pub(crate) retry_seconds: u64,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self { retry_seconds: 300 }
    }
}

/// List jobs, newest first
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl jobs
  stackctl jobs --state running --all
  stackctl jobs --json | jq -r '.jobs[].jobId'

The ids are shortened to their last characters; every command takes them so.")]
pub(crate) struct JobsOptions {
    /// Only those: queued, running, succeeded, failed or cancelled
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub(crate) state: Option<JobState>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub(crate) limit: usize,
    /// Also the pulls and agent runs that workflows asked for
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) stack: StackOptions,
}

/// Show what is known of a job
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  stackctl show 7c3e91d2")]
pub(crate) struct ShowOptions {
    #[command(flatten)]
    pub(crate) job: JobArgument,
    #[command(flatten)]
    pub(crate) stack: StackOptions,
}

/// Watch a job from its beginning, whether it runs or has ended
///
/// Shows what `run` would have shown, and exits as it would have. Ctrl-C leaves the job alone, or asks.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  stackctl attach 7c3e91d2")]
pub(crate) struct AttachOptions {
    #[command(flatten)]
    pub(crate) job: JobArgument,
    #[command(flatten)]
    pub(crate) retry: RetryOptions,
    #[command(flatten)]
    pub(crate) stack: StackOptions,
}

/// Cancel a job that waits or runs
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  stackctl cancel 7c3e91d2")]
pub(crate) struct CancelOptions {
    #[command(flatten)]
    pub(crate) job: JobArgument,
    #[command(flatten)]
    pub(crate) stack: StackOptions,
}

/// Which job.
#[derive(Clone, Debug, Args)]
pub(crate) struct JobArgument {
    /// The job's id, or as much of its beginning or its end as no other job has
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

fn state(name: &str) -> Result<JobState, String> {
    JobState::from_name(name)
        .ok_or_else(|| "must be queued, running, succeeded, failed or cancelled".to_owned())
}
