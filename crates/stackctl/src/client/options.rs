//! The options of the client's commands.

use std::{fmt, fs, num::NonZeroU32, ops::Not, path::PathBuf};

use boot::Secret;
use clap::{Args, builder::RangedU64ValueParser};
use contract::JobState;
use serde::Serialize;
use stack_client::{Api, DEFAULT_URL, StackUrl};

use super::error::ClientError;

/// The variable that holds a token for the stack.
const TOKEN: &str = "STACK_TOKEN";

/// A stack's URL as somebody typed it. It is parsed after the command line, because clap repeats what it refuses, and
/// this may contain a password.
#[derive(Clone)]
pub(crate) struct GivenUrl(String);

impl From<String> for GivenUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for GivenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GivenUrl")
    }
}

impl GivenUrl {
    /// # Errors
    /// If it is not the URL of a stack. The error does not repeat it.
    pub(crate) fn parse(&self) -> Result<StackUrl, ClientError> {
        self.0.parse().map_err(|why| ClientError::Usage(format!("--url or STACK_URL: {why}")))
    }
}

/// The token for a stack.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TokenOptions {
    /// The file that contains a token for the stack [default: the token in STACK_TOKEN, if that is set]
    #[arg(long, env = "STACK_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenOptions {
    /// Whether there is a token.
    pub(crate) fn is_given(&self) -> bool {
        self.token_file.is_some() || token_of_environment().is_some()
    }

    /// The stack at `url`, with the token of the file or else of the environment, if there is one.
    ///
    /// # Errors
    /// If the token cannot be read or sent, or https cannot be used.
    pub(crate) fn api(&self, url: StackUrl) -> Result<Api, ClientError> {
        let (token, place) = match &self.token_file {
            Some(file) => {
                let token = fs::read_to_string(file)
                    .map_err(|error| ClientError::TokenFile(file.clone(), error))?;
                (Some(token), file.display().to_string())
            }
            None => (token_of_environment(), TOKEN.to_owned()),
        };
        let token = token.map(|token| token.trim().to_owned());
        let is_token =
            |text: &String| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        if token.as_ref().is_some_and(|token| !is_token(token)) {
            // The text itself may be a secret.
            return Err(ClientError::Usage(format!(
                "{place} does not contain a token: a token is one word of printable ASCII, such as wfs_…"
            )));
        }
        Ok(Api::new(url)?.with_token(token.map(Secret::new)))
    }
}

fn token_of_environment() -> Option<String> {
    std::env::var(TOKEN).ok().filter(|token| !token.is_empty())
}

