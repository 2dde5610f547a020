//! The command lines of `ps`, `scale` and `logs`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, builder::RangedU64ValueParser};
use contract::Timestamp;
use supervisor::Part;
use web::BaseUrl;

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
    /// Where the gateway takes workflows [default: asked of the stack]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<BaseUrl>,
}

/// Show services, replicas, running jobs and recent failures
///
/// On a Swarm it asks the engine (DOCKER_HOST, or the default socket), which must be a manager. CPU and memory are
/// known for containers on this node only. A replica exits after each job, so restarts show how much work is done;
/// `~` marks an estimate from a history that does not reach back an hour. Idle replicas are counted, not listed.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl ps
  stackctl ps --watch
  stackctl ps --swarm --stack workflow-stack --json | jq '.services[] | {service, busy, queued}'

Exit codes: 0 shown, 2 wrong usage, 3 no such stack.")]
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
/// With fewer replicas, the highest numbers leave. A busy replica finishes its job first; a Swarm kills it if that
/// takes longer than the service's stop grace period.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl scale workflow=10
  stackctl scale workflow=5 pull=3 claude=3

Exit codes: 0 done, 1 not done in time, 2 wrong usage, 3 no such stack, 130 interrupted.")]
pub(crate) struct ScaleOptions {
    /// A service and its number of replicas, such as workflow=10
    #[arg(required = true, value_name = "SERVICE=N")]
    pub(crate) wanted: Vec<Wanted>,
    /// Do not wait until all replicas run
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait until all replicas run, and those that leave have finished their jobs
    #[arg(long, value_name = "SECONDS", default_value_t = 300, conflicts_with = "no_wait")]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

/// Show the logs of the services
///
/// A local stack keeps the last 16 MiB in its workspace, also when it stops.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl logs --follow
  stackctl logs claude --since 10m
  stackctl logs --job 7c3e91d2             what was logged about a job and the jobs it asked for

Exit codes: 0 shown, 2 wrong usage, 3 no such stack.")]
pub(crate) struct LogsOptions {
    /// Only this service, by its name or its flag: gateway, workflow, …
    #[arg(value_name = "SERVICE", value_parser = super::parts::part)]
    pub(crate) service: Option<Part>,
    /// Only lines about this job and the jobs it asked for; the beginning or the end of its id is enough
    #[arg(long, value_name = "ID")]
    pub(crate) job: Option<String>,
    /// Also show new lines, until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only newer lines: 90s, 10m, 2h, 1d, or a time such as 2026-01-31T12:00:00Z
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
