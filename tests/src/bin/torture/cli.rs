//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::RangedU64ValueParser};
use contract::{PerService, Service};
use jiff::SignedDuration;
use testkit::torture::{
    Deliveries, Flooded, Kill, Leaks, Readers, SideBySide, Storms, Sweep, Target, Victim,
};

const EXAMPLES: &str = "\
Examples:
  cargo build --release --workspace
  cargo run --release -p testkit --bin torture -- kill --jobs 10000 --every 100ms
  cargo run --release -p testkit --bin torture -- kill --seed 7 --target all
  cargo run --release -p testkit --bin torture -- sweep --step 25ms --victims gateway,up
  cargo run --release -p testkit --bin torture -- --json flood --messages 1000000

Exit codes:
  0    every guarantee held
  1    a guarantee was broken
  2    the campaign could not start
  130  the campaign was interrupted";

/// Attacks a workflow-stack and checks what is lost or left behind: kills processes, floods them,
/// stops reading
///
/// Starts a stack of its own with `stackctl up`, on free ports and a fresh volume. You need git,
/// but no API key: the agent is a stand-in that calls no model. It uses the programs in its own
/// directory, so build the workspace first.
#[derive(Debug, Parser)]
#[command(name = "torture", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Print the report as one JSON object
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) campaign: Campaign,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Campaign {
    Kill(KillOptions),
    Deliveries(DeliveriesOptions),
    Sweep(SweepOptions),
    Readers(ReadersOptions),
    SideBySide(SideBySideOptions),
    Flood(FloodOptions),
    Leaks(LeaksOptions),
    /// Stop agents that refuse to exit, for every reason: each has its own code, and every process
    /// is gone within 5 s
    Stops,
    Storms(StormsOptions),
}

/// Run agents that fork without end: no job exceeds its process limit, other jobs continue, and every process is gone
/// within 5 s of a cancel or of the death of its replica
///
/// Needs perl, and a machine that limits the processes of a job (see `stackctl doctor`).
#[derive(Debug, Args)]
pub(crate) struct StormsOptions {
    /// Number of processes a job may have
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(64..=30_000))]
    processes: usize,
}

impl StormsOptions {
    pub(crate) fn campaign(&self) -> Storms {
        Storms { processes: self.processes }
    }
}

/// Send many short jobs and keep killing random processes: every job still ends exactly once
///
/// The jobs are a mix of workflows, pulls and agent runs. Every stream has one terminal event and
/// is, byte for byte, the same as its replay. No agent runs twice. Every job ends within 5 s of the
/// death of its process. Nothing is left behind.
#[derive(Debug, Args)]
pub(crate) struct KillOptions {
    /// Number of jobs
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    jobs: usize,
    /// Number of callers at once
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    callers: usize,
    /// Time between two kills
    #[arg(long, default_value = "100ms", value_name = "TIME", value_parser = time)]
    every: Duration,
    /// Which processes to kill
    #[arg(long, default_value = "replicas", value_enum)]
    target: TargetName,
    /// Replicas of each service, in the order of the services, for example 5,3,3 [default: those of
    /// `stackctl up`]
    #[arg(long, value_name = "N,N,…", value_parser = replicas)]
    replicas: Option<PerService<usize>>,
    /// Seed for the jobs and the kills; the report prints it, so that you can repeat the campaign
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Directory for the volume; if a guarantee is broken, it is kept, together with the stack's
    /// log
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TargetName {
    /// A random replica of any service
    Replicas,
    /// A random replica of the workflow service; all jobs are workflows
    Workflow,
    /// A random replica of the pull service; all jobs are pulls
    Pull,
    /// A random replica of the claude service; all jobs are agent runs
    Claude,
    /// The gateway
    Gateway,
    /// A random one of all of these
    All,
}

impl KillOptions {
    pub(crate) fn campaign(&self) -> Kill {
        Kill {
            jobs: self.jobs,
            callers: self.callers,
            every: self.every,
            target: match self.target {
                TargetName::Replicas => Target::Replicas,
                TargetName::Workflow => Target::Service(Service::Workflow),
                TargetName::Pull => Target::Service(Service::Pull),
                TargetName::Claude => Target::Service(Service::Claude),
                TargetName::Gateway => Target::Gateway,
                TargetName::All => Target::All,
            },
            replicas: self.replicas.unwrap_or_else(default_replicas),
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
            workspace: self.workspace.clone(),
        }
    }
}

/// Have many results delivered and keep killing the replicas that do it: each result has one branch with one commit
///
/// A caller asks again for a delivery that was lost, and sends a workflow again only if its agent did not start. In the end, the host
/// has as many branches as there are results, and no others, each with one commit that names its job.
#[derive(Debug, Args)]
pub(crate) struct DeliveriesOptions {
    /// Number of results
    #[arg(long, default_value_t = 1000, value_name = "N")]
    results: usize,
    /// Number of callers at once
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=100))]
    callers: usize,
    /// Time between two kills
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = time)]
    every: Duration,
    /// Number of pull replicas
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=100))]
    pulls: usize,
    /// Open a pull request for each result too, at a stand-in of GitHub's API
    #[arg(long)]
    pull_requests: bool,
    /// Seed for the kills
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl DeliveriesOptions {
    pub(crate) fn campaign(&self) -> Deliveries {
        Deliveries {
            results: self.results,
            callers: self.callers,
            every: self.every,
            pulls: self.pulls,
            pull_requests: self.pull_requests,
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
        }
    }
}

