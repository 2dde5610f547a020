//! The command lines of `ps`, `scale` and `logs`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, builder::RangedU64ValueParser};
use contract::{Service, Timestamp};
use stack_client::{Api, StackUrl};
use supervisor::Part;
use swarm::Tail;

use super::{OpsError, logs::since, scale::Wanted, target::Target};
use crate::client::{ClientError, GivenUrl, TokenOptions};

/// Which stack is meant.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Which stack")]
pub(crate) struct TargetOptions {
    /// The stack that `stackctl up` runs on this machine
    #[arg(long, conflicts_with = "swarm")]
    pub(crate) local: bool,
    /// The stack on Docker Swarm [default: the local stack if one runs, else the one on the Swarm]
    #[arg(long)]
    pub(crate) swarm: bool,
    /// The name of the stack on the Swarm
    #[arg(long, env = "STACK_NAME", value_name = "NAME", default_value = "workflow-stack")]
    pub(crate) stack: String,
    /// The workspace of the local stack
    #[arg(long, env = "WORKSPACE_DIR", value_name = "DIR", default_value = "./workspace")]
    pub(crate) workspace: PathBuf,
}

/// The gateway, which knows the jobs.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Its gateway")]
pub(crate) struct GatewayOptions {
    /// The URL that workflows are posted to [default: the stack is asked for it]
    #[arg(long, value_name = "URL")]
    url: Option<GivenUrl>,
    #[command(flatten)]
    token: TokenOptions,
}

impl GatewayOptions {
    /// Checks them, before anything else is done.
    ///
    /// # Errors
    /// If the URL is wrong.
    pub(crate) fn parse(self) -> Result<Gateway, ClientError> {
        let url = self.url.map(|url| url.parse()).transpose()?;
        Ok(Gateway { url, token: self.token })
    }
}

/// How to reach the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    url: Option<StackUrl>,
    token: TokenOptions,
}

impl Gateway {
    /// The gateway, for each service whose address is known. With `--url`, only that of workflows is.
    ///
    /// # Errors
    /// If the stack does not answer, the token cannot be read or would be sent unencrypted over a network, or https cannot be
    /// used.
    pub(crate) async fn apis(&self, target: &Target) -> anyhow::Result<Vec<(Service, Api)>> {
        let addresses = match &self.url {
            Some(url) => vec![(Service::Workflow, url.clone())],
            None => {
                let addresses = target.addresses().await?;
                if target.is_elsewhere()
                    && self.token.is_given()
                    && let Some((_, url)) = addresses.first()
                {
                    return Err(OpsError::Usage(format!(
                        "the token would be sent unencrypted to {url}: give the gateway's address with --url, best with https://"
                    ))
                    .into());
                }
                addresses
            }
        };
        let api = |(service, url)| Ok((service, self.token.api(url)?));
        addresses.into_iter().map(api).collect()
    }
}

/// Show services, replicas, running jobs and recent failures
///
/// For a stack on a Swarm, this asks the engine at DOCKER_HOST or at the default socket, which must be a manager. CPU
/// and memory are known only for containers on the engine's node. A replica exits after each job, so the number of
/// restarts shows how much work is done; `~` marks an estimate from a history that does not reach back an hour. Idle
/// replicas are counted, not listed.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl ps
  stackctl ps --watch
  stackctl ps --swarm --stack workflow-stack --json | jq '.services[] | {service, busy, queued}'

Exit codes: 0 success, 2 wrong usage, 3 no such stack.")]
pub(crate) struct PsOptions {
    /// Refresh until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// How often to refresh, with --watch
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = RangedU64ValueParser::<u64>::new().range(1..=3600))]
    pub(crate) every: u64,
    /// Print JSON, for programs; with --watch, one object per line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    #[command(flatten)]
    pub(crate) gateway: GatewayOptions,
}

/// Change how many replicas the services have
///
/// To reduce the number, the replicas with the highest numbers are stopped. A busy replica finishes its job first; a
/// Swarm kills it if that takes longer than the service's stop grace period.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl scale workflow=10
  stackctl scale workflow=5 pull=3 claude=3

Exit codes: 0 success, 1 not done in time, 2 wrong usage, 3 no such stack, 130 interrupted.")]
pub(crate) struct ScaleOptions {
    /// A service and its number of replicas, such as workflow=10
    #[arg(required = true, value_name = "SERVICE=N")]
    pub(crate) wanted: Vec<Wanted>,
    /// Do not wait until all replicas run
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How long to wait until all replicas run, and those that are stopped have finished their jobs
    #[arg(long, value_name = "SECONDS", default_value_t = 300, conflicts_with = "no_wait")]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

/// Show the logs of the services
///
/// A local stack keeps the last 16 MiB of its logs in its workspace, and they stay there when it stops.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl logs --follow
  stackctl logs claude --since 10m
  stackctl logs --job 7c3e91d2             what was logged about a job and the jobs it started

Exit codes: 0 success, 2 wrong usage, 3 no such stack.")]
pub(crate) struct LogsOptions {
    /// Only this service: gateway, workflow, pull, …
    #[arg(value_name = "SERVICE", value_parser = super::parts::part)]
    pub(crate) service: Option<Part>,
    /// Only lines about this job and the jobs it started; the beginning or the end of its ID is enough
    #[arg(long, value_name = "ID")]
    pub(crate) job: Option<String>,
    /// Also show new lines, until Ctrl-C
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only lines since then: 90s, 10m, 2h, 1d, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since)]
    pub(crate) since: Option<Since>,
    /// At most this many lines of each service, or `all` [default: 100; all with --job or --since]
    #[arg(long, value_name = "N", value_parser = tail)]
    pub(crate) tail: Option<Tail>,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    #[command(flatten)]
    pub(crate) gateway: GatewayOptions,
}

/// Since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// That long ago.
    Ago(Duration),
    /// At that time.
    At(Timestamp),
}

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail::All),
        number => {
            number.parse().map(Tail::Last).map_err(|_| "must be a number or `all`".to_owned())
        }
    }
}
