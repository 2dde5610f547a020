//! Finds the address at which the gateway reaches this replica.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use boot::Settings;
use tokio::time::Instant;

/// The pause before a name is looked up again. It doubles each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often the log repeats that a name cannot be resolved yet.
const REMIND: Duration = Duration::from_secs(30);
/// The port in a route lookup. Any port works, because nothing is sent.
const DISCARD: u16 = 9;

/// How a replica determines its own address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Advertise {
    /// `ADVERTISE_ADDRESS`: this address.
    Address(IpAddr),
    /// `ADVERTISE_TOWARDS`: the source address of its connections to this host. A container has one address per
    /// network, and only one network is shared with the gateway.
    Towards(String),
    /// Neither is set: the source address of the default route.
    #[default]
    DefaultRoute,
}

impl Advertise {
    /// Reads the settings.
    pub(crate) fn read(settings: &mut Settings<'_>) -> Self {
        let address = settings.address("ADVERTISE_ADDRESS");
        let towards = settings.text("ADVERTISE_TOWARDS").map(|name| name.trim().to_owned());
        match (address, towards) {
            (Some(address), _) => Self::Address(address),
            (None, Some(name)) => {
                if !is_host(&name) {
                    settings.problem(
                        "ADVERTISE_TOWARDS",
                        "must be the name of a host, such as gateway",
                    );
                }
                Self::Towards(name)
            }
            (None, None) => Self::DefaultRoute,
        }
    }

    /// The address of a replica that listens on `bind`. Waits until the host's name can be resolved: the parts of a
    /// stack start in any order, and a replica that gave up would only be restarted.
    pub(crate) async fn find(&self, bind: IpAddr) -> IpAddr {
        match self {
            Self::Address(address) => *address,
            _ if !bind.is_unspecified() => bind,
            Self::Towards(name) => until_known(name, || look_up(name, bind)).await,
            Self::DefaultRoute => source_address((Ipv4Addr::new(192, 0, 2, 1), DISCARD).into())
                .unwrap_or(Ipv4Addr::LOCALHOST.into()),
        }
    }
}

fn is_host(name: &str) -> bool {
    let is_label = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.len() <= 253 && !name.starts_with('-') && name.chars().all(is_label)
}

/// Retries `look_up` until it succeeds.
async fn until_known<F>(name: &str, look_up: impl Fn() -> F) -> IpAddr
where
    F: Future<Output = io::Result<IpAddr>>,
{
    let mut pause = FIRST_PAUSE;
    let mut said: Option<Instant> = None;
    loop {
        match look_up().await {
            Ok(address) => {
                if said.is_some() {
                    tracing::info!(host = name, %address, "resolved the host in ADVERTISE_TOWARDS");
                }
                return address;
            }
            Err(error) if said.is_none_or(|at| at.elapsed() >= REMIND) => {
                tracing::warn!(host = name, %error, "cannot resolve the host in ADVERTISE_TOWARDS (usually the gateway) yet: waiting for it");
                said = Some(Instant::now());
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The source address of connections to the host, of the same family as `bind`.
async fn look_up(name: &str, bind: IpAddr) -> io::Result<IpAddr> {
    let mut error = io::Error::other("the host has no address of the same family as BIND_ADDRESS");
    for host in tokio::net::lookup_host((name, DISCARD)).await? {
        if host.is_ipv4() == bind.is_ipv4() {
            match source_address(host) {
                Ok(address) => return Ok(address),
                Err(refused) => error = refused,
            }
        }
    }
    Err(error)
}

/// The source address of connections to `host`. Connecting a UDP socket sends nothing; it only selects a route.
/// 192.0.2.1 is reserved for documentation (RFC 5737) and stands for any host on the internet.
fn source_address(host: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if host.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(host)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Mutex};

    use super::*;

    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    fn read(pairs: &[(&str, &str)]) -> Result<Advertise, Vec<String>> {
        let env: HashMap<_, _> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut settings = Settings::new(&env);
        let advertise = Advertise::read(&mut settings);
        settings.finish().map(|()| advertise).map_err(|error| error.problems)
    }

    #[test]
    fn settings_take_precedence_over_the_default_route() {
        let (address, towards) =
            (("ADVERTISE_ADDRESS", "10.0.0.9"), ("ADVERTISE_TOWARDS", " gateway "));
        assert_eq!(read(&[]), Ok(Advertise::DefaultRoute));
        assert_eq!(read(&[towards]), Ok(Advertise::Towards("gateway".into())));
        assert_eq!(read(&[address, towards]), Ok(Advertise::Address([10, 0, 0, 9].into())));
        for bad in ["http://gateway", "gateway:5000", "a b", "-x", "ü", &"x".repeat(254)] {
            let problems = read(&[("ADVERTISE_TOWARDS", bad)]).unwrap_err();
            assert!(problems[0].starts_with("ADVERTISE_TOWARDS: "), "{problems:?}");
        }
    }

    #[tokio::test]
    async fn the_address_is_on_the_same_network_as_the_host() {
        let towards = |name: &str| Advertise::Towards(name.into());
        assert_eq!(towards("localhost").find(ANY).await, IpAddr::from([127, 0, 0, 1]));
        let bind = IpAddr::from([127, 0, 0, 7]);
        assert_eq!(towards("localhost").find(bind).await, bind, "the replica listens only there");
        let told = Advertise::Address([10, 0, 0, 9].into());
        assert_eq!(told.find(bind).await, IpAddr::from([10, 0, 0, 9]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_host_is_looked_up_with_backoff() {
        let started = Instant::now();
        let attempts = Mutex::new(Vec::new());
        let found = until_known("gateway", || async {
            let mut attempts = attempts.lock().unwrap();
            attempts.push(started.elapsed().as_millis());
            if attempts.len() < 8 {
                return Err(io::Error::other("unknown host"));
            }
            Ok([10, 0, 0, 9].into())
        })
        .await;
        assert_eq!(found, IpAddr::from([10, 0, 0, 9]));
        assert_eq!(
            *attempts.lock().unwrap(),
            [0, 100, 300, 700, 1500, 3100, 5100, 7100],
            "each pause doubles, up to 2 s"
        );
    }
}