/// Where the stack is, and how to print answers.
#[derive(Clone, Debug, Args)]
pub(crate) struct StackOptions {
    /// The stack: the URL that workflows are posted to
    #[arg(long, env = "STACK_URL", hide_env_values = true, value_name = "URL", default_value = DEFAULT_URL)]
    url: GivenUrl,
    #[command(flatten)]
    token: TokenOptions,
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

impl StackOptions {
    /// # Errors
    /// If the URL is wrong, the token cannot be read or sent, or https cannot be used.
    pub(crate) fn api(&self) -> Result<Api, ClientError> {
        self.token.api(self.url.parse()?)
    }
}

/// Run an agent on a repository and watch it
///
/// Posts a workflow and shows its progress: the queue, the clone, what the agent says and does, what it cost.
/// If the connection breaks or the gateway restarts, the stream resumes where it broke.
///
/// Ctrl-C asks whether to cancel the job or to leave it running. If nobody can answer, because standard input or
/// standard error is not a terminal, Ctrl-C leaves the job running and prints how to come back. A job that still
/// waits in the queue is cancelled when its caller leaves.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl run --repo https://github.com/user/repo.git --prompt 'Add a README'
  stackctl run --repo https://github.com/user/repo.git --prompt @task.md --max-turns 20
  stackctl run --repo . --prompt 'Fix the build'          needs a stack on this machine with ALLOW_FILE_REPOSITORIES=1
  stackctl run --repo https://github.com/user/repo.git --prompt 'Fix the build' --apply   in your clone of it
  stackctl run --repo https://github.com/user/repo.git --prompt 'Fix the build' --pull-request
  stackctl run --repo https://github.com/user/repo.git --prompt 'Fix the build' --verify 'cargo test' --pull-request
  stackctl run --resume 7c3e91d2 --prompt 'Now add tests'  continues the session of that job
  stackctl run --repo https://github.com/user/repo.git --prompt 'Fix the build' --json | jq -c .type

Exit codes: 0 complete, 1 failed, 2 wrong usage, a refused request or a change that --apply cannot apply, 3 the
stack cannot be reached or takes no job now, 130 cancelled or left with Ctrl-C.")]
pub(crate) struct RunOptions {
    /// The repository: https, ssh, git@host:path, or a directory on this machine [default with --resume JOB: that job's]
    #[arg(long, value_name = "URL", required_unless_present = "resume")]
    pub(crate) repo: Option<String>,
    /// What the agent is to do; `@FILE` reads it from a file and `-` from standard input
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: String,
    /// Continue the session of a job, named by the job's ID or a part of it, or a session by its own ID
    #[arg(long, value_name = "ID")]
    pub(crate) resume: Option<String>,
    /// The branch [default: the repository's default branch]
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    /// Work in the shared checkout of that name, which is kept; jobs on it take turns [default: a fresh one]
    #[arg(long, value_name = "NAME")]
    pub(crate) directory: Option<String>,
    /// When the job is complete, apply what it has changed to the repository you are in
    #[arg(long)]
    pub(crate) apply: bool,
    #[command(flatten)]
    pub(crate) retry: RetryOptions,
    #[command(flatten)]
    pub(crate) stack: StackOptions,
    // These come last, because a heading applies to all that follow.
    #[command(flatten)]
    pub(crate) checkout: CheckoutOptions,
    #[command(flatten)]
    pub(crate) agent: AgentOptions,
    #[command(flatten)]
    pub(crate) result: ResultOptions,
}

/// Where the result goes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Result")]
pub(crate) struct ResultOptions {
    /// Push the result as a branch [default BRANCH: agent/ and the end of the job's ID]
    #[arg(long, value_name = "BRANCH", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) deliver: Option<String>,
    #[command(flatten)]
    pub(crate) delivery: DeliveryOptions,
}

/// How a result is delivered.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DeliveryOptions {
    /// Open a pull request for the branch, as a draft; one that is open already is updated
    #[arg(long)]
    pub(crate) pull_request: bool,
    /// The branch that the result is based on and that a pull request is for [default: the one that was pulled]
    #[arg(long, value_name = "BRANCH")]
    pub(crate) base: Option<String>,
    /// The title of the pull request and the subject of the commit [default: the beginning of the prompt]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) title: Option<String>,
    /// The text of the pull request and of the commit; `@FILE` reads it from a file [default: the agent's last words]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) body: Option<String>,
    /// Open a pull request that is ready for review instead of a draft
    #[arg(long, requires = "pull_request")]
    pub(crate) ready: bool,
    /// Also deliver changes to protected paths, such as .github/ and CLAUDE.md; review them first. Needs a token with the scope
    /// deliver:protected
    #[arg(long)]
    pub(crate) allow_protected: bool,
    /// Keep the commits that the agent made, instead of one commit with everything
    #[arg(long)]
    pub(crate) keep_commits: bool,
}

/// Deliver the result of a workflow that has ended, as a branch or a pull request
///
/// Pushes what the agent left in its checkout: one commit on the commit that it was given, or on its branch as it is now if
/// that merges cleanly. Delivering again pushes nothing twice. The checkout must still be there, and no later job may have
/// worked in it.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl deliver 7c3e91d2                              pushes agent/7c3e91d2
  stackctl deliver 7c3e91d2 --branch fix/build
  stackctl deliver 7c3e91d2 --pull-request --title 'Fix the build' --ready

Exit codes: those of run.")]
pub(crate) struct DeliverOptions {
    #[command(flatten)]
    pub(crate) job: JobArgument,
    /// The branch to push [default: agent/ and the end of the job's ID]
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    #[command(flatten)]
    pub(crate) delivery: DeliveryOptions,
    #[command(flatten)]
    pub(crate) retry: RetryOptions,
    #[command(flatten)]
    pub(crate) stack: StackOptions,
}

/// How the repository is pulled. Each field has its name on the wire.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Checkout")]
#[serde(rename_all = "camelCase")]
pub(crate) struct CheckoutOptions {
    /// Check out submodules too, recursively
    #[arg(long)]
    #[serde(skip_serializing_if = "Not::not")]
    pub(crate) submodules: bool,
    /// Fetch files in Git LFS; otherwise their pointers stand in the checkout
    #[arg(long)]
    #[serde(skip_serializing_if = "Not::not")]
    pub(crate) lfs: bool,
    /// Clone only the last N commits of each branch
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) depth: Option<NonZeroU32>,
    /// Clone without some objects until they are needed; `blob:none` leaves out the contents of files
    #[arg(long, value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
    /// Take over a branch that was force-pushed; commits that only the checkout has stay under refs/wip/
    #[arg(long)]
    #[serde(skip_serializing_if = "Not::not")]
    pub(crate) reset: bool,
    /// With --resume: first pull the checkout of the session
    #[arg(long, requires = "resume")]
    #[serde(skip_serializing_if = "Not::not")]
    pub(crate) update: bool,
}

