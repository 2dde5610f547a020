//! The services, as one table.
//!
//! Every plain value that differs between services is in [`ServiceSpec`], and whatever a part keeps for each service is a
//! [`PerService`]. A new service is therefore one variant of [`Service`] and one row of its table, and the compiler finds
//! every [`PerService`] that is built by hand.

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

use crate::{
    ChangesRequest, Code, DeliverRequest, Ending, ExecuteRequest, JobId, JobRequest, PullRequest,
    RawRequest, RequestError, WorkflowRequest,
};

/// A service. Each of its replicas runs one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Service {
    /// Pull, then execute.
    Workflow,
    /// Clone or update a repository.
    Pull,
    /// Run Claude Code.
    Claude,
}

/// The properties of a service.
#[derive(Debug)]
pub struct ServiceSpec {
    /// Its name in URLs, logs, directories and containers, and that of its program.
    pub name: &'static str,
    /// Its name in flags, such as `--workflow` and `--port-workflow`, and in `scale workflow=5`.
    pub short_name: &'static str,
    /// What a replica does, in a few words for help texts.
    pub summary: &'static str,
    /// Its TCP port for callers.
    pub default_port: u16,
    /// The variable that changes its port at the gateway.
    pub port_variable: &'static str,
    /// The variable with its URL, for services that ask it for jobs.
    pub url_variable: &'static str,
    /// The services that its jobs start jobs on. It is stopped before them.
    pub asks: &'static [Service],
    /// How many replicas a stack has by default.
    pub default_replicas: usize,
    /// The paths whose `POST` starts a job, each with a request of its own. Help texts and examples use the first one.
    pub job_paths: &'static [&'static str],
    /// Further paths of jobs, which a replica serves but callers cannot send: the gateway starts these jobs itself.
    pub internal_paths: &'static [&'static str],
    /// Parses the request of a job.
    pub parse: fn(&RawRequest<'_>) -> Result<Box<dyn JobRequest>, RequestError>,
    /// The type of the event that ends a successful job.
    pub success_event: &'static str,
    /// The type of the event that ends a job that failed or was cancelled.
    pub failure_event: &'static str,
    /// Writes the failure of a job that no replica can end any more.
    pub failure: fn(JobId, Code, &str) -> Ending,
    /// The error for a job whose replica died.
    pub lost: &'static str,
}

impl Service {
    /// All of them, callers before the services that they ask.
    pub const ALL: [Self; 3] = [Self::Workflow, Self::Pull, Self::Claude];

    /// The number of services.
    pub const COUNT: usize = Self::ALL.len();

    /// Its row in the table.
    #[must_use]
    pub const fn spec(self) -> &'static ServiceSpec {
        match self {
            Self::Workflow => &ServiceSpec {
                name: "workflow-api",
                short_name: "workflow",
                summary: "pulls a repository, then runs the agent on it",
                default_port: 5000,
                port_variable: "PORT_WORKFLOW",
                url_variable: "WORKFLOW_API",
                asks: &[Self::Pull, Self::Claude],
                default_replicas: 5,
                job_paths: &["/api/workflow"],
                internal_paths: &[],
                parse: |raw| raw.parse::<WorkflowRequest>(),
                success_event: "workflow_complete",
                failure_event: "workflow_error",
                failure: |job, code, error| Ending::workflow_failure(job, None, code, error),
                lost: "the replica died before the job ended: send the job again",
            },
            Self::Pull => &ServiceSpec {
                name: "github-pull-api",
                short_name: "pull",
                summary: "clones or updates a repository, or delivers a result",
                default_port: 4000,
                port_variable: "PORT_PULL",
                url_variable: "GITHUB_PULL_API",
                asks: &[],
                default_replicas: 3,
                job_paths: &["/api/pull", DeliverRequest::PATH],
                internal_paths: &[ChangesRequest::PATH],
                parse: |raw| match raw.path {
                    ChangesRequest::PATH => raw.parse::<ChangesRequest>(),
                    DeliverRequest::PATH => raw.parse::<DeliverRequest>(),
                    _ => raw.parse::<PullRequest>(),
                },
                success_event: "completed",
                failure_event: "error",
                failure: |_, code, error| Ending::pull_failure(code, error),
                lost: "the replica died before the job ended: send the job again",
            },
            Self::Claude => &ServiceSpec {
                name: "claude-code-api",
                short_name: "claude",
                summary: "runs the agent in a checkout",
                default_port: 3000,
                port_variable: "PORT_CLAUDE",
                url_variable: "CLAUDE_CODE_API",
                asks: &[],
                default_replicas: 3,
                job_paths: &["/api/execute"],
                internal_paths: &[],
                parse: |raw| raw.parse::<ExecuteRequest>(),
                success_event: "completed",
                failure_event: "error",
                failure: |_, code, error| Ending::agent_failure(code, error, &Default::default()),
                lost: "the replica died while the agent was running: check the checkout, then send the job again",
            },
        }
    }

    /// Its name in URLs, logs, directories and containers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// The service with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.name() == name)
    }

    /// Its TCP port for callers.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        self.spec().default_port
    }

    /// The path that examples use for its job.
    #[must_use]
    pub const fn job_path(self) -> &'static str {
        match self.spec().job_paths {
            [first, ..] => first,
            [] => panic!("every service has a job path"),
        }
    }

    /// Whether a `POST` to `path` starts a job of this service.
    #[must_use]
    pub fn has_job_path(self, path: &str) -> bool {
        self.spec().job_paths.contains(&path)
    }

    /// Whether its replicas run a job for a `POST` to `path`.
    #[must_use]
    pub fn runs_job_of(self, path: &str) -> bool {
        self.has_job_path(path) || self.spec().internal_paths.contains(&path)
    }

    /// Whether its jobs start jobs on other services, and so hold turns for them.
    #[must_use]
    pub const fn asks_for_jobs(self) -> bool {
        !self.spec().asks.is_empty()
    }

    /// Whether an event of this type ends a stream of this service.
    #[must_use]
    pub fn is_terminal(self, event_type: &str) -> bool {
        let spec = self.spec();
        event_type == spec.success_event || event_type == spec.failure_event
    }

    const fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Service> for &'static str {
    fn from(service: Service) -> Self {
        service.name()
    }
}

