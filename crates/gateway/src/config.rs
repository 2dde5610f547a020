//! The gateway's settings.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use boot::Settings;
use contract::{BearerToken, PerService, Policy, Service, UnknownFields};
use web::{ConnectionLimits, Cors, Tls};
use workspace::Retention;

use crate::{AllowedHosts, read_retention};

/// A replica answers as soon as it has claimed the job.
const DISPATCH_TIME: Duration = Duration::from_secs(15);

/// How many connections are left for health checks, and the other parts on this machine, when others have used up theirs.
const RESERVED_CONNECTIONS: usize = 256;

/// Where the gateway listens, and how long it lets callers wait.
#[derive(Clone, Debug)]
pub struct Config {
    /// `BIND_ADDRESS`
    pub bind: IpAddr,
    /// `PORT_WORKFLOW`, `PORT_PULL`, `PORT_CLAUDE`: one for each service
    pub ports: PerService<u16>,
    /// `WORKSPACE_DIR`
    pub workspace: PathBuf,
    /// How long a replica may take to answer when it is asked to take a job.
    pub dispatch_time: Duration,
    /// `QUEUE_LIMIT`: how many jobs of one service may wait.
    pub queue_limit: usize,
    /// `QUEUE_WAIT_SECONDS`: how long a job may wait, counted from its record. Each job of a workflow has a wait of its
    /// own.
    pub queue_wait: Duration,
    /// What callers may ask for. With `ACCEPT_UNKNOWN_FIELDS`, unknown fields are ignored.
    pub policy: Policy,
    /// `CORS_ALLOW_ORIGIN`
    pub cors: Cors,
    /// `ALLOWED_HOSTS`: the names that the gateway answers to.
    pub allowed_hosts: Option<AllowedHosts>,
    /// `CONNECTION_LIMIT` and `CONNECTIONS_PER_ADDRESS`: of all ports together.
    pub connections: Arc<ConnectionLimits>,
    /// `READERS_PER_JOB`: how many callers may read the events of one job at the same time, besides the one that started
    /// it.
    pub readers_per_job: usize,
    /// How long things are kept on the volume, and how large it may become.
    pub retention: Retention,
    /// `ADMIN_TOKEN_SECRET`: a file with the token of an administrator.
    pub admin_token: Option<BearerToken>,
    /// `ALLOW_ANONYMOUS`: callers without a token are let in although there are tokens.
    pub allow_anonymous: bool,
    /// `STACK_SECRET_FILE`: the secret that all parts of a stack share, and sign their records on the volume with. Without it,
    /// the gateways share one that is on the volume, sign nothing, and believe in replicas that do not know it.
    pub secret_file: Option<PathBuf>,
    /// `TLS_CERT` and `TLS_KEY`: with them, callers on other machines must use https.
    pub tls: Option<Tls>,
    /// `DRAIN`: start draining at once, because the stack began to stop before this gateway was started.
    pub drain: bool,
}

impl Config {
    /// Reads the settings.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let ports = PerService::from_fn(|service| {
            let spec = service.spec();
            settings.port(spec.port_variable, spec.default_port)
        });
        let mut policy = boot::read_policy(settings);
        // Only here: during an update, replicas may get requests from a gateway of a newer version.
        policy.unknown_fields = if settings.flag("ACCEPT_UNKNOWN_FIELDS") {
            UnknownFields::Ignored
        } else {
            UnknownFields::Refused
        };
        Self {
            bind: settings.address("BIND_ADDRESS").unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            ports,
            workspace: settings.text("WORKSPACE_DIR").unwrap_or_else(|| "/workspace".into()).into(),
            dispatch_time: DISPATCH_TIME,
            queue_limit: settings.or("QUEUE_LIMIT", 1000, "a whole number of jobs, such as 1000"),
            queue_wait: settings.seconds("QUEUE_WAIT_SECONDS", 600),
            policy,
            cors: settings.or("CORS_ALLOW_ORIGIN", Cors::default(), Cors::EXPECTED),
            allowed_hosts: settings.optional("ALLOWED_HOSTS", AllowedHosts::EXPECTED),
            connections: Arc::new(
                ConnectionLimits::new(
                    limit(settings, "CONNECTION_LIMIT", "connections", 4096),
                    limit(settings, "CONNECTIONS_PER_ADDRESS", "connections", 64),
                )
                .reserving(RESERVED_CONNECTIONS),
            ),
            readers_per_job: limit(settings, "READERS_PER_JOB", "callers", 1000),
            retention: read_retention(settings),
            admin_token: admin_token(settings),
            allow_anonymous: settings.flag("ALLOW_ANONYMOUS"),
            secret_file: settings.text("STACK_SECRET_FILE").map(PathBuf::from),
            tls: read_tls(settings),
            drain: settings.flag("DRAIN"),
        }
    }

    /// The default settings, on free ports of loopback.
    #[must_use]
    pub fn on_loopback(workspace: &std::path::Path) -> Self {
        let env = std::collections::HashMap::<String, String>::new();
        Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            ports: PerService::default(),
            workspace: workspace.to_owned(),
            ..Self::read(&mut Settings::new(&env))
        }
    }

    /// How callers on other machines speak to the gateway.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The address of the port of `service`.
    #[must_use]
    pub fn address(&self, service: Service) -> SocketAddr {
        SocketAddr::new(self.bind, self.ports[service])
    }
}

