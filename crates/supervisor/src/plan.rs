//! The stack that is to run.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use boot::Settings;
use contract::{PerService, Service};
use web::BaseUrl;

use crate::Part;

/// How many replicas of one service a stack may have.
pub const MOST_REPLICAS: u16 = 1000;

/// Reads the settings of a part as its own process does at its start, without starting it.
pub type ReadSettings = fn(Part, &mut Settings<'_>);

/// The stack that is to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program that runs a part, if it is started with `serve <part>`.
    pub program: PathBuf,
    /// The shared volume. It is created if it does not exist.
    pub workspace: PathBuf,
    /// The address that the gateway listens on.
    pub bind: IpAddr,
    /// The gateway's ports; 0 means any free port.
    pub ports: PerService<u16>,
    /// How many replicas to start with.
    pub replicas: PerService<u16>,
    /// Reads the settings of each part. A part gets only those from this process's environment, and all must be valid.
    pub read_settings: ReadSettings,
}

impl Plan {
    /// The address at which the gateway takes jobs of `service`.
    #[must_use]
    pub fn address(&self, service: Service) -> SocketAddr {
        SocketAddr::new(self.bind, self.ports[service])
    }

    /// The host by which the gateway is reached from this machine: loopback, unless it listens on one address only.
    pub(crate) fn gateway_host(&self) -> String {
        let host = match self.bind {
            IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
            IpAddr::V6(ip) if ip.is_unspecified() => "::1".to_owned(),
            ip => ip.to_string(),
        };
        if host.contains(':') { format!("[{host}]") } else { host }
    }

    /// The URL by which the gateway is reached from this machine.
    pub(crate) fn url(&self, service: Service) -> String {
        format!("http://{}:{}", self.gateway_host(), self.ports[service])
    }

    /// The same, for requests.
    pub(crate) fn base_url(&self, service: Service) -> BaseUrl {
        self.url(service).parse().unwrap_or_else(|_| self.address(service).into())
    }
}
