//! Which stack a command is about.

use contract::Service;
use stack_client::StackUrl;
use supervisor::{Connection, Part};
use swarm::Stack;

use super::{OpsError, options::TargetOptions};

/// A stack that was found.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// On a Swarm.
    Swarm(Stack),
    /// Run by `stackctl up`.
    Local(Connection),
}

impl Target {
    /// Finds the stack that the options name, or else the one that runs: first the local one, because its workspace is
    /// in this directory.
    ///
    /// # Errors
    /// If there is none; the error says what was looked for.
    pub(crate) async fn find(options: &TargetOptions) -> Result<Self, OpsError> {
        if options.swarm {
            return Ok(Self::Swarm(Stack::connect(&options.stack).await?));
        }
        let local = Connection::open(&options.workspace).await;
        let local = local.map_err(|error| OpsError::of_connection(error, &options.workspace));
        if options.local {
            return local.map(Self::Local);
        }
        if let Ok(local) = local {
            return Ok(Self::Local(local));
        }
        let workspace = options.workspace.clone();
        let swarm = Stack::connect(&options.stack).await;
        swarm.map(Self::Swarm).map_err(|swarm| OpsError::Nothing { workspace, swarm })
    }

    /// Whether what is sent to the [`addresses`](Self::addresses) crosses a network.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Swarm(stack) if !stack.is_local())
    }

    /// The stack in words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Swarm(stack) => {
                format!("the stack '{}' on the Swarm at {}", stack.name(), stack.engine())
            }
            Self::Local(local) => format!(
                "the local stack in {} (process {})",
                local.workspace().display(),
                local.pid()
            ),
        }
    }

    /// Where its gateway serves each service. A Swarm may publish none of them.
    ///
    /// # Errors
    /// If the stack does not answer, or its gateway speaks https: its certificate is for a name that only its operator
    /// knows.
    pub(crate) async fn addresses(&self) -> Result<Vec<(Service, StackUrl)>, OpsError> {
        match self {
            Self::Local(local) => {
                let addresses = local.status().await?.addresses();
                Ok(addresses.into_iter().map(|(service, url)| (service, url.into())).collect())
            }
            Self::Swarm(stack) => {
                let services = stack.services().await?;
                let gateway = services.iter().find(|service| service.name == Part::GATEWAY);
                if gateway.is_some_and(|gateway| gateway.sets("TLS_CERT")) {
                    let port =
                        gateway.and_then(|it| it.published_port(Service::Workflow.default_port()));
                    let port = port.map_or_else(|| "PORT".to_owned(), |port| port.to_string());
                    return Err(OpsError::Usage(format!(
                        "the gateway of this stack speaks https: give its address, with a name that its certificate is for, as \
                         --url https://NAME:{port}"
                    )));
                }
                let address = |service: Service| {
                    let port = gateway?.published_port(service.default_port())?;
                    Some((service, format!("http://{}:{port}", stack.host()).parse().ok()?))
                };
                Ok(Service::ALL.into_iter().filter_map(address).collect())
            }
        }
    }
}
