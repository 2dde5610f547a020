//! `stackctl up`.

use std::{net::IpAddr, path::PathBuf};

use anyhow::Context as _;
use boot::{ProcessEnv, Settings};
use clap::{
    Arg, ArgMatches, Args, Command, FromArgMatches, builder::RangedI64ValueParser, value_parser,
};
use contract::{PerService, Service};
use supervisor::{MOST_REPLICAS, Plan};

use crate::{command::exit, serve};

/// Run the whole stack on this machine, without Docker
///
/// Starts a gateway and the replicas behind it, restarts each replica after its one job, and prints all logs.
/// Press Ctrl-C once to let running jobs finish, for GRACE_SECONDS at most, and twice to kill them.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  stackctl up --workspace ./workspace --claude 5
  curl -N http://127.0.0.1:5000/api/workflow -H 'Content-Type: application/json' \\
    -d '{\"prompt\": \"Add a README\", \"repoUrl\": \"https://github.com/user/repo.git\"}'

Settings come from the environment: ANTHROPIC_API_KEY, GITHUB_TOKEN, CLAUDE_BIN and more; see the README.")]
pub(crate) struct UpOptions {
    /// The shared volume: checkouts, journals, sessions
    #[arg(long, env = "WORKSPACE_DIR", value_name = "DIR", default_value = "./workspace")]
    pub(crate) workspace: PathBuf,
    #[command(flatten)]
    pub(crate) services: ServiceFlags,
    /// The address to listen on; anything but loopback lets others on the network run agents here
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) bind: IpAddr,
}

/// Two flags for each service: how many replicas it has, such as `--workflow`, and its port, such as
/// `--port-workflow`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceFlags {
    pub(crate) replicas: PerService<u16>,
    pub(crate) ports: PerService<u16>,
}

/// The name of the flag for a service's port, without the dashes.
pub(crate) fn port_flag(service: Service) -> String {
    format!("port-{}", service.spec().short_name)
}

impl Args for ServiceFlags {
    fn augment_args(command: Command) -> Command {
        let replicas = |service: Service| {
            let spec = service.spec();
            Arg::new(spec.short_name)
                .long(spec.short_name)
                .value_name("N")
                .default_value(spec.default_replicas.to_string())
                .value_parser(RangedI64ValueParser::<u16>::new().range(0..=MOST_REPLICAS.into()))
                .help(format!("How many replicas of {service}; each {}", spec.summary))
        };
        let port = |service: Service| {
            Arg::new(port_flag(service))
                .long(port_flag(service))
                .value_name("PORT")
                .default_value(service.default_port().to_string())
                .value_parser(value_parser!(u16))
                .help(format!("The port of {service}"))
        };
        command.args(Service::ALL.map(replicas)).args(Service::ALL.map(port))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServiceFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let number = |flag: &str| matches.get_one(flag).copied().unwrap_or_default();
        Ok(Self {
            replicas: PerService::from_fn(|service| number(service.spec().short_name)),
            ports: PerService::from_fn(|service| number(&port_flag(service))),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(crate) async fn up(options: UpOptions) -> anyhow::Result<u8> {
    let plan = Plan {
        program: std::env::current_exe().context("cannot find the path of this program")?,
        workspace: options.workspace,
        bind: options.bind,
        ports: options.services.ports,
        replicas: options.services.replicas,
        read_settings: serve::read_settings,
        // What is wrong with it is reported with all other settings.
        tls: gateway::read_tls(&mut Settings::new(&ProcessEnv)),
    };
    boot::keep_files_private();
    supervisor::run(plan).await?;
    Ok(exit::COMPLETE)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: ServiceFlags,
    }

    #[test]
    fn each_service_has_its_flags_and_its_defaults() {
        let Line { flags } = Line::parse_from(["up"]);
        for service in Service::ALL {
            assert_eq!(usize::from(flags.replicas[service]), service.spec().default_replicas);
            assert_eq!(flags.ports[service], service.default_port());
            let name = service.spec().short_name;
            let line = ["up", &format!("--{name}=7"), &format!("--port-{name}=8")];
            let Line { flags } = Line::parse_from(line);
            assert_eq!((flags.replicas[service], flags.ports[service]), (7, 8));
            assert!(Line::try_parse_from(["up", &format!("--{name}=1001")]).is_err());
        }
    }
}
