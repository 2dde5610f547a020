//! The command lines of `ps`, `scale` and `logs`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, builder::RangedU64ValueParser};
use contract::Timestamp;
use stack_client::StackUrl;
use supervisor::Part;

use super::{logs::since, scale::Wanted};

/// Which stack is meant.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Which stack")]
pub(crate) struct TargetOptions {
    /// The stack that `stackctl up` runs on this machine
    #[arg(long, conflicts_with = "swarm")]
    pub(crate) local: bool,
    /// The stack on Docker Swarm; without --local or --swarm, whichever is there
    #[arg(long)]
    pub(crate) swarm: bool,
    /// The name of the stack on the Swarm
    #[arg(long, env = "STACK_NAME", value_name = "NAME", default_value = "workflow-stack")]
    pub(crate) stack: String,
    /// The workspace of the local stack
    #[arg(long, env = "WORKSPACE_DIR", value_name = "DIR", default_value = "./workspace")]
    pub(crate) workspace: PathBuf,
    /// Where the gateway takes workflows [default: found out]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<StackUrl>,
}

/// Show the services, their replicas and what failed of late
///
/// On a Swarm the engine is asked (DOCKER_HOST, or the usual socket), which must be a manager's. CPU and memory
/// are those of this node's containers; what runs on others is listed without. A replica exits after each job,
/// so restarts are a measure of work; `~` marks a number that is reckoned from a history which was cut short.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl ps
  stackctl ps --watch
  stackctl ps --swarm --stack workflow-stack --json | jq '.services[] | {service, busy, queued}'

Exit codes: 0 shown, 2 wrong usage, 3 there is no such stack.")]
pub(crate) struct PsOptions {
    /// Show it again and again, until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// How often, with --watch
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = RangedU64ValueParser::<u64>::new().range(1..=3600))]
    pub(crate) every: u64,
    /// Print JSON, for programs; with --watch, one object a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

/// Change how many replicas the services have
///
/// Fewer replicas means that those of the highest numbers leave, busy or not. One that has a job finishes it
/// first; on a Swarm it is killed if that takes longer than the service's stop grace period.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl scale workflow=10
  stackctl scale workflow=5 pull=3 claude=3

Exit codes: 0 done, 1 it did not come about in time, 2 wrong usage, 3 there is no such stack, 130 interrupted.")]
pub(crate) struct ScaleOptions {
    /// How many of which: workflow, pull or claude
    #[arg(required = true, value_name = "SERVICE=N")]
    pub(crate) wanted: Vec<Wanted>,
    /// Do not wait until it is so
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait until all replicas run; replicas that finish a job before they leave are waited for too
    #[arg(long, value_name = "SECONDS", default_value_t = 300, conflicts_with = "no_wait")]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

/// Show what the services log
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl logs --follow
  stackctl logs claude --since 10m
  stackctl logs --job 7c3e91d2             what was logged about a job and the jobs it asked for

Exit codes: 0 shown, 2 wrong usage, 3 there is no such stack.")]
pub(crate) struct LogsOptions {
    /// Of this service alone: gateway, workflow, pull or claude
    #[arg(value_name = "SERVICE", value_parser = super::parts::part)]
    pub(crate) service: Option<Part>,
    /// Only lines about this job, and the jobs it asked for; a beginning or an end of its id will do
    #[arg(long, value_name = "ID")]
    pub(crate) job: Option<String>,
    /// Go on with what is logged from now on, until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only what is younger: 90s, 10m, 2h, 1d, or a time like 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub(crate) since: Option<Since>,
    /// How many lines of each service at most, or `all` [default: 100; all with --job or --since]
    #[arg(long, value_name = "N", value_parser = tail)]
    pub(crate) tail: Option<Tail>,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

/// From when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// So long ago.
    Ago(Duration),
    /// At that time.
    At(Timestamp),
}

/// How many lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Every one.
    All,
    /// The last so many.
    Last(u32),
}

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail::All),
        number => {
            number.parse().map(Tail::Last).map_err(|_| "must be a number or `all`".to_owned())
        }
    }
}
