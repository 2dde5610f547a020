//! HTTP as this stack speaks it: one place for error answers and their statuses, for the limits on what
//! is read, for Server-Sent Events in both directions, for serving and for asking.

mod ask;
mod cors;
mod intake;
mod peer;
mod reply;
mod serve;
mod sse;

pub use ask::{Answer, AskError, BaseUrl, ask, ask_on};
pub use cors::Cors;
pub use intake::{
    BODY_LIMIT, Ids, OnDisconnect, ids_wanted, job_id, last_event_id, read_json_body,
    read_optional_json_body,
};
pub use peer::Peer;
pub use reply::{
    Body, PING, Refusal, SILENCE, empty, error, event_stream, full, json, method_not_allowed,
    no_such_path,
};
pub use serve::{Listener, Server, bind, handler};
pub use sse::{Decoder, Frame, FrameError, frame, frames};

/// Names of the headers that are this stack's own.
pub mod header {
    /// The job a stream belongs to; on a request, the name a caller gives the job.
    pub const JOB_ID: &str = "x-job-id";
    /// The workflow that asks for a job.
    pub const PARENT_JOB_ID: &str = "x-parent-job-id";
    /// What happens to a job whose caller disconnects: `continue`, or `cancel`.
    pub const ON_DISCONNECT: &str = "x-on-disconnect";
    /// The digest of the body that a job's first caller sent, on a dispatch.
    pub const REQUEST_DIGEST: &str = "x-request-digest";
    /// The life of a replica that a dispatch is meant for.
    pub const REPLICA_ID: &str = "x-replica-id";
}