fn limit(settings: &mut Settings<'_>, name: &str, unit: &str, default: u32) -> usize {
    let limit = settings.count(name, unit, default).map_or(default, NonZeroU32::get);
    limit.try_into().unwrap_or(usize::MAX)
}

/// Reads `TLS_CERT` and `TLS_KEY`, and the files that they name.
pub fn read_tls(settings: &mut Settings<'_>) -> Option<Tls> {
    const NAMES: [&str; 2] = ["TLS_CERT", "TLS_KEY"];
    let (certificate, key) = match NAMES.map(|name| settings.text(name)) {
        [Some(certificate), Some(key)] => (certificate, key),
        [None, None] => return None,
        [certificate, _] => {
            let [missing, other] =
                if certificate.is_none() { NAMES } else { ["TLS_KEY", "TLS_CERT"] };
            settings.problem(missing, &format!("is not set, but {other} is: set both or neither"));
            return None;
        }
    };
    Tls::load(certificate.into(), key.into())
        .inspect_err(|error| {
            for (name, problem) in NAMES.into_iter().zip([&error.certificate, &error.key]) {
                if let Some(problem) = problem {
                    settings.problem(name, problem);
                }
            }
        })
        .ok()
}

fn admin_token(settings: &mut Settings<'_>) -> Option<BearerToken> {
    const NAME: &str = "ADMIN_TOKEN_SECRET";
    let path = settings.text(NAME)?;
    let problem = match std::fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(token) => return Some(token),
            // The text may be a secret.
            Err(error) => {
                format!("{path} {error}, where <id> has 8 letters or digits and <secret> 43 to 64")
            }
        },
        Err(error) => format!("cannot read {path}: {error}"),
    };
    settings.problem(NAME, &problem);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_needs_both_files_and_names_each_that_is_wrong() {
        let file = |name: &str| format!("{}/../web/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"));
        let read = |certificate: &str, key: &str| {
            let pairs = [("TLS_CERT", certificate), ("TLS_KEY", key)];
            let env: std::collections::HashMap<_, _> =
                pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            let mut settings = Settings::new(&env);
            let tls = read_tls(&mut settings);
            let problems = settings.finish().map_or_else(|error| error.problems, |()| Vec::new());
            assert_eq!(tls.is_none(), !problems.is_empty() || certificate.is_empty());
            let names = problems.iter().map(|it| it.split(':').next().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        let (certificate, key) = (&*file("first.pem"), &*file("first.key.pem"));
        assert_eq!(read("", ""), [""; 0]);
        assert_eq!(read(certificate, key), [""; 0]);
        assert_eq!(read(certificate, ""), ["TLS_KEY"]);
        assert_eq!(read("", key), ["TLS_CERT"]);
        assert_eq!(read(certificate, &file("second.key.pem")), ["TLS_KEY"]);
        assert_eq!(read("/nonexistent", "/nonexistent"), ["TLS_CERT", "TLS_KEY"]);
    }

    #[test]
    fn unknown_fields_are_refused_unless_the_operator_accepts_them() {
        let read = |value: Option<&str>| {
            let pair = value.map(|value| ("ACCEPT_UNKNOWN_FIELDS".to_owned(), value.to_owned()));
            let env: std::collections::HashMap<_, _> = pair.into_iter().collect();
            let mut settings = Settings::new(&env);
            let unknown_fields = Config::read(&mut settings).policy.unknown_fields;
            settings.finish().map(|()| unknown_fields).ok()
        };
        assert_eq!(read(None), Some(UnknownFields::Refused));
        assert_eq!(read(Some("0")), Some(UnknownFields::Refused));
        assert_eq!(read(Some("1")), Some(UnknownFields::Ignored));
        assert_eq!(read(Some("perhaps")), None);
    }
}
