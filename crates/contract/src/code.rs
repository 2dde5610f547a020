//! Machine-readable reasons for errors.

use serde::{Deserialize, Deserializer, Serialize};

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why something was refused or failed. Callers match on the names, so they never change.
        ///
        /// A name that this version does not know is parsed as [`Internal`](Self::Internal): during an update, the
        /// parts of a stack may have two versions, and a new code must not make a whole record unreadable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Code { $($(#[doc = $doc])+ $variant,)+ }

        impl Code {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The code with this name, or `None` if this version does not know it.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

codes! {
    /// The body is not JSON.
    InvalidJson = "invalid_json",
    /// A field is missing, of the wrong type or out of bounds.
    InvalidField = "invalid_field",
    /// There is no such field.
    UnknownField = "unknown_field",
    /// This replica already has a job.
    Busy = "busy",
    /// The gateway's queue is full.
    QueueFull = "queue_full",
    /// No replica became free in time.
    QueueTimeout = "queue_timeout",
    /// Another process has claimed this job.
    Claimed = "claimed",
    /// The job has not ended, so it cannot be deleted.
    Running = "running",
    /// No such path, job or session.
    NotFound = "not_found",
    /// The path exists, but not with this method.
    MethodNotAllowed = "method_not_allowed",
    /// The body's `Content-Type` is not JSON.
    UnsupportedMediaType = "unsupported_media_type",
    /// The body is over the limit.
    BodyTooLarge = "body_too_large",
    /// A credential is missing or wrong.
    Unauthorized = "unauthorized",
    /// The caller is not allowed to do this.
    Forbidden = "forbidden",
    /// The request was not encrypted, and this stack accepts only those that are.
    HttpsRequired = "https_required",
    /// The caller has reached one of its limits.
    RateLimited = "rate_limited",
    /// The repository has no such branch.
    BranchNotFound = "branch_not_found",
    /// The repository has no commit.
    EmptyRepository = "empty_repository",
    /// The git host refused the credentials, or requires some.
    AuthenticationFailed = "authentication_failed",
    /// The git host does not answer, or has no such repository.
    RepositoryUnreachable = "repository_unreachable",
    /// The git host stopped sending.
    RemoteStalled = "remote_stalled",
    /// The directory exists and is not a clone.
    NotARepository = "not_a_repository",
    /// The directory is a clone of another repository.
    DifferentRepository = "different_repository",
    /// The checkout and the remote branch both have commits that the other does not have.
    Diverged = "diverged",
    /// Incoming commits touch files with local changes.
    CheckoutConflict = "checkout_conflict",
    /// The repository is damaged, or contains something that git refuses to check out.
    RepositoryInvalid = "repository_invalid",
    /// The repository needs more space than a pull may use, or a result is larger than a delivery may be.
    TooLarge = "too_large",
    /// The agent changed nothing, so there is nothing to deliver.
    NothingToDeliver = "nothing_to_deliver",
    /// A later job has worked where this one did, so its result is no longer there on its own.
    Superseded = "superseded",
    /// The job has pulled nothing that its result could be compared with.
    NoBase = "no_base",
    /// The git host refused the push.
    PushRejected = "push_rejected",
    /// The branch exists and was not made by a delivery of this job or of its session.
    BranchExists = "branch_exists",
    /// The result changes paths that are delivered only on request.
    ProtectedPaths = "protected_paths",
    /// The branch was pushed, but the git host refused the pull request.
    PullRequestFailed = "pull_request_failed",
    /// The result contains a secret of the stack.
    SecretInResult = "secret_in_result",
    /// git failed for a reason that has no code of its own.
    GitFailed = "git_failed",
    /// Repository URLs of this scheme are not allowed.
    SchemeNotAllowed = "scheme_not_allowed",
    /// The Claude Code CLI is not installed or cannot be started.
    AgentNotFound = "agent_not_found",
    /// The CLI refuses to skip permissions as root, unless it is told that it runs in a sandbox.
    AgentRefusesRoot = "agent_refuses_root",
    /// This machine cannot confine the agent, and the operator requires it.
    IsolationUnavailable = "isolation_unavailable",
    /// The agent failed.
    AgentFailed = "agent_failed",
    /// The agent exited without a result.
    AgentNoResult = "agent_no_result",
    /// The Messages API answered with an error.
    AgentApiError = "agent_api_error",
    /// The agent reached its turn limit.
    MaxTurns = "max_turns",
    /// The agent reached its budget, or the caller its budget for today.
    BudgetExceeded = "budget_exceeded",
    /// No such session to resume.
    SessionNotFound = "session_not_found",
    /// The session's files exist but cannot be read.
    SessionDamaged = "session_damaged",
    /// The session's workspace does not exist any more.
    WorkspaceGone = "workspace_gone",
    /// A caller cancelled the job, or its parent ended.
    Cancelled = "cancelled",
    /// The caller disconnected before a replica was free, so the job was cancelled. It did not start, so a caller
    /// that only lost its connection can safely send it again.
    CallerLeft = "caller_left",
    /// The job exceeded its time limit.
    Deadline = "deadline",
    /// The agent printed nothing for too long.
    Silence = "silence",
    /// The replica was told to stop.
    Terminated = "terminated",
    /// The replica that ran the job died.
    ReplicaLost = "replica_lost",
    /// The volume is full.
    DiskFull = "disk_full",
    /// The job's journal has reached its size limit.
    JournalFull = "journal_full",
    /// The job's journal is shorter than it was when the job ended: its last events are lost.
    JournalDamaged = "journal_damaged",
    /// A record of the job on the volume was not written by this stack, or was changed.
    RecordForged = "record_forged",
    /// An error in this software or its environment.
    Internal = "internal",
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Ok(Self::from_name(&name).unwrap_or(Self::Internal))
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_and_as_str_use_the_same_names() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), serde_json::json!(code.as_str()));
            assert_eq!(Code::from_name(code.as_str()), Some(*code));
            let again = serde_json::from_value::<Code>(serde_json::json!(code.as_str())).unwrap();
            assert_eq!(again, *code);
        }
    }

    #[test]
    fn a_code_of_a_newer_version_can_be_read() {
        assert_eq!(serde_json::from_str::<Code>("\"of_tomorrow\"").unwrap(), Code::Internal);
        assert!(serde_json::from_str::<Code>("7").is_err());
    }
}