/// Settings of the agent. Each field has its name on the wire.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Agent")]
#[serde(rename_all = "camelCase")]
pub(crate) struct AgentOptions {
    /// The model, by a name that the Claude Code CLI accepts
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// How many turns the agent may take
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_turns: Option<u32>,
    /// What the job may cost, in US dollars
    #[arg(long, value_name = "USD")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_budget_usd: Option<f64>,
    /// How long the job may run
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_seconds: Option<u64>,
    /// The tools the agent may use, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allowed_tools: Vec<String>,
    /// Text to add to the system prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) append_system_prompt: Option<String>,
    /// A shell command that checks the result in the checkout, such as 'cargo test'; if it fails, the agent goes on. Several are
    /// run in this order
    #[arg(long, value_name = "COMMAND")]
    #[serde(skip)]
    pub(crate) verify: Vec<String>,
    /// How often a check that failed is given back to the agent [default: 3]
    #[arg(long, value_name = "N", requires = "verify")]
    #[serde(skip)]
    pub(crate) verify_attempts: Option<u32>,
}

/// How long a stack that has answered may be away.
#[derive(Clone, Debug, Args)]
pub(crate) struct RetryOptions {
    /// How long to keep trying when the connection to the stack breaks
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

IDs are shortened to their last characters; every command takes them in this form.")]
pub(crate) struct JobsOptions {
    /// Only jobs in this state: queued, running, succeeded, failed or cancelled
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub(crate) state: Option<JobState>,
    /// How many jobs at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub(crate) limit: usize,
    /// Include the pulls and agent runs of workflows, and the jobs that looked at what others have changed
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) stack: StackOptions,
}

/// Show a job: its prompt, checkout, cost, result and times
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

/// Show what a job has changed
///
/// Compares the files that the agent left with the commit that it was given: what it committed, what it did not, and new files.
/// Ignored files are left out. On a terminal, the diff is coloured and shown in $PAGER or less, with characters that would be
/// hidden made visible; elsewhere, it is printed as it is, so that `git apply` can read it.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl diff 7c3e91d2
  stackctl diff 7c3e91d2 --stat            only the files
  stackctl diff 7c3e91d2 > change.patch    for `git apply change.patch`
  stackctl diff 7c3e91d2 --json | jq -r '.files[].path'")]
pub(crate) struct DiffOptions {
    #[command(flatten)]
    pub(crate) job: JobArgument,
    /// Show only which files were changed, and by how many lines
    #[arg(long)]
    pub(crate) stat: bool,
    #[command(flatten)]
    pub(crate) stack: StackOptions,
}

/// Apply what a job has changed to the repository you are in
///
/// Changes the files and the index, as `git apply --3way` does, but without hooks. If the change does not apply cleanly, nothing
/// is touched. Your clone must have the commit that the job was given: run `git fetch` first.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  cd my-clone && stackctl apply 7c3e91d2 && git commit

Exit codes: 0 applied, 1 it does not apply, 2 wrong usage or a refused request, 3 the stack cannot be reached.")]
pub(crate) struct ApplyOptions {
    #[command(flatten)]
    pub(crate) job: JobArgument,
    #[command(flatten)]
    pub(crate) stack: StackOptions,
}

/// Check out what a job has changed, as a branch with one commit
///
/// Makes a branch at the commit that the job was given, commits the change there in your name, and switches to it, without
/// hooks. Your clone must have that commit: run `git fetch` first.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl checkout 7c3e91d2               the branch agent/7c3e91d2
  stackctl checkout 7c3e91d2 fix-build")]
pub(crate) struct CheckoutCommand {
    #[command(flatten)]
    pub(crate) job: JobArgument,
    /// The new branch [default: agent/ and the short ID of the job]
    #[arg(value_name = "BRANCH")]
    pub(crate) branch: Option<String>,
    #[command(flatten)]
    pub(crate) stack: StackOptions,
}

/// Watch a job from its beginning, whether it is running or has ended
///
/// Prints what `run` would have printed, and exits with the same code. Ctrl-C does what it does in `run`.
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

/// Cancel a job that is waiting or running
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

/// Delete a job that has ended: its record, its events, its own checkout and the jobs it started
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example:
  stackctl delete 7c3e91d2

Named checkouts and sessions stay.")]
pub(crate) struct DeleteOptions {
    #[command(flatten)]
    pub(crate) job: JobArgument,
    #[command(flatten)]
    pub(crate) stack: StackOptions,
}

/// Which job.
#[derive(Clone, Debug, Args)]
pub(crate) struct JobArgument {
    /// The job's ID, or a beginning or end of it that no other job shares
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

fn state(name: &str) -> Result<JobState, String> {
    JobState::from_name(name)
        .ok_or_else(|| "must be queued, running, succeeded, failed or cancelled".to_owned())
}
