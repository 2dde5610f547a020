//! How a gateway starts and stops.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use boot::{Exit, Logging, ProcessEnv, Settings, Signal, SignalListener};
use contract::{PerService, Service};
use tokio_util::task::AbortOnDropHandle;
use web::Server;

use crate::{
    Config, callers, dispatch, lifecycle::Lifecycle, recover, retention, routes, shared::Shared,
};

/// How long the end of the audit log may take to be written.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("use the workspace")]
    Workspace(#[from] workspace::Error),
    #[error("listen on {address}: {error}; set {variable} or BIND_ADDRESS to another")]
    Listen { address: SocketAddr, error: io::Error, variable: &'static str },
}

/// A running gateway. Dropping it closes its listeners and cuts its streams; jobs continue.
pub struct Gateway {
    shared: Arc<Shared>,
    servers: PerService<Server>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Takes over the jobs that it finds on the volume, and then listens.
    ///
    /// # Errors
    /// If the volume cannot be used or a port is taken.
    pub async fn start(config: Config) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self::open(config).await?)
    }

    async fn open(config: Config) -> Result<Self, StartError> {
        // The ports first: a gateway that cannot have them should not take over any jobs.
        let listeners = PerService::try_from_fn(|service| {
            let address = config.address(service);
            let listener = web::bind(address).map_err(|error| StartError::Listen {
                address,
                error,
                variable: service.spec().port_variable,
            })?;
            Ok::<_, StartError>((service, listener))
        })?;
        let addresses = PerService::from_fn(|service| listeners[service].1.address());
        let shared = Arc::new(Shared::open(config, addresses)?);
        recover::at_start(&shared).await?;
        let dispatchers =
            Service::ALL.map(|service| tokio::spawn(dispatch::run(Arc::clone(&shared), service)));
        let recovery = tokio::spawn(recover::run(Arc::clone(&shared)));
        let retention = tokio::spawn(retention::run(Arc::clone(&shared)));
        let callers = tokio::spawn(callers::run(Arc::clone(&shared)));
        let auditing = Arc::clone(&shared);
        let audit = tokio::spawn(async move {
            auditing.audit.write(auditing.workspace.audit()).await;
        });
        let tls = shared.config.tls.clone();
        let renewal = tls.clone().map(|tls| tokio::spawn(tls.follow_files()));
        let tasks = dispatchers
            .into_iter()
            .chain([recovery, retention, callers, audit])
            .chain(renewal)
            .map(AbortOnDropHandle::new)
            .collect();
        let limits = Arc::clone(&shared.config.connections);
        let servers = listeners.map(|(service, listener)| {
            let scheme = shared.config.scheme();
            tracing::info!(%service, address = %listener.address(), scheme, "listening");
            let routes = routes::router(&shared, service);
            Server::start_limited(listener.with_tls(tls.clone()), routes, Arc::clone(&limits))
        });
        Ok(Self { shared, servers, _tasks: tasks })
    }

    /// Where the port of `service` is.
    #[must_use]
    pub fn address(&self, service: Service) -> SocketAddr {
        self.servers[service].address()
    }

    /// Accepts no more jobs except those of running workflows.
    pub fn drain(&self) {
        self.shared.lifecycle.advance(Lifecycle::Draining);
    }

    /// Closes the listeners and cuts the streams. Jobs continue without it.
    pub async fn stop(mut self) {
        self.shared.lifecycle.advance(Lifecycle::Stopping);
        for (_, server) in self.servers.iter_mut() {
            server.close_listener().await;
        }
        self.shared.audit.flush(FLUSH_TIME).await;
    }
}

/// Runs the gateway, from its environment to its exit. The whole of its `main`.
pub fn main() -> Exit {
    boot::keep_files_private();
    let env = ProcessEnv;
    let mut settings = Settings::new(&env);
    let logging = Logging::read(&mut settings);
    let config = Config::read(&mut settings);
    if let Err(error) = settings.finish() {
        eprintln!("gateway: {error}");
        return Exit::Usage.delayed_in_container();
    }
    // Held until the end: the last lines are written then.
    let _logs = match logging.init() {
        Ok(logs) => logs,
        Err(error) => {
            eprintln!("gateway: cannot start threads: {error}");
            return Exit::Failed;
        }
    };
    boot::raise_file_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("gateway: cannot start threads: {error}");
            return Exit::Failed;
        }
    };
    let exit = runtime.block_on(async {
        let mut signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "cannot listen for signals");
                return Exit::Failed;
            }
        };
        let gateway = match Gateway::open(config).await {
            Ok(gateway) => gateway,
            Err(error) => {
                let mut text = format!("cannot start: {error}");
                let mut cause = std::error::Error::source(&error);
                while let Some(error) = cause {
                    text = format!("{text}: {error}");
                    cause = error.source();
                }
                tracing::error!("{text}");
                return Exit::Unavailable.delayed_in_container();
            }
        };
        while signals.next().await == Lifecycle::Draining {
            tracing::info!("draining: no more jobs are accepted");
            gateway.drain();
        }
        tracing::info!("stopping: jobs continue, and callers may reconnect");
        gateway.stop().await;
        Exit::Ok
    });
    runtime.shutdown_background();
    exit
}

struct Signals {
    /// SIGUSR1.
    drain: SignalListener,
    /// SIGTERM, SIGINT, SIGHUP.
    stop: [SignalListener; 3],
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let stop = [
            SignalListener::new(Signal::SIGTERM)?,
            SignalListener::new(Signal::SIGINT)?,
            SignalListener::new(Signal::SIGHUP)?,
        ];
        Ok(Self { drain: SignalListener::new(Signal::SIGUSR1)?, stop })
    }

    /// What the next signal asks for.
    async fn next(&mut self) -> Lifecycle {
        let [terminate, interrupt, hangup] = &mut self.stop;
        tokio::select! {
            () = terminate.recv() => Lifecycle::Stopping,
            () = interrupt.recv() => Lifecycle::Stopping,
            () = hangup.recv() => Lifecycle::Stopping,
            () = self.drain.recv() => Lifecycle::Draining,
        }
    }
}
