//! The wire contract as types: requests, events, errors and codes.
//!
//! Everything that a caller, a replica or a tool reads or writes is declared and parsed here, once: a parsed value is
//! valid. What a service only passes on (the CLI's messages, a pull event inside `pull_progress`) stays raw JSON and
//! is not encoded again.
//!
//! *Architecture invariant:* this crate knows nothing about tokio, hyper or files.

mod caller;
mod changes;
mod code;
mod event;
mod fields;
mod id;
mod job;
mod line;
mod part;
mod policy;
mod repo_url;
mod request;
mod service;
mod session;
mod timestamp;
mod usd;
mod values;

pub use caller::{
    BearerToken, CallerLimits, CallerName, NotA, Scope, TokenId, TokenList, TokenRequest,
    TokenRevoked, TokenView,
};
pub use changes::{AgentCommit, Changes, FileChange, FileStatus, SkipReason, SkippedFile};
pub use code::Code;
pub use event::{
    AgentSummary, ApiUsage, ChangesEvent, DeliverEvent, DeliveryStatus, DeliveryView, Ending,
    ExecuteEvent, Isolation, ModelUsage, PullEvent, QueuedEvent, Verification, WorkflowEvent,
};
pub use fields::unknown_field;
pub use id::{GatewayId, JobId, OwnId, ReplicaId, SessionId};
pub use job::{JobDeleted, JobList, JobState, JobView, Repo, RepoList};
pub use line::{EventLine, LineError};
pub use part::EventPart;
pub use policy::{FileRepositories, Limits, Policy, UnknownFields};
pub use repo_url::{RepoUrl, Scheme};
pub use request::{
    CallbackUrl, ChangesRequest, CloneFilter, Commits, CommonOptions, Deliver, DeliverMode,
    DeliverRequest, ErrorBody, ExecuteOptions, ExecuteRequest, JobRequest, Labels, Place, PullJob,
    PullOptions, PullRequest, RawRequest, RequestError, Requester, Retain, Secrets, Verify,
    WorkflowRequest, check_label,
};
pub use service::{PerService, Service, ServiceSpec};
pub use session::{SessionDeleted, SessionList, SessionRequest, SessionView};
pub use timestamp::Timestamp;
pub use usd::Usd;
pub use values::{BranchName, DeliveryBranch, DirectoryName, Prompt, WorkspacePath};
