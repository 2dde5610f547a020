//! The settings every replica has.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

use boot::Settings;
use contract::{ReplicaId, Service};
use web::Cors;

/// Where a replica listens and works, and how it stops.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// `BIND_ADDRESS` and `PORT`; port 0 is any free one.
    pub bind: SocketAddr,
    /// `ADVERTISE_ADDRESS`: the address by which the gateway reaches this replica.
    pub advertise: Option<IpAddr>,
    /// `WORKSPACE_DIR`
    pub workspace: PathBuf,
    /// `GRACE_SECONDS`: how long a job goes on after the replica is told to stop. `None`: until its own
    /// deadline.
    pub grace: Option<Duration>,
    /// `JOURNAL_LIMIT_MIB`, in bytes: how long the journal of a job may grow.
    pub journal_limit: u64,
    /// `CORS_ALLOW_ORIGIN`
    pub cors: Cors,
    /// `REPLICA_ID`: given by whoever starts the replica and wants to know it again.
    pub id: ReplicaId,
}

impl ReplicaConfig {
    /// Reads the settings.
    pub fn read(settings: &mut Settings<'_>, service: Service) -> Self {
        let address = settings.or("BIND_ADDRESS", IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let port = settings.or("PORT", service.default_port());
        let grace = settings.text("GRACE_SECONDS").map(|_| settings.seconds("GRACE_SECONDS", 1));
        Self {
            bind: SocketAddr::new(address, port),
            advertise: settings.optional("ADVERTISE_ADDRESS"),
            workspace: settings.text("WORKSPACE_DIR").unwrap_or_else(|| "/workspace".into()).into(),
            grace,
            journal_limit: u64::from(
                settings
                    .or("JOURNAL_LIMIT_MIB", NonZeroU32::new(1024).unwrap_or(NonZeroU32::MAX))
                    .get(),
            ) << 20,
            cors: settings.or("CORS_ALLOW_ORIGIN", Cors::default()),
            id: settings.optional("REPLICA_ID").unwrap_or_else(ReplicaId::new),
        }
    }

    /// What the registry says: the address others reach `bound` by.
    #[must_use]
    pub fn advertised(&self, bound: SocketAddr) -> SocketAddr {
        let address = self.advertise.unwrap_or_else(|| {
            if bound.ip().is_unspecified() {
                source_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
            } else {
                bound.ip()
            }
        });
        SocketAddr::new(address, bound.port())
    }
}

/// The address this machine speaks from. Connecting a UDP socket sends nothing; it only picks a route.
/// 192.0.2.1 is reserved for documentation (RFC 5737), so the route is the default one.
fn source_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
