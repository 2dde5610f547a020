//! The engine that is asked.

use std::{future::Future, time::Duration};

use bollard::{
    Docker,
    models::{LocalNodeState, SwarmInfo},
};
use transcript::one_line;

use crate::Error;

const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// How long the engine may take for its first answer.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// An engine, by its address.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) docker: Docker,
    pub(crate) host: String,
}

impl Engine {
    /// The one that `host`, the value of `DOCKER_HOST`, names, or else the one of this machine.
    pub(crate) fn at(host: Option<String>) -> Result<Self, Error> {
        let host = host.filter(|host| !host.is_empty()).unwrap_or_else(|| DEFAULT_HOST.to_owned());
        let docker =
            Docker::connect_with_host(&host).map_err(|error| Error::unreachable(&host, &error))?;
        Ok(Self { docker, host })
    }

    /// The first question to it, which may not be answered.
    pub(crate) async fn hello<T>(
        &self,
        question: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, Error> {
        let answer = tokio::time::timeout(HELLO_TIME, question).await;
        let answer = answer.map_err(|_| Error::NoEngine {
            host: self.host.clone(),
            why: format!("no answer within {} s", HELLO_TIME.as_secs()),
        })?;
        answer.map_err(|error| Error::unreachable(&self.host, &error))
    }

    /// Whether this engine knows the whole Swarm.
    pub(crate) fn check_manager(&self, swarm: &SwarmInfo) -> Result<(), Error> {
        let host = self.host.clone();
        match swarm.local_node_state {
            Some(LocalNodeState::ACTIVE) if swarm.control_available == Some(true) => Ok(()),
            Some(LocalNodeState::ACTIVE) => {
                let managers =
                    swarm.remote_managers.iter().flatten().filter_map(|it| it.addr.as_deref());
                let managers = managers.map(|it| one_line(it, 60)).collect::<Vec<_>>().join(", ");
                let managers =
                    if managers.is_empty() { managers } else { format!(" (one of {managers})") };
                Err(Error::NotManager { host, managers })
            }
            _ => Err(Error::NoSwarm { host }),
        }
    }
}

/// The version of the engine at `host`, the value of `DOCKER_HOST`, or else of the one of this machine.
///
/// # Errors
/// If it does not answer.
pub async fn version(host: Option<String>) -> Result<String, Error> {
    let engine = Engine::at(host)?;
    let version = engine.hello(engine.docker.version()).await?.version;
    let silent = || Error::NoEngine {
        host: engine.host.clone(),
        why: "what answers does not say its version".to_owned(),
    };
    version.map(|version| one_line(&version, 60)).ok_or_else(silent)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixListener,
        thread,
    };

    use bollard::models::PeerNode;

    use super::*;

    #[tokio::test]
    async fn only_a_manager_can_be_asked() {
        let engine = Engine::at(Some("tcp://127.0.0.1:1".into())).unwrap();
        let manager = SwarmInfo {
            local_node_state: Some(LocalNodeState::ACTIVE),
            control_available: Some(true),
            ..Default::default()
        };
        assert!(engine.check_manager(&manager).is_ok());
        let worker = SwarmInfo {
            control_available: Some(false),
            remote_managers: Some(vec![PeerNode {
                node_id: None,
                addr: Some("10.0.0.1:2377\x1b[31m".into()),
            }]),
            ..manager
        };
        let error = engine.check_manager(&worker).unwrap_err().to_string();
        assert!(error.contains("worker") && error.contains("(one of 10.0.0.1:2377)"), "{error}");
        let error = engine.check_manager(&SwarmInfo::default()).unwrap_err().to_string();
        assert!(error.contains("./deploy-swarm.sh"), "{error}");
    }

    #[tokio::test]
    async fn the_version_is_asked_at_the_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        let host = format!("unix://{}", path.display());
        let ask = || version(Some(host.clone()));
        assert!(matches!(ask().await, Err(Error::NoEngine { .. })));
        assert!(matches!(version(Some("ssh://h".into())).await, Err(Error::Scheme(_))));
        let listener = UnixListener::bind(&path).unwrap();
        let answers =
            ["200 OK\r\nContent-Length: 18\r\n\r\n{\"Version\":\"28.1\"}", "500 Oh\r\n\r\nno"];
        let server = thread::spawn(move || {
            for answer in answers {
                let (mut socket, _) = listener.accept().unwrap();
                let mut request = [0; 1000];
                let read = socket.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                assert!(request.starts_with("GET ") && request.contains("/version"), "{request}");
                socket.write_all(format!("HTTP/1.1 {answer}").as_bytes()).unwrap();
            }
        });
        assert_eq!(ask().await.unwrap(), "28.1");
        assert!(matches!(ask().await, Err(Error::NoEngine { .. })));
        server.join().unwrap();
        // The socket is still there, and nobody listens.
        assert!(matches!(ask().await, Err(Error::NoEngine { .. })));
    }
}
