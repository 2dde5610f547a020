//! The configuration of a stack.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use boot::Settings;
use contract::{PerService, Service};
use web::{BaseUrl, Tls};

use crate::Part;

/// The maximum number of replicas per service.
pub const MOST_REPLICAS: u16 = 1000;

/// Reads the settings of a part like its own process, without starting it.
pub type ReadSettings = fn(Part, &mut Settings<'_>);

/// The configuration of a stack.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A program that runs a part when started with `serve <part>`.
    pub program: PathBuf,
    /// The shared volume. It is created if it does not exist.
    pub workspace: PathBuf,
    /// The address that the gateway listens on.
    pub bind: IpAddr,
    /// The gateway's ports. 0 means any free port.
    pub ports: PerService<u16>,
    /// The initial number of replicas.
    pub replicas: PerService<u16>,
    /// Which settings each part reads. The part gets them from this process's environment, and all of them must be
    /// valid.
    pub read_settings: ReadSettings,
    /// What the gateway's callers see if it speaks TLS. The parts of the stack reach it without.
    pub tls: Option<Tls>,
}

impl Plan {
    /// The gateway's address for `service`.
    #[must_use]
    pub fn address(&self, service: Service) -> SocketAddr {
        SocketAddr::new(self.bind, self.ports[service])
    }

    /// The gateway's host, as seen from this machine: loopback, unless the gateway listens on a single address.
    pub(crate) fn gateway_host(&self) -> String {
        let host = match self.bind {
            IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
            IpAddr::V6(ip) if ip.is_unspecified() => "::1".to_owned(),
            ip => ip.to_string(),
        };
        if host.contains(':') { format!("[{host}]") } else { host }
    }

    /// The gateway's URL for `service`, as seen from this machine.
    pub(crate) fn url(&self, service: Service) -> String {
        format!("http://{}:{}", self.gateway_host(), self.ports[service])
    }

    /// The gateway's URL for callers: with TLS, by a name that its certificate is for. On loopback there is no such name, but
    /// plain HTTP is answered.
    pub(crate) fn public_url(&self, service: Service) -> String {
        let tls = self.tls.as_ref().filter(|_| !self.bind.is_loopback());
        let Some(tls) = tls else { return self.url(service) };
        let name = tls.names().into_iter().find(|name| !name.starts_with("*."));
        let host = name.unwrap_or_else(|| self.gateway_host());
        format!("https://{host}:{}", self.ports[service])
    }

    /// Like [`url`](Self::url), for requests.
    pub(crate) fn base_url(&self, service: Service) -> BaseUrl {
        self.url(service).parse().unwrap_or_else(|_| self.address(service).into())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn callers_are_shown_an_address_that_the_certificate_is_for() {
        let fixture =
            |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/tests/tls").join(name);
        let tls = || Tls::load(fixture("first.pem"), fixture("first.key.pem")).unwrap();
        let url = |bind: &str, tls| {
            let plan = Plan {
                program: "/bin/true".into(),
                workspace: "/w".into(),
                bind: bind.parse().unwrap(),
                ports: PerService::from_fn(|_| 5000),
                replicas: PerService::from_fn(|_| 1),
                read_settings: |_, _| {},
                tls,
            };
            plan.public_url(Service::Workflow)
        };
        assert_eq!(url("0.0.0.0", Some(tls())), "https://stack.example.org:5000");
        // Others cannot reach it there, and that name leads elsewhere.
        assert_eq!(url("127.0.0.1", Some(tls())), "http://127.0.0.1:5000");
        assert_eq!(url("0.0.0.0", None), "http://127.0.0.1:5000");
    }
}
