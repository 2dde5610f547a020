//! A stack on a Swarm.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use bollard::{
    models::{self, ContainerStatsResponse, Node, Task},
    query_parameters::{
        InspectServiceOptions, ListNodesOptions, ListServicesOptionsBuilder,
        ListTasksOptionsBuilder, StatsOptionsBuilder, UpdateServiceOptionsBuilder,
    },
};
use contract::Timestamp;
use futures_util::StreamExt as _;
use transcript::one_line;

use crate::{
    Error, ScaleProgress, Scaling, View,
    engine::Engine,
    task,
    view::{Answers, view},
};

/// Every object of a stack has it, with the stack's name.
const NAMESPACE: &str = "com.docker.stack.namespace";
/// How long an engine may take for one container's numbers: it measures for a second or two.
const STATS_TIME: Duration = Duration::from_secs(8);
/// How often an update is tried again when somebody else was faster.
const UPDATES: usize = 20;
/// The stop grace period of a service that does not set one.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// A stack on a Swarm, through a manager's engine.
#[derive(Clone, Debug)]
pub struct Stack {
    pub(crate) engine: Engine,
    name: String,
    /// The engine's own node.
    node: String,
}

/// A service of a stack.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name without the stack's.
    pub name: String,
    pub(crate) id: String,
    pub(crate) raw: models::Service,
}

impl Service {
    /// How long a replica may take to leave before the Swarm kills it.
    #[must_use]
    pub fn stop_grace_period(&self) -> Duration {
        let spec = self.raw.spec.as_ref().and_then(|spec| spec.task_template.as_ref());
        let container = spec.and_then(|template| template.container_spec.as_ref());
        let nanoseconds =
            container.and_then(|it| it.stop_grace_period).and_then(|it| u64::try_from(it).ok());
        nanoseconds.map_or(DEFAULT_GRACE, Duration::from_nanos)
    }

    /// Whether this variable is set in its containers, and not empty.
    #[must_use]
    pub fn sets(&self, variable: &str) -> bool {
        let spec = self.raw.spec.as_ref().and_then(|spec| spec.task_template.as_ref());
        let container = spec.and_then(|template| template.container_spec.as_ref());
        let environment = container.and_then(|it| it.env.as_ref()).into_iter().flatten();
        let mut pairs = environment.filter_map(|pair| pair.split_once('='));
        pairs.any(|(name, value)| name == variable && !value.is_empty())
    }

    /// The port that the Swarm publishes for this port of the container, if it does.
    #[must_use]
    pub fn published_port(&self, target: u16) -> Option<u16> {
        let ports = self.raw.endpoint.as_ref()?.ports.as_ref()?;
        let port = ports.iter().find(|port| port.target_port == Some(target.into()))?;
        u16::try_from(port.published_port?).ok()
    }
}

impl Stack {
    /// The stack of that name, at the engine that `DOCKER_HOST` names or else at the one of this machine.
    ///
    /// # Errors
    /// If there is no engine, no Swarm, no manager or no such stack.
    pub async fn connect(name: &str) -> Result<Self, Error> {
        let mut engine = Engine::at(std::env::var("DOCKER_HOST").ok())?;
        let hello = async {
            let docker = engine.docker.clone().negotiate_version().await?;
            let info = docker.info().await?;
            Ok((docker, info))
        };
        let (docker, info) = engine.hello(hello).await?;
        engine.docker = docker;
        let swarm = info.swarm.unwrap_or_default();
        engine.check_manager(&swarm)?;
        let node = swarm.node_id.unwrap_or_default();
        let stack = Self { engine, name: name.to_owned(), node };
        if stack.services().await?.is_empty() {
            return Err(stack.no_stack().await);
        }
        Ok(stack)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of the engine.
    #[must_use]
    pub fn engine(&self) -> &str {
        &self.engine.host
    }

    /// The machine on which the Swarm publishes its ports for us: the engine's.
    #[must_use]
    pub fn host(&self) -> &str {
        let remote = self.engine.host.strip_prefix("tcp://").and_then(|it| it.rsplit_once(':'));
        remote.map_or("127.0.0.1", |(host, _)| host)
    }

    /// Whether the engine is on this machine, as far as its address tells.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let host = self.host().trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// What runs at the moment.
    ///
    /// # Errors
    /// If the engine refuses to say.
    pub async fn view(&self) -> Result<View, Error> {
        let (services, tasks, nodes, history_limit) =
            tokio::join!(self.services(), self.tasks(), self.nodes(), self.history_limit());
        let tasks = tasks?;
        let is_here = |task: &&Task| task.node_id.as_deref() == Some(&self.node);
        let containers = tasks.iter().filter(is_here).filter_map(|task| {
            let runs = task::state(task) == Some(models::TaskState::RUNNING);
            task::container(task).filter(|_| runs).map(str::to_owned)
        });
        let stats = self.stats(containers.collect()).await;
        let answers = Answers { services: services?, tasks, nodes: nodes?, stats, history_limit };
        Ok(view(&answers, Timestamp::now()))
    }

    /// Looks at the services that are being scaled. The results are in the same order.
    ///
    /// # Errors
    /// If the engine refuses to say.
    pub async fn look(&self, scalings: &mut [Scaling]) -> Result<Vec<ScaleProgress>, Error> {
        let tasks = self.tasks().await?;
        let progress = |scaling: &mut Scaling| {
            let of_service = |task: &&Task| task.service_id.as_ref() == Some(&scaling.service);
            let tasks: Vec<_> = tasks.iter().filter(of_service).collect();
            scaling.look(&tasks)
        };
        Ok(scalings.iter_mut().map(progress).collect())
    }

    /// Its services.
    ///
    /// # Errors
    /// If the engine refuses to say.
    pub async fn services(&self) -> Result<Vec<Service>, Error> {
        let options = ListServicesOptionsBuilder::new().filters(&self.of_stack()).build();
        let services = self.engine.docker.list_services(Some(options)).await;
        let services = services.map_err(|error| Error::refused("list the services", &error))?;
        let service = |raw: models::Service| {
            let name = raw.spec.as_ref().and_then(|spec| spec.name.clone()).unwrap_or_default();
            let short = name.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix('_'));
            let name = short.unwrap_or(&name).to_owned();
            Service { name, id: raw.id.clone().unwrap_or_default(), raw }
        };
        Ok(services.into_iter().map(service).collect())
    }

