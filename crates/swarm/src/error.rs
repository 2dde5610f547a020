//! Why the Swarm has no answer.

use transcript::one_line;

/// The longest sentence of an engine that is shown, in characters.
const SENTENCE: usize = 400;

/// Why the Swarm has no answer. Each message says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers there.
    #[error(
        "no Docker Engine answers at {host} ({why}): start it (`sudo systemctl start docker`), or name another one with DOCKER_HOST"
    )]
    NoEngine {
        /// Its address.
        host: String,
        /// What happened.
        why: String,
    },
    /// The socket belongs to others.
    #[error(
        "this user may not use {host}: run this as root, or join the group (`sudo usermod -aG docker $USER`, then log in again)"
    )]
    NotAllowed {
        /// Its address.
        host: String,
    },
    /// An address that cannot be used from here.
    #[error(
        "DOCKER_HOST={0} is not supported: use unix://, or tcp:// without TLS; for a host that you reach by SSH, forward its socket (`ssh -L /tmp/docker.sock:/var/run/docker.sock host`)"
    )]
    Scheme(String),
    /// The engine stands alone.
    #[error(
        "the engine at {host} is not in a Swarm: `./deploy-swarm.sh` creates one and deploys the stack"
    )]
    NoSwarm {
        /// Its address.
        host: String,
    },
    /// Only managers know what runs.
    #[error(
        "the engine at {host} is a worker of its Swarm: run this on a manager{managers}, or name one with DOCKER_HOST"
    )]
    NotManager {
        /// Its address.
        host: String,
        /// Some managers, in brackets, or nothing.
        managers: String,
    },
    /// The Swarm runs no such stack.
    #[error(
        "there is no stack '{stack}' on this Swarm{others}: deploy it with `./deploy-swarm.sh --stack {stack}`, or name another one with --stack"
    )]
    NoStack {
        /// Its name.
        stack: String,
        /// The stacks that there are, in brackets, or nothing.
        others: String,
    },
    /// The stack was deployed without this service.
    #[error("the stack '{stack}' has no service {service}")]
    NoService {
        /// The stack's name.
        stack: String,
        /// The service's.
        service: String,
    },
    /// The engine refused.
    #[error("failed to {doing}: the engine answered: {why}")]
    Refused {
        /// What was asked for.
        doing: &'static str,
        /// Its sentence.
        why: String,
    },
}

impl Error {
    /// What an error of a request means.
    pub(crate) fn refused(doing: &'static str, error: &bollard::errors::Error) -> Self {
        let why = match error {
            bollard::errors::Error::DockerResponseServerError { message, .. } => message.clone(),
            other => transcript::chain(other),
        };
        Self::Refused { doing, why: one_line(&why, SENTENCE) }
    }

    /// What it means that an engine cannot be asked at all.
    pub(crate) fn unreachable(host: &str, error: &bollard::errors::Error) -> Self {
        let host = one_line(host, SENTENCE);
        let why = match error {
            bollard::errors::Error::UnsupportedURISchemeError { .. } => return Self::Scheme(host),
            bollard::errors::Error::SocketNotFoundError(_) => "there is no such socket".to_owned(),
            other => transcript::chain(other),
        };
        if why.contains("ermission denied") {
            return Self::NotAllowed { host };
        }
        Self::NoEngine { host, why: one_line(&why, SENTENCE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_not_there_says_what_to_do() {
        let of = |host: &str| {
            let error = bollard::Docker::connect_with_host(host).unwrap_err();
            Error::unreachable(host, &error).to_string()
        };
        let error = of("unix:///nonexistent/docker.sock");
        assert!(error.contains("no such socket") && error.contains("systemctl"), "{error}");
        let error = of("ssh://host");
        assert!(error.contains("DOCKER_HOST=ssh://host"), "{error}");
    }
}
