//! The command line.

use std::{ffi::OsString, net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use contract::Service;

use crate::{
    client::{AttachOptions, CancelOptions, JobsOptions, LoadOptions, RunOptions, ShowOptions},
    ops::{LogsOptions, PsOptions, ScaleOptions},
};

const EXAMPLES: &str = "\
Examples:
  stackctl demo                      see everything at work, without a key
  stackctl doctor                    what this machine lacks
  stackctl up                        the whole stack on this machine
  stackctl run --repo https://github.com/user/repo.git --prompt 'Add a README'
  stackctl jobs                      what ran and what runs
  stackctl ps                        how the stack is";

/// Coding-agent jobs over HTTP, on your own machines.
#[derive(Debug, Parser)]
#[command(name = "stackctl", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(UpOptions),
    Run(RunOptions),
    Jobs(JobsOptions),
    Show(ShowOptions),
    Attach(AttachOptions),
    Cancel(CancelOptions),
    Ps(PsOptions),
    Scale(ScaleOptions),
    Logs(LogsOptions),
    Load(LoadOptions),
    Demo(DemoOptions),
    Doctor(DoctorOptions),
    Completions(CompletionsOptions),
    /// Stand in for the Claude Code CLI, with its command line; `demo` uses it
    #[command(hide = true, disable_help_flag = true, disable_version_flag = true)]
    RehearsalAgent {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run one part of the stack in this process; `up` and the container images use it
    Serve {
        /// Which part
        service: Part,
    },
}

/// Run the whole stack on this machine, without Docker
///
/// Starts a gateway and the replicas behind it, restarts each replica after its one job, and prints all logs.
/// Ctrl-C once lets running jobs finish; twice kills them.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  stackctl up --workspace ./workspace --claude 5
  curl -N http://127.0.0.1:5000/api/workflow -H 'Content-Type: application/json' \\
    -d '{\"prompt\": \"Add a README\", \"repoUrl\": \"https://github.com/user/repo.git\"}'

Settings come from the environment: ANTHROPIC_API_KEY, GITHUB_TOKEN, CLAUDE_BIN and more; see the README.")]
pub(crate) struct UpOptions {
    /// The shared volume: checkouts, journals, sessions
    #[arg(long, env = "WORKSPACE_DIR", default_value = "./workspace")]
    pub(crate) workspace: PathBuf,
    /// How many workflows may run at once
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = replicas())]
    pub(crate) workflow: u16,
    /// How many pulls may run at once
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = replicas())]
    pub(crate) pull: u16,
    /// How many agents may run at once
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = replicas())]
    pub(crate) claude: u16,
    /// Where workflows are posted
    #[arg(long, value_name = "PORT", default_value_t = Service::Workflow.default_port())]
    pub(crate) port_workflow: u16,
    /// Where pulls are posted
    #[arg(long, value_name = "PORT", default_value_t = Service::Pull.default_port())]
    pub(crate) port_pull: u16,
    /// Where agent runs are posted
    #[arg(long, value_name = "PORT", default_value_t = Service::Claude.default_port())]
    pub(crate) port_claude: u16,
    /// The address to listen on; anything but loopback lets others on the network run agents here
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) bind: IpAddr,
}

fn replicas() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(0..=1000)
}

/// Show everything at work, without a key and without a network
///
/// Makes a sample repository, serves it over HTTP, starts a stack in a temporary directory, runs one workflow
/// through it with an agent that calls no model, and shows what the agent changed. Then everything is gone again.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "\
Examples:
  stackctl demo
  ANTHROPIC_API_KEY=sk-ant-… stackctl demo --real --prompt 'Write tests for hello.py'

Exit codes: 0 shown, 1 something failed, 130 interrupted.")]
pub(crate) struct DemoOptions {
    /// With the Claude Code CLI and a credential from the environment, which is paid work
    #[arg(long)]
    pub(crate) real: bool,
    /// Keep the stack running until Ctrl-C
    #[arg(long)]
    pub(crate) keep: bool,
    /// What the agent is to do
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
}

/// Tell what this machine has for `stackctl up`, and what it lacks
///
/// Takes the options of `up`, and looks for what a stack with these needs. Nothing is changed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl doctor
  stackctl doctor --claude 20 --workspace /srv/workspace --net

Exit codes: 0 everything that `up` needs is here, 1 something is missing.")]
pub(crate) struct DoctorOptions {
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
    /// Also ask the network: git hosts and the Messages API
    #[arg(long)]
    pub(crate) net: bool,
    #[command(flatten)]
    pub(crate) up: UpOptions,
}

/// Print the completions of a shell
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl completions bash > ~/.local/share/bash-completion/completions/stackctl
  stackctl completions zsh > ~/.zfunc/_stackctl
  stackctl completions fish > ~/.config/fish/completions/stackctl.fish")]
pub(crate) struct CompletionsOptions {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

/// A part of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    Gateway,
    WorkflowApi,
    GithubPullApi,
    ClaudeCodeApi,
}

impl From<Service> for Part {
    fn from(service: Service) -> Self {
        match service {
            Service::Workflow => Self::WorkflowApi,
            Service::Pull => Self::GithubPullApi,
            Service::Claude => Self::ClaudeCodeApi,
        }
    }
}

impl Part {
    pub(crate) fn name(self) -> &'static str {
        match self.service() {
            Some(service) => service.name(),
            None => "gateway",
        }
    }

    /// The service whose replica it is; none for the gateway.
    pub(crate) fn service(self) -> Option<Service> {
        match self {
            Self::Gateway => None,
            Self::WorkflowApi => Some(Service::Workflow),
            Self::GithubPullApi => Some(Service::Pull),
            Self::ClaudeCodeApi => Some(Service::Claude),
        }
    }
}
