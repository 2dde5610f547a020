//! What an operator allows callers to ask for.

/// Bounds on requests, from configuration. The gateway and each replica read the same ones.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Whether `file://` URLs and plain paths are repositories too.
    pub file_repositories: FileRepositories,
    /// What becomes of a request with a field that this version does not know.
    pub unknown_fields: UnknownFields,
    /// Bounds on what an agent may use.
    pub limits: Limits,
}

/// Whether callers may name repositories on the server's own disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileRepositories {
    /// They are refused: a caller could read any repository the service can.
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
    /// The request is refused: for callers, whose misspelled field would be paid work on other terms.
    Refused,
}

/// Bounds on the optional fields of an execute request.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The longest `timeoutSeconds`; also the deadline of a job that asks for none. Seconds.
    pub job_timeout_seconds: u64,
    /// The largest `maxTurns`; also what a job gets that asks for none. `None`: no bound.
    pub max_turns: Option<u32>,
    /// The largest `maxBudgetUsd`; also what a job gets that asks for none. `None`: no bound.
    pub max_budget_usd: Option<f64>,
    /// The models that may be asked for. `None`: any.
    pub models: Option<Vec<String>>,
    /// The tools that may be asked for; also what a job gets that asks for none. `None`: any.
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
