//! The one way from git to the network.
//!
//! git, ssh and git-lfs are given a SOCKS5 proxy on loopback that lives in this process for as long as
//! the pull does. It resolves each name once, checks the addresses against the [`AddressPolicy`], and
//! connects to one that was checked: so a name cannot lead elsewhere between the check and the connection,
//! and neither can a redirect, which comes through here like everything else. A host that the pull did not
//! ask for is refused, so redirects stay on their host; only git-lfs may reach others.
//!
//! SOCKS5 and not an HTTP proxy, because curl tunnels plain http through it too: there is one protocol,
//! and nothing of HTTP to parse. A password that is made for each pull keeps other processes out.
//!
//! Whatever is refused or cannot be reached gets one answer, so callers cannot scan the network's ports.
//! The log says why.

mod policy;
mod relay;
mod socks;
pub(crate) mod stall;
#[cfg(test)]
mod tests;
mod upstream;

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use boot::Settings;
use contract::{JobId, RepoUrl};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{io::InspectReader, task::AbortOnDropHandle};

pub use self::{
    policy::{AddressPolicy, AllowedHost},
    relay::connect_for_git,
    upstream::UpstreamProxy,
};

use self::{policy::Target, socks::SocksRequest};

/// Where the relay finds the connector: `SECRET@ADDRESS`.
const CONNECTOR_VARIABLE: &str = "WORKFLOW_STACK_CONNECTOR";
/// The path of the relay's program.
const RELAY_VARIABLE: &str = "WORKFLOW_STACK_RELAY";
/// How long a client has to say what it wants.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// git needs a handful.
const MOST_CONNECTIONS: usize = 64;

/// What an operator sets of it.
#[derive(Clone, Debug)]
pub struct ConnectorSettings {
    /// Which addresses git may reach.
    pub policy: AddressPolicy,
    /// The proxy that https goes through.
    pub proxy: UpstreamProxy,
    /// A program whose `main` begins with [`connect_for_git`].
    pub relay: PathBuf,
}

/// A SOCKS5 proxy on loopback for the git of one pull. Dropped, it is gone with all its connections.
#[derive(Debug)]
pub(crate) struct Connector {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

/// Why git got no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The host sent git on to this other one.
    OtherHost(String),
    /// The address is not allowed or cannot be reached. Callers are not told which.
    Unreachable,
}

/// Which hosts a command may reach, all of them under the [`AddressPolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// Those of the repositories that the pull is about.
    Asked,
    /// Any: an LFS server may keep its files at hosts of its choice.
    Any,
}

/// What a connection is for. Each has a user name of its own at the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    /// `https`, which goes through the operator's proxy.
    Https,
    /// Plain http, ssh and `git://`.
    Other,
    /// `https` to any host.
    HttpsAnywhere,
    /// Plain http to any host.
    OtherAnywhere,
}

#[derive(Debug)]
struct Shared {
    job: JobId,
    settings: ConnectorSettings,
    secret: String,
    hosts: Mutex<BTreeSet<String>>,
    refusal: Mutex<Option<Refusal>>,
    transferred: AtomicU64,
}

impl Default for ConnectorSettings {
    fn default() -> Self {
        Self {
            policy: AddressPolicy::default(),
            proxy: UpstreamProxy::default(),
            relay: std::env::current_exe().unwrap_or_default(),
        }
    }
}

impl ConnectorSettings {
    /// Reads the settings; what is wrong with them is noted in `settings`.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            policy: AddressPolicy::read(settings),
            proxy: UpstreamProxy::read(settings),
            ..Self::default()
        }
    }
}

impl Connector {
    /// Starts one for `job`. Call it in a runtime.
    ///
    /// # Errors
    /// If there is no port for it.
    pub(crate) async fn start(job: JobId, settings: ConnectorSettings) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            job,
            settings,
            secret: uuid::Uuid::new_v4().simple().to_string(),
            hosts: Mutex::default(),
            refusal: Mutex::default(),
            transferred: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// Lets git connect to the host of `repo`, at any port. No host is allowed before.
    pub(crate) fn permit(&self, repo: &RepoUrl) {
        let host = repo.host();
        let name = match host.rsplit_once(':') {
            Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
            _ => host,
        };
        if let Some(target) = Target::new(name, 0) {
            lock(&self.shared.hosts).insert(target.host);
        }
    }

