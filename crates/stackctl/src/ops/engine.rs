//! The Docker Engine, as far as a stack on a Swarm needs it.

use std::{collections::HashMap, time::Duration};

use bollard::{
    Docker,
    errors::Error,
    models::{ContainerStatsResponse, LocalNodeState, Node, Service, SwarmInfo, Task},
    query_parameters::{
        InspectServiceOptions, ListNodesOptions, ListServicesOptionsBuilder,
        ListTasksOptionsBuilder, StatsOptionsBuilder, UpdateServiceOptionsBuilder,
    },
};
use futures_util::StreamExt as _;

use super::error::OpsError;
use crate::client::one_line;

/// Every object of a stack has it, with the stack's name.
const NAMESPACE: &str = "com.docker.stack.namespace";
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// How long the engine may take to say whether it is there.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// How long it may take for one container's numbers: it measures for a second or two.
const STATS_TIME: Duration = Duration::from_secs(8);
/// How often an update is tried again when somebody else was faster.
const UPDATES: usize = 20;
/// The longest sentence of the engine that is shown.
const SENTENCE: usize = 400;

/// A stack on a Swarm, through a manager's engine.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) docker: Docker,
    pub(crate) host: String,
    pub(crate) stack: String,
    /// This engine's node.
    pub(crate) node: String,
}

impl Engine {
    /// The stack of that name.
    ///
    /// # Errors
    /// If there is no engine, no Swarm, no manager or no such stack.
    pub(crate) async fn connect(stack: &str) -> Result<Self, OpsError> {
        let host = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        let host = host.unwrap_or_else(|| DEFAULT_HOST.to_owned());
        let unreachable = |error: Error| explain(&host, &error);
        let docker = Docker::connect_with_host(&host).map_err(unreachable)?;
        let hello = async {
            let docker = docker.negotiate_version().await?;
            let info = docker.info().await?;
            Ok::<_, Error>((docker, info))
        };
        let (docker, info) = match tokio::time::timeout(HELLO_TIME, hello).await {
            Ok(answer) => answer.map_err(unreachable)?,
            Err(_) => {
                let why = format!("nothing came for {} s", HELLO_TIME.as_secs());
                return Err(OpsError::NoEngine { host, why });
            }
        };
        let swarm = info.swarm.unwrap_or_default();
        is_manager(&host, &swarm)?;
        let node = swarm.node_id.unwrap_or_default();
        let engine = Self { docker, host, stack: stack.to_owned(), node };
        if engine.services().await?.is_empty() {
            return Err(engine.no_stack().await);
        }
        Ok(engine)
    }

    /// The services of the stack.
    pub(crate) async fn services(&self) -> Result<Vec<Service>, OpsError> {
        let options = ListServicesOptionsBuilder::new().filters(&self.of_stack()).build();
        let services = self.docker.list_services(Some(options)).await;
        services.map_err(|error| failed("list the services", &error))
    }

    /// The tasks of the stack, those of the past too, as far as the Swarm remembers.
    pub(crate) async fn tasks(&self) -> Result<Vec<Task>, OpsError> {
        let options = ListTasksOptionsBuilder::new().filters(&self.of_stack()).build();
        let tasks = self.docker.list_tasks(Some(options)).await;
        tasks.map_err(|error| failed("list the tasks", &error))
    }

