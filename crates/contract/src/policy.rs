//! What an operator allows callers to ask for.

/// Limits on requests, from configuration. The gateway and each replica read the same ones.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Whether `file://` URLs and plain paths are repositories too.
    pub file_repositories: FileRepositories,
    /// What becomes of a request with a field that this version does not know.
    pub unknown_fields: UnknownFields,
    /// Limits on what an agent may use.
    pub limits: Limits,
}

/// Whether callers may name repositories on the server's own disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileRepositories {
    /// They are refused: otherwise a caller could read any repository that the service can read.
    #[default]
    Refused,
    /// They are accepted.
    Allowed,
}

/// What becomes of a request with a field that this version does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// The field is ignored: between parts of a stack, which may be of two versions during an update.
    #[default]
    Ignored,
    /// The request is refused: for callers, who would otherwise pay for a job that ignores the field they misspelled.
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
