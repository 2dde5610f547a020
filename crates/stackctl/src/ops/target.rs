//! Which stack a command is about.

use supervisor::Connection;

use super::{engine::Engine, error::OpsError, options::TargetOptions};

/// A stack that was found.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// On a Swarm.
    Swarm(Engine),
    /// Run by `stackctl up`.
    Local(Connection),
}

impl Target {
    /// Finds the stack that the options name, or else the one that runs: first the local one, as its workspace is
    /// in this directory.
    ///
    /// # Errors
    /// If it is not there; the error says what was looked for.
    pub(crate) async fn find(options: &TargetOptions) -> Result<Self, OpsError> {
        if options.swarm {
            return Engine::connect(&options.stack).await.map(Self::Swarm);
        }
        let local = Connection::open(&options.workspace).await;
        let local = local.map_err(|error| OpsError::of_connection(error, &options.workspace));
        if options.local {
            return local.map(Self::Local);
        }
        if let Ok(local) = local {
            return Ok(Self::Local(local));
        }
        Engine::connect(&options.stack).await.map(Self::Swarm).map_err(|error| OpsError::Nothing {
            workspace: options.workspace.clone(),
            swarm: Box::new(error),
        })
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Swarm(engine) => {
                format!("the stack '{}' on the Swarm at {}", engine.stack, engine.host)
            }
            Self::Local(local) => format!(
                "the local stack in {} (process {})",
                local.workspace().display(),
                local.pid()
            ),
        }
    }
}