/// Kill every process that takes part in a job, once per job, at every moment of its life
///
/// The moments are: at regular intervals after the job was accepted, and when each of its jobs is
/// claimed, writes its first event and ends.
#[derive(Debug, Args)]
pub(crate) struct SweepOptions {
    /// Which processes to kill
    #[arg(long, value_enum, value_delimiter = ',', value_name = "VICTIM", default_values_t = [VictimName::Workflow, VictimName::Pull, VictimName::Claude, VictimName::Gateway, VictimName::Up])]
    victims: Vec<VictimName>,
    /// Time between two moments
    #[arg(long, default_value = "25ms", value_name = "TIME", value_parser = time)]
    step: Duration,
    /// The last moment
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = time)]
    until: Duration,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum VictimName {
    /// The replica that runs the workflow
    Workflow,
    /// The replica that pulls
    Pull,
    /// The replica that runs the agent
    Claude,
    /// The gateway
    Gateway,
    /// `stackctl up`, which is then started again
    Up,
}

impl SweepOptions {
    pub(crate) fn campaign(&self) -> Sweep {
        let victim = |name: &VictimName| match name {
            VictimName::Workflow => Victim::Workflow,
            VictimName::Pull => Victim::Pull,
            VictimName::Claude => Victim::Claude,
            VictimName::Gateway => Victim::Gateway,
            VictimName::Up => Victim::Up,
        };
        Sweep {
            victims: self.victims.iter().map(victim).collect(),
            step: self.step,
            until: self.until,
        }
    }
}

/// Cut off all readers of one job at once, again and again: all of them receive the same bytes
#[derive(Debug, Args)]
pub(crate) struct ReadersOptions {
    /// Number of readers
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    readers: usize,
    /// How often they are cut off
    #[arg(long, default_value_t = 10, value_name = "N")]
    cuts: usize,
}

impl ReadersOptions {
    pub(crate) fn campaign(&self) -> Readers {
        Readers { readers: self.readers, cuts: self.cuts }
    }
}

/// Run long jobs at once and request `/health` every 20 ms: 95 of 100 answers arrive within 50 ms
#[derive(Debug, Args)]
pub(crate) struct SideBySideOptions {
    /// Number of jobs
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=100))]
    jobs: usize,
    /// Duration of the campaign
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = time)]
    time: Duration,
}

impl SideBySideOptions {
    pub(crate) fn campaign(&self) -> SideBySide {
        SideBySide { jobs: self.jobs, time: self.time }
    }
}

/// Let an agent print a million messages, and a long one, to readers that do not read them: memory use stays flat
#[derive(Debug, Args)]
pub(crate) struct FloodOptions {
    /// Number of messages
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    messages: usize,

    /// Number of readers that do not read a message of 10 MiB
    #[arg(long, default_value_t = 200, value_name = "N")]
    readers: usize,
}

impl FloodOptions {
    pub(crate) fn campaign(&self) -> Flooded {
        Flooded { messages: self.messages, readers: self.readers }
    }
}

/// Count processes, files, locks and watches before and after many jobs: the counts are the same
#[derive(Debug, Args)]
pub(crate) struct LeaksOptions {
    /// Number of jobs
    #[arg(long, default_value_t = 1000, value_name = "N")]
    jobs: usize,
    /// Number of callers at once
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    callers: usize,
}

impl LeaksOptions {
    pub(crate) fn campaign(&self) -> Leaks {
        Leaks { jobs: self.jobs, callers: self.callers }
    }
}

/// A time such as `100ms` or `1.5s`. Zero is refused, because a loop would never wait.
fn time(text: &str) -> Result<Duration, String> {
    let time: SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    let time = Duration::try_from(time).map_err(|_| "must not be negative".to_owned())?;
    if time.is_zero() { Err("must not be zero; for example 100ms".to_owned()) } else { Ok(time) }
}

/// One count for each service, none of them zero.
fn replicas(text: &str) -> Result<PerService<usize>, String> {
    let counts: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    counts
        .ok()
        .filter(|counts| counts.iter().all(|count| (1..=100).contains(count)))
        .and_then(|counts| counts.try_into().ok())
        .map(PerService::new)
        .ok_or_else(|| {
            let example = default_replicas().as_array().map(|count| count.to_string()).join(",");
            format!("must be {} numbers from 1 to 100, for example {example}", Service::COUNT)
        })
}

fn default_replicas() -> PerService<usize> {
    PerService::from_fn(|service| service.spec().default_replicas)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_need_a_unit_and_are_not_zero() {
        assert_eq!(time("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(time("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["", "100", "0s", "-1s", "soon"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn replicas_are_one_count_for_each_service() {
        assert_eq!(replicas("5,3,3"), Ok(PerService::new([5, 3, 3])));
        for wrong in ["", "5,3", "5,3,3,1", "5,0,3", "a,b,c", "5,3,101"] {
            assert!(replicas(wrong).is_err(), "{wrong}");
        }
    }
}
