//! The operator's limits on requests.

/// Limits on requests, from the configuration. The gateway and each replica read the same settings.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Whether `file://` URLs and plain paths are accepted as repositories.
    pub file_repositories: FileRepositories,
    /// How unknown fields are handled.
    pub unknown_fields: UnknownFields,
    /// Limits on what an agent may use.
    pub limits: Limits,
}

/// Whether callers may name repositories on the server's own disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileRepositories {
    /// Rejected: otherwise, a caller could read any repository that the service can read.
    #[default]
    Refused,
    /// Accepted.
    Allowed,
}

/// How a field that this version does not know is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// Ignored. Between parts of a stack, which may have two versions during an update.
    #[default]
    Ignored,
    /// Rejected. For callers, who would otherwise pay for a job that ignores a misspelled field.
    Refused,
}

/// Limits on the optional fields of an execute request.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The longest `timeoutSeconds`, in seconds; also the default.
    pub job_timeout_seconds: u64,
    /// The largest `maxTurns`; also the default. `None`: no limit.
    pub max_turns: Option<u32>,
    /// The largest `maxBudgetUsd`; also the default. `None`: no limit.
    pub max_budget_usd: Option<f64>,
    /// The models that callers may name. `None`: any.
    pub models: Option<Vec<String>>,
    /// The tools that callers may name; also the default. `None`: any.
    pub tools: Option<Vec<String>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            job_timeout_seconds: 3600,
            max_turns: None,
            max_budget_usd: None,
            models: None,
            tools: None,
        }
    }
}
