//! The three services.

use serde::{Deserialize, Serialize};

/// One of the services whose replicas serve one job each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Service {
    /// Pull, then execute.
    #[serde(rename = "workflow-api")]
    Workflow,
    /// Clone or update a repository.
    #[serde(rename = "github-pull-api")]
    Pull,
    /// Run Claude Code.
    #[serde(rename = "claude-code-api")]
    Claude,
}

impl Service {
    /// All of them, in the order of their ports from the front door inwards.
    pub const ALL: [Self; 3] = [Self::Workflow, Self::Pull, Self::Claude];

    /// The name in URLs, logs, directories and container names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Workflow => "workflow-api",
            Self::Pull => "github-pull-api",
            Self::Claude => "claude-code-api",
        }
    }

    /// The service of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.name() == name)
    }

    /// The TCP port callers know it by.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Workflow => 5000,
            Self::Pull => 4000,
            Self::Claude => 3000,
        }
    }

    /// The path of the request that is its job.
    #[must_use]
    pub const fn job_path(self) -> &'static str {
        match self {
            Self::Workflow => "/api/workflow",
            Self::Pull => "/api/pull",
            Self::Claude => "/api/execute",
        }
    }

    /// Whether an event of this type ends a stream of this service.
    #[must_use]
    pub fn is_terminal(self, event_type: &str) -> bool {
        match self {
            Self::Workflow => matches!(event_type, "workflow_complete" | "workflow_error"),
            Self::Pull | Self::Claude => matches!(event_type, "completed" | "error"),
        }
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