    /// The nodes of the Swarm.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, OpsError> {
        let nodes = self.docker.list_nodes(None::<ListNodesOptions>).await;
        nodes.map_err(|error| failed("list the nodes", &error))
    }

    /// How many tasks of the past each slot keeps.
    pub(crate) async fn history_limit(&self) -> usize {
        let spec = self.docker.inspect_swarm().await.ok().and_then(|swarm| swarm.spec);
        let limit = spec.and_then(|it| it.orchestration?.task_history_retention_limit);
        limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(5)
    }

    /// What these containers use, by id. One that is gone meanwhile is left out.
    pub(crate) async fn stats(&self, ids: Vec<String>) -> HashMap<String, ContainerStatsResponse> {
        let ask = |id: String| async move {
            let options = StatsOptionsBuilder::new().stream(false).one_shot(false).build();
            let mut stats = Box::pin(self.docker.stats(&id, Some(options)));
            let first = tokio::time::timeout(STATS_TIME, stats.next()).await.ok().flatten();
            Some((id, first?.ok()?))
        };
        let answers = futures_util::stream::iter(ids.into_iter().map(ask)).buffer_unordered(64);
        answers.filter_map(|answer| async { answer }).collect().await
    }

    /// Sets how many replicas a service has, whoever else changes it at the same time. Returns how many it had.
    pub(crate) async fn scale(&self, service: &str, replicas: i64) -> Result<i64, OpsError> {
        const DOING: &str = "change the service";
        let mut last = None;
        for _ in 0..UPDATES {
            let inspected =
                self.docker.inspect_service(service, None::<InspectServiceOptions>).await;
            let now = inspected.map_err(|error| failed(DOING, &error))?;
            let index = now.version.and_then(|version| version.index).unwrap_or_default();
            let version = i32::try_from(index).map_err(|_| OpsError::Engine {
                doing: DOING,
                why: "its version is too high".into(),
            })?;
            let mut spec = now.spec.unwrap_or_default();
            let mode = spec.mode.as_mut().and_then(|mode| mode.replicated.as_mut());
            let Some(mode) = mode else {
                let why = format!("{service} runs on every node, and has no number of replicas");
                return Err(OpsError::Engine { doing: DOING, why });
            };
            let had = mode.replicas.replace(replicas).unwrap_or_default();
            if had == replicas {
                return Ok(had);
            }
            let options = UpdateServiceOptionsBuilder::new().version(version).build();
            match self.docker.update_service(service, spec, options, None).await {
                Ok(_) => return Ok(had),
                Err(error) if is_out_of_sequence(&error) => last = Some(error),
                Err(error) => return Err(failed(DOING, &error)),
            }
        }
        Err(match last {
            Some(error) => failed(DOING, &error),
            None => OpsError::Engine { doing: DOING, why: "it changes all the time".into() },
        })
    }

    /// A service's name without the stack's.
    pub(crate) fn short_name(&self, service: &Service) -> String {
        let name = service.spec.as_ref().and_then(|spec| spec.name.clone()).unwrap_or_default();
        let short = name.strip_prefix(&self.stack).and_then(|rest| rest.strip_prefix('_'));
        short.unwrap_or(&name).to_owned()
    }

    fn of_stack(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".to_owned(), vec![format!("{NAMESPACE}={}", self.stack)])])
    }

    async fn no_stack(&self) -> OpsError {
        let filters = HashMap::from([("label", vec![NAMESPACE])]);
        let options = ListServicesOptionsBuilder::new().filters(&filters).build();
        let all = self.docker.list_services(Some(options)).await.unwrap_or_default();
        let label = |service: Service| service.spec?.labels?.get(NAMESPACE).cloned();
        let mut names: Vec<_> = all.into_iter().filter_map(label).collect();
        names.sort_unstable();
        names.dedup();
        let others = if names.is_empty() {
            String::new()
        } else {
            format!(" (there are: {})", one_line(&names.join(", "), SENTENCE))
        };
        OpsError::NoStack { stack: self.stack.clone(), others }
    }
}

fn is_manager(host: &str, swarm: &SwarmInfo) -> Result<(), OpsError> {
    let host = host.to_owned();
    match swarm.local_node_state {
        Some(LocalNodeState::ACTIVE) if swarm.control_available == Some(true) => Ok(()),
        Some(LocalNodeState::ACTIVE) => {
            let managers =
                swarm.remote_managers.iter().flatten().filter_map(|it| it.addr.as_deref());
            let managers = managers.map(|it| one_line(it, 60)).collect::<Vec<_>>().join(", ");
            let managers =
                if managers.is_empty() { managers } else { format!(" (one of {managers})") };
            Err(OpsError::NotManager { host, managers })
        }
        _ => Err(OpsError::NoSwarm { host }),
    }
}

fn is_out_of_sequence(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { message, .. } if message.contains("out of sequence"))
}

/// What an error of the engine means for an operator.
pub(super) fn failed(doing: &'static str, error: &Error) -> OpsError {
    let why = match error {
        Error::DockerResponseServerError { message, .. } => message.clone(),
        other => crate::client::chain(other),
    };
    OpsError::Engine { doing, why: one_line(&why, SENTENCE) }
}

fn explain(host: &str, error: &Error) -> OpsError {
    let host = one_line(host, SENTENCE);
    let why = match error {
        Error::UnsupportedURISchemeError { .. } => return OpsError::Scheme(host),
        Error::SocketNotFoundError(_) => "there is no such socket".to_owned(),
        other => crate::client::chain(other),
    };
    if why.contains("ermission denied") {
        return OpsError::NotAllowed { host };
    }
    OpsError::NoEngine { host, why: one_line(&why, SENTENCE) }
}

#[cfg(test)]
mod tests {
    use bollard::models::PeerNode;

    use super::*;

    #[test]
    fn who_can_be_asked() {
        let manager = SwarmInfo {
            local_node_state: Some(LocalNodeState::ACTIVE),
            control_available: Some(true),
            ..Default::default()
        };
        assert!(is_manager("h", &manager).is_ok());
        let worker = SwarmInfo {
            control_available: Some(false),
            remote_managers: Some(vec![PeerNode {
                node_id: None,
                addr: Some("10.0.0.1:2377\x1b[31m".into()),
            }]),
            ..manager
        };
        let error = is_manager("h", &worker).unwrap_err().to_string();
        assert!(error.contains("worker") && error.contains("(one of 10.0.0.1:2377)"), "{error}");
        let error = is_manager("h", &SwarmInfo::default()).unwrap_err().to_string();
        assert!(error.contains("./deploy-swarm.sh"), "{error}");
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_says_what_to_do() {
        let docker = Docker::connect_with_host("unix:///nonexistent/docker.sock").unwrap_err();
        let error = explain("unix:///nonexistent/docker.sock", &docker).to_string();
        assert!(error.contains("no such socket") && error.contains("systemctl"), "{error}");
        let docker = Docker::connect_with_host("ssh://host").unwrap_err();
        let error = explain("ssh://host", &docker).to_string();
        assert!(error.contains("DOCKER_HOST=ssh://host"), "{error}");
    }
}