impl TryFrom<String> for Service {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::from_name(&name).ok_or_else(|| format!("unknown service '{name}'"))
    }
}

/// A value for each service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerService<T>([T; Service::COUNT]);

impl<T> PerService<T> {
    /// The values in the order of [`Service::ALL`].
    #[must_use]
    pub const fn new(values: [T; Service::COUNT]) -> Self {
        Self(values)
    }

    /// Calls `value` for each service, in the order of [`Service::ALL`].
    #[must_use]
    pub fn from_fn(value: impl FnMut(Service) -> T) -> Self {
        Self(Service::ALL.map(value))
    }

    /// Like [`from_fn`](Self::from_fn), but stops at the first error.
    ///
    /// # Errors
    /// The error of `value`.
    pub fn try_from_fn<E>(value: impl FnMut(Service) -> Result<T, E>) -> Result<Self, E> {
        let values: Vec<T> = Service::ALL.into_iter().map(value).collect::<Result<_, E>>()?;
        match values.try_into() {
            Ok(values) => Ok(Self(values)),
            Err(_) => unreachable!("there is one value for each service"),
        }
    }

    /// Each service with its value.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Service, &T)> {
        Service::ALL.into_iter().zip(&self.0)
    }

    /// Each service with its value, which can be changed.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (Service, &mut T)> {
        Service::ALL.into_iter().zip(&mut self.0)
    }

    /// The same with `change` applied to each value.
    #[must_use]
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> PerService<U> {
        PerService(self.0.map(change))
    }

    /// The values in the order of [`Service::ALL`].
    #[must_use]
    pub const fn as_array(&self) -> &[T; Service::COUNT] {
        &self.0
    }
}

impl<T> Index<Service> for PerService<T> {
    type Output = T;

    #[expect(clippy::indexing_slicing, reason = "the array has one element per service")]
    fn index(&self, service: Service) -> &T {
        &self.0[service.index()]
    }
}

impl<T> IndexMut<Service> for PerService<T> {
    #[expect(clippy::indexing_slicing, reason = "the array has one element per service")]
    fn index_mut(&mut self, service: Service) -> &mut T {
        &mut self.0[service.index()]
    }
}

impl<T> IntoIterator for PerService<T> {
    type Item = (Service, T);
    type IntoIter = std::iter::Zip<
        std::array::IntoIter<Service, { Service::COUNT }>,
        std::array::IntoIter<T, { Service::COUNT }>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        Service::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_finds_its_own_value() {
        let names = PerService::from_fn(Service::name);
        for (service, name) in names.iter() {
            assert_eq!((names[service], *name), (service.name(), service.name()));
        }
    }

    #[test]
    fn no_two_rows_share_a_name_a_port_or_a_path() {
        for one in Service::ALL {
            for other in Service::ALL.into_iter().filter(|other| *other != one) {
                let (a, b) = (one.spec(), other.spec());
                assert_ne!(a.name, b.name);
                assert_ne!(a.short_name, b.short_name);
                assert_ne!(a.default_port, b.default_port);
                assert_ne!(a.port_variable, b.port_variable);
                assert_ne!(a.url_variable, b.url_variable);
                assert!(a.job_paths.iter().all(|path| !other.has_job_path(path)));
            }
        }
    }

    #[test]
    fn a_failure_is_a_terminal_event_of_its_service() {
        for service in Service::ALL {
            let ending = Ending::failure(service, JobId::new(), Code::Cancelled, "why");
            let event: serde_json::Value = serde_json::from_slice(ending.event.as_bytes()).unwrap();
            assert_eq!(event["type"], service.spec().failure_event);
            assert!(service.is_terminal(service.spec().success_event));
        }
    }

    #[test]
    fn a_service_is_its_name_in_json() {
        for service in Service::ALL {
            let json = serde_json::to_string(&service).unwrap();
            assert_eq!(json, format!("\"{service}\""));
            assert_eq!(serde_json::from_str::<Service>(&json).unwrap(), service);
        }
        assert!(serde_json::from_str::<Service>("\"echo-api\"").is_err());
    }
}
