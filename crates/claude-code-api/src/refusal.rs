//! Failures before an agent runs.

use contract::{AgentSummary, Code, Ending, SessionId};

/// Why a job ends without an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    /// One sentence for the caller.
    pub(crate) sentence: String,
}

impl Refusal {
    pub(crate) fn new(code: Code, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into() }
    }

    /// An I/O error. The sentence for the caller contains no paths.
    pub(crate) fn io(what: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let code = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::DiskFull,
            _ => Code::Internal,
        };
        Self::new(code, format!("failed to {what}: {error}"))
    }

    /// An error of the volume.
    pub(crate) fn volume(error: &workspace::Error) -> Self {
        let refusal = error.refusal();
        Self::new(refusal.code, refusal.message)
    }

    pub(crate) fn ending(&self, session: SessionId) -> Ending {
        let summary = AgentSummary { session_id: Some(session), ..AgentSummary::default() };
        Ending::agent_failure(self.code, &self.sentence, &summary)
    }
}
