//! The settings of every replica.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

use boot::Settings;
use contract::{ReplicaId, Service};
use web::Cors;

use crate::Advertise;

/// Long enough for a pull to move the files of a large checkout into place, and shorter than a container's stop
/// timeout.
const STOP_BUDGET: Duration = Duration::from_secs(15);

/// Where a replica listens and works, and how it stops.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// `BIND_ADDRESS` and `PORT`. Port 0 means any free port.
    pub bind: SocketAddr,
    /// `ADVERTISE_ADDRESS` or `ADVERTISE_TOWARDS`: the address at which the gateway reaches this replica.
    pub advertise: Advertise,
    /// `WORKSPACE_DIR`
    pub workspace: PathBuf,
    /// `GRACE_SECONDS`: how long a job may continue after the replica is told to stop. `None`: until the job's own
    /// deadline.
    pub grace: Option<Duration>,
    /// How long a job may take to end after a stop was requested. The time limits of its parts must fit into this.
    pub stop_budget: Duration,
    /// `JOURNAL_LIMIT_MIB`: the maximum size of a job's journal, in bytes.
    pub journal_limit: u64,
    /// `STACK_SECRET_FILE`: the secret that all parts of a stack share, and sign their records on the volume with. Without it,
    /// the replica takes a job from anyone who can reach it, and signs nothing.
    pub secret_file: Option<PathBuf>,
    /// `CORS_ALLOW_ORIGIN`
    pub cors: Cors,
    /// `REPLICA_ID`: set by a supervisor to recognize the replica.
    pub id: ReplicaId,
}

impl ReplicaConfig {
    /// Reads the settings.
    pub fn read(settings: &mut Settings<'_>, service: Service) -> Self {
        let address = settings.address("BIND_ADDRESS").unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let port = settings.port("PORT", service.default_port());
        let grace = settings.text("GRACE_SECONDS").map(|_| settings.seconds("GRACE_SECONDS", 60));
        Self {
            bind: SocketAddr::new(address, port),
            advertise: Advertise::read(settings),
            workspace: settings.text("WORKSPACE_DIR").unwrap_or_else(|| "/workspace".into()).into(),
            grace,
            stop_budget: STOP_BUDGET,
            journal_limit: u64::from(
                settings.count("JOURNAL_LIMIT_MIB", "MiB", 1024).map_or(1024, NonZeroU32::get),
            ) << 20,
            secret_file: settings.text("STACK_SECRET_FILE").map(PathBuf::from),
            cors: settings.or("CORS_ALLOW_ORIGIN", Cors::default(), Cors::EXPECTED),
            id: settings
                .optional("REPLICA_ID", "a replica id (a UUID)")
                .unwrap_or_else(ReplicaId::new),
        }
    }
}