    /// Connects to a host that this service has chosen itself, under the rules for the addresses of git hosts.
    ///
    /// # Errors
    /// If it is not allowed or cannot be reached; the log says which.
    pub(crate) async fn connect(
        &self,
        host: &str,
        port: u16,
        is_https: bool,
    ) -> io::Result<TcpStream> {
        let target = Target::new(host, port).ok_or(io::ErrorKind::InvalidInput)?;
        let settings = &self.shared.settings;
        let proxy = is_https.then_some(&settings.proxy);
        upstream::connect(&settings.policy, proxy, &target).await.map_err(|why| {
            tracing::warn!(job = %self.shared.job, %target, %why, "there is no connection to a forge");
            io::Error::other("it cannot be reached")
        })
    }

    /// The variables that make git, git-lfs and (by [`ssh_option`](Self::ssh_option)) ssh come here.
    pub(crate) fn environment(&self, hosts: Hosts) -> Vec<(&'static str, String)> {
        let Self { address, shared, .. } = self;
        let secret = &shared.secret;
        let proxy = |user: User| format!("socks5h://{}:{secret}@{address}", user.name());
        let relay = shared.settings.relay.to_string_lossy().into_owned();
        let (https, other) = match hosts {
            Hosts::Asked => (User::Https, User::Other),
            Hosts::Any => (User::HttpsAnywhere, User::OtherAnywhere),
        };
        vec![
            ("HTTPS_PROXY", proxy(https)),
            ("http_proxy", proxy(other)),
            // git takes a path there, and runs it with a host and a port.
            ("GIT_PROXY_COMMAND", relay.clone()),
            (RELAY_VARIABLE, relay),
            (CONNECTOR_VARIABLE, format!("{secret}@{address}")),
        ]
    }

    /// An option of ssh, to stand behind `-o`. Its shell sees only the name of a variable and a host that
    /// `RepoUrl` let through.
    pub(crate) fn ssh_option() -> String {
        format!("ProxyCommand=\"${RELAY_VARIABLE}\" '%h' '%p'")
    }

    /// The program that ssh and git run to come here.
    pub(crate) fn relay(&self) -> &Path {
        &self.shared.settings.relay
    }

    /// The port of loopback that git has to reach.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many bytes have gone to hosts and come from them.
    pub(crate) fn transferred(&self) -> u64 {
        self.shared.transferred.load(Ordering::Relaxed)
    }

    /// Why the last connection that failed did.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        lock(&self.shared.refusal).clone()
    }
}

impl User {
    const ALL: [Self; 4] = [Self::Https, Self::Other, Self::HttpsAnywhere, Self::OtherAnywhere];

    fn name(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Other => "other",
            Self::HttpsAnywhere => "https-anywhere",
            Self::OtherAnywhere => "other-anywhere",
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, it ends the connections.
    let mut connections = tokio::task::JoinSet::new();
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(job = %shared.job, %error, "the connector could not accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            if let Err(error) = shared.serve(stream).await {
                tracing::debug!(job = %shared.job, %error, "a connection of git's broke off");
            }
            drop(place);
        });
    }
}

impl Shared {
    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let request = timeout(GREETING_TIME, socks::accept(&mut stream, &self.secret))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let upstream = match self.connect(&request).await {
            Ok(upstream) => upstream,
            Err(refusal) => {
                *lock(&self.refusal) = Some(refusal);
                return socks::answer(&mut stream, false).await;
            }
        };
        socks::answer(&mut stream, true).await?;
        let count = |bytes: &[u8]| {
            let number = u64::try_from(bytes.len()).unwrap_or_default();
            self.transferred.fetch_add(number, Ordering::Relaxed);
        };
        let mut stream = InspectReader::new(stream, count);
        let mut upstream = InspectReader::new(upstream, count);
        tokio::io::copy_bidirectional(&mut stream, &mut upstream).await.map(drop)
    }

    async fn connect(&self, request: &SocksRequest) -> Result<TcpStream, Refusal> {
        let target = &request.target;
        let user = User::ALL.into_iter().find(|user| user.name() == request.user);
        let is_anywhere = matches!(user, Some(User::HttpsAnywhere | User::OtherAnywhere));
        if !is_anywhere && !lock(&self.hosts).contains(&target.host) {
            tracing::warn!(job = %self.job, %target, "refused a host that the pull did not ask for");
            return Err(Refusal::OtherHost(target.host.clone()));
        }
        let is_https = matches!(user, Some(User::Https | User::HttpsAnywhere));
        let proxy = is_https.then_some(&self.settings.proxy);
        upstream::connect(&self.settings.policy, proxy, target).await.map_err(|why| {
            tracing::warn!(job = %self.job, %target, %why, "git got no connection");
            Refusal::Unreachable
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
