//! HTTP as this stack speaks it: one place for error answers and their statuses, for the limits on what
//! is read, for Server-Sent Events in both directions, for serving and for asking.

mod ask;
mod cors;
mod intake;
mod reply;
mod serve;
mod sse;

pub use ask::{Answer, AskError, BaseUrl, ask, ask_on};
pub use cors::Cors;
pub use intake::{
    BODY_LIMIT, Ids, ids_wanted, job_id, last_event_id, read_json_body, read_optional_json_body,
};
pub use reply::{
    Body, Refusal, empty, error, event_stream, full, json, method_not_allowed, no_such_path,
};
pub use serve::{Server, bind};
pub use sse::{Decoder, Frame, FrameError, frame};

/// Names of the headers that are this stack's own.
pub mod header {
    /// The job a stream belongs to; on a request, the name a caller gives the job.
    pub const JOB_ID: &str = "x-job-id";
    /// The workflow that asks for a job.
    pub const PARENT_JOB_ID: &str = "x-parent-job-id";
    /// What becomes of a job whose caller goes away: `continue`, or `cancel`.
    pub const ON_DISCONNECT: &str = "x-on-disconnect";
    /// The life of a replica that a dispatch is meant for.
    pub const REPLICA_ID: &str = "x-replica-id";
}
