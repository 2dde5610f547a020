//! The gateway's settings.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use boot::Settings;
use contract::{Policy, Service};
use web::Cors;

/// Where the gateway listens, and how long it lets callers wait.
#[derive(Clone, Debug)]
pub struct Config {
    /// `BIND_ADDRESS`
    pub bind: IpAddr,
    /// `PORT_WORKFLOW`, `PORT_PULL`, `PORT_CLAUDE`
    pub ports: [u16; 3],
    /// `WORKSPACE_DIR`
    pub workspace: PathBuf,
    /// `QUEUE_LIMIT`: how many jobs of one service may wait.
    pub queue_limit: usize,
    /// `QUEUE_WAIT_SECONDS`: how long a job may wait.
    pub queue_wait: Duration,
    /// What callers may ask for.
    pub policy: Policy,
    /// `CORS_ALLOW_ORIGIN`
    pub cors: Cors,
    /// `DRAIN`: begin as if told to drain, because the stack was told so before this gateway was started.
    pub drain: bool,
}

impl Config {
    /// Reads the settings.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let port = |settings: &mut Settings<'_>, service: Service| {
            let name = match service {
                Service::Workflow => "PORT_WORKFLOW",
                Service::Pull => "PORT_PULL",
                Service::Claude => "PORT_CLAUDE",
            };
            settings.port(name, service.default_port())
        };
        Self {
            bind: settings.address("BIND_ADDRESS").unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            ports: Service::ALL.map(|service| port(settings, service)),
            workspace: settings.text("WORKSPACE_DIR").unwrap_or_else(|| "/workspace".into()).into(),
            queue_limit: settings.or("QUEUE_LIMIT", 1000, "a whole number of jobs, such as 1000"),
            queue_wait: settings.seconds("QUEUE_WAIT_SECONDS", 600),
            policy: boot::read_policy(settings),
            cors: settings.or("CORS_ALLOW_ORIGIN", Cors::default(), Cors::EXPECTED),
            drain: settings.flag("DRAIN"),
        }
    }

    /// What tests begin with: any free port on loopback.
    #[cfg(test)]
    pub(crate) fn of_tests(workspace: &std::path::Path) -> Self {
        let env = std::collections::HashMap::from([
            ("BIND_ADDRESS".to_owned(), "127.0.0.1".to_owned()),
            ("WORKSPACE_DIR".to_owned(), workspace.display().to_string()),
        ]);
        Self::read(&mut Settings::new(&env))
    }

    /// Where the port of `service` is served.
    #[must_use]
    pub fn address(&self, service: Service) -> SocketAddr {
        let [workflow, pull, claude] = self.ports;
        let port = match service {
            Service::Workflow => workflow,
            Service::Pull => pull,
            Service::Claude => claude,
        };
        SocketAddr::new(self.bind, port)
    }
}
