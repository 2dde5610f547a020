//! Ports of this machine, and hosts elsewhere.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use claude_code_api::MessagesUrl;

use super::finding::Finding;
use crate::program;

/// How long a host may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How many ports above a taken one are tried.
const NEIGHBOURS: u16 = 100;

/// A port that `up` is to listen on.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) flag: String,
    pub(super) number: u16,
    pub(super) listen: io::Result<()>,
    /// A free one near it, if this one is taken.
    pub(super) free: Option<u16>,
}

impl Port {
    /// Tries to listen on all of them.
    pub(super) fn look(bind: IpAddr, ports: &[(String, u16)]) -> Vec<Self> {
        // Held until all are tried, so that a port that is named twice is found too.
        let mut held = Vec::new();
        let listen = |port| TcpListener::bind(SocketAddr::new(bind, port));
        ports
            .iter()
            .map(|(flag, number)| {
                let number = *number;
                let attempt = listen(number).map(|listener| held.push(listener));
                let neighbours = number.saturating_add(1)..=number.saturating_add(NEIGHBOURS);
                let free = match &attempt {
                    Ok(()) => None,
                    Err(_) => neighbours.into_iter().find(|port| {
                        !ports.iter().any(|(_, taken)| taken == port) && listen(*port).is_ok()
                    }),
                };
                Self { flag: flag.clone(), number, listen: attempt, free }
            })
            .collect()
    }
}

pub(super) fn ports(ports: &[Port]) -> Finding {
    const NAME: &str = "ports";
    let taken: Vec<_> =
        ports.iter().filter_map(|port| Some((port, port.listen.as_ref().err()?))).collect();
    if taken.is_empty() {
        let numbers: Vec<_> = ports.iter().map(|port| port.number.to_string()).collect();
        return Finding::ok(NAME, format!("{} are free", numbers.join(", ")));
    }
    let found: Vec<_> =
        taken.iter().map(|(port, error)| format!("{}: {error}", port.number)).collect();
    let flags: Vec<_> = taken
        .iter()
        .filter_map(|(port, _)| Some(format!("{} {}", port.flag, port.free?)))
        .collect();
    let numbers: Vec<_> =
        taken.iter().map(|(port, _)| format!("sport = :{}", port.number)).collect();
    let fix = format!(
        "{} up {}\nsee who has it: ss -ltnp '{}'",
        program::name(),
        flags.join(" "),
        numbers.join(" or ")
    );
    Finding::missing(NAME, found.join("; "), fix)
}

/// A host that jobs talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) role: HostRole,
    pub(super) name: String,
    pub(super) port: u16,
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostRole {
    Git,
    MessagesApi,
}

impl Host {
    /// `host` or `host:port`.
    pub(super) fn git(host: &str) -> Self {
        let (name, port) = match host.rsplit_once(':').map(|(name, port)| (name, port.parse())) {
            Some((name, Ok(port))) => (name, port),
            _ => (host, 443),
        };
        Self { role: HostRole::Git, name: name.to_owned(), port }
    }

    pub(super) fn messages_api(url: &MessagesUrl) -> Self {
        Self { role: HostRole::MessagesApi, name: url.host().to_owned(), port: url.port() }
    }

    /// Connects, and returns how long that took.
    pub(super) async fn reach(&self) -> Result<Duration, String> {
        let began = Instant::now();
        let host = self.name.trim_start_matches('[').trim_end_matches(']');
        let connect = tokio::net::TcpStream::connect((host, self.port));
        match tokio::time::timeout(CONNECT_TIME, connect).await {
            Ok(Ok(_)) => Ok(began.elapsed()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer in {} s", CONNECT_TIME.as_secs())),
        }
    }
}

pub(super) fn reachability(host: &Host, reached: &Result<Duration, String>) -> Finding {
    let Host { role, name: host, port } = host;
    let name = match role {
        HostRole::Git => "git host",
        HostRole::MessagesApi => "Messages API",
    };
    match (reached, role) {
        (Ok(time), _) => {
            Finding::ok(name, format!("{host}:{port} answers ({} ms)", time.as_millis()))
        }
        (Err(why), HostRole::Git) => Finding::advice(
            name,
            format!("{host}:{port} cannot be reached: {why}"),
            format!("curl -v telnet://{host}:{port}  (check the name, the firewall and the proxy)"),
        ),
        (Err(why), HostRole::MessagesApi) => Finding::missing(
            name,
            format!("{host}:{port} cannot be reached: {why}"),
            format!(
                "curl -v telnet://{host}:{port}\nor set ANTHROPIC_BASE_URL to where it can be reached"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::finding::State::{Advice, Missing, Ok as Fine},
        *,
    };

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn flags(ports: [u16; 3]) -> Vec<(String, u16)> {
        ["--a", "--b", "--c"].map(str::to_owned).into_iter().zip(ports).collect()
    }

    #[test]
    fn ports_that_are_free_or_taken() {
        let holder = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let taken = holder.local_addr().unwrap().port();
        let looked = Port::look(LOOPBACK, &flags([0, taken, 0]));
        let finding = ports(&looked);
        assert_eq!(finding.state, Missing);
        assert!(finding.found.starts_with(&format!("{taken}: ")) && !finding.found.contains(';'));
        let fix = finding.fix.unwrap();
        let (port, rest) = fix.strip_prefix("stackctl up --b ").unwrap().split_once('\n').unwrap();
        TcpListener::bind((LOOPBACK, port.parse().unwrap())).unwrap();
        assert_eq!(rest, format!("see who has it: ss -ltnp 'sport = :{taken}'"));
        drop(holder);
        assert_eq!(ports(&Port::look(LOOPBACK, &flags([0; 3]))).state, Fine);
    }

    #[test]
    fn the_same_port_twice() {
        let free = TcpListener::bind((LOOPBACK, 0)).unwrap().local_addr().unwrap().port();
        let finding = ports(&Port::look(LOOPBACK, &flags([free, free, 0])));
        assert_eq!(finding.state, Missing);
        assert!(finding.fix.unwrap().starts_with("stackctl up --b "));
    }

    #[test]
    fn hosts_by_their_names() {
        let host = |role, name: &str, port| Host { role, name: name.into(), port };
        assert_eq!(Host::git("github.com"), host(HostRole::Git, "github.com", 443));
        assert_eq!(Host::git("git.example.com:8443"), host(HostRole::Git, "git.example.com", 8443));
        let api = |url: &str| Host::messages_api(&url.parse().unwrap());
        let default = Host::messages_api(&MessagesUrl::default());
        assert_eq!(default, host(HostRole::MessagesApi, "api.anthropic.com", 443));
        assert_eq!(api("http://h:1/v"), host(HostRole::MessagesApi, "h", 1));
        assert_eq!(api("http://h"), host(HostRole::MessagesApi, "h", 80));
        assert_eq!(api("https://[::1]/x"), host(HostRole::MessagesApi, "[::1]", 443));
    }

    #[tokio::test]
    async fn hosts_that_answer_or_not() {
        let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let host = Host::git(&listener.local_addr().unwrap().to_string());
        let reached = host.reach().await;
        assert_eq!(reachability(&host, &reached).state, Fine);
        drop(listener);
        let reached = host.reach().await;
        let finding = reachability(&host, &reached);
        assert_eq!(finding.state, Advice);
        assert!(finding.fix.unwrap().contains("curl"));
        let api = Host { role: HostRole::MessagesApi, ..host };
        assert_eq!(reachability(&api, &reached).state, Missing);
    }
}