    /// The service of that name.
    ///
    /// # Errors
    /// If there is none, or the engine refuses to say.
    pub async fn service(&self, name: &str) -> Result<Service, Error> {
        let found = self.services().await?.into_iter().find(|service| service.name == name);
        let (stack, service) = (self.name.clone(), name.to_owned());
        found.ok_or(Error::NoService { stack, service })
    }

    /// Its tasks, those of the past too, as far as the Swarm remembers.
    pub(crate) async fn tasks(&self) -> Result<Vec<Task>, Error> {
        let options = ListTasksOptionsBuilder::new().filters(&self.of_stack()).build();
        let tasks = self.engine.docker.list_tasks(Some(options)).await;
        tasks.map_err(|error| Error::refused("list the tasks", &error))
    }

    async fn nodes(&self) -> Result<Vec<Node>, Error> {
        let nodes = self.engine.docker.list_nodes(None::<ListNodesOptions>).await;
        nodes.map_err(|error| Error::refused("list the nodes", &error))
    }

    /// How many tasks of the past each slot keeps.
    async fn history_limit(&self) -> usize {
        let spec = self.engine.docker.inspect_swarm().await.ok().and_then(|swarm| swarm.spec);
        let limit = spec.and_then(|it| it.orchestration?.task_history_retention_limit);
        limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(5)
    }

    /// What these containers use, by id. One that is gone meanwhile is left out.
    async fn stats(&self, ids: Vec<String>) -> HashMap<String, ContainerStatsResponse> {
        let ask = |id: String| async move {
            let options = StatsOptionsBuilder::new().stream(false).one_shot(false).build();
            let mut stats = Box::pin(self.engine.docker.stats(&id, Some(options)));
            let first = tokio::time::timeout(STATS_TIME, stats.next()).await.ok().flatten();
            Some((id, first?.ok()?))
        };
        let answers = futures_util::stream::iter(ids.into_iter().map(ask)).buffer_unordered(64);
        answers.filter_map(|answer| async { answer }).collect().await
    }

    /// Sets how many replicas a service has, whoever else changes it at the same time. Returns how many it had, and
    /// the wait for them.
    ///
    /// # Errors
    /// If the engine refuses, or if the service runs on every node.
    pub async fn scale(&self, service: &Service, replicas: u16) -> Result<(u64, Scaling), Error> {
        const DOING: &str = "change the service";
        let failed = |error| Error::refused(DOING, &error);
        let docker = &self.engine.docker;
        let done = |had: i64| {
            let scaling = Scaling::new(service.id.clone(), replicas);
            Ok((u64::try_from(had).unwrap_or_default(), scaling))
        };
        let mut attempts = 0;
        loop {
            let now = docker.inspect_service(&service.id, None::<InspectServiceOptions>).await;
            let now = now.map_err(failed)?;
            let index = now.version.and_then(|version| version.index).unwrap_or_default();
            let refused = |why: String| Error::Refused { doing: DOING, why };
            let version =
                i32::try_from(index).map_err(|_| refused("its version is too high".to_owned()))?;
            let mut spec = now.spec.unwrap_or_default();
            let mode = spec.mode.as_mut().and_then(|mode| mode.replicated.as_mut());
            let Some(mode) = mode else {
                let name = &service.name;
                return Err(refused(format!(
                    "{name} runs on every node, not in a number of replicas"
                )));
            };
            let had = mode.replicas.replace(replicas.into()).unwrap_or_default();
            if had == i64::from(replicas) {
                return done(had);
            }
            let options = UpdateServiceOptionsBuilder::new().version(version).build();
            attempts += 1;
            match docker.update_service(&service.id, spec, options, None).await {
                Ok(_) => return done(had),
                Err(error) if attempts < UPDATES && is_out_of_sequence(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn of_stack(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".to_owned(), vec![format!("{NAMESPACE}={}", self.name)])])
    }

    async fn no_stack(&self) -> Error {
        let filters = HashMap::from([("label", vec![NAMESPACE])]);
        let options = ListServicesOptionsBuilder::new().filters(&filters).build();
        let all = self.engine.docker.list_services(Some(options)).await.unwrap_or_default();
        let label = |service: models::Service| service.spec?.labels?.get(NAMESPACE).cloned();
        let mut names: Vec<_> = all.into_iter().filter_map(label).collect();
        names.sort_unstable();
        names.dedup();
        let others = if names.is_empty() {
            String::new()
        } else {
            format!(" (there are: {})", one_line(&names.join(", "), 400))
        };
        Error::NoStack { stack: self.name.clone(), others }
    }
}

fn is_out_of_sequence(error: &bollard::errors::Error) -> bool {
    use bollard::errors::Error;
    matches!(error, Error::DockerResponseServerError { message, .. } if message.contains("out of sequence"))
}
