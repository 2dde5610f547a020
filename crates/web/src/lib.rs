//! HTTP for this stack: error answers and their statuses, limits on what is read, Server-Sent Events in both directions, a
//! server and a client.

mod ask;
mod cors;
mod intake;
mod limits;
mod peer;
mod reply;
mod serve;
mod sse;
mod tls;

pub use ask::{Answer, AskError, BaseUrl, Connection, ask, ask_on, request_to};
pub use cors::Cors;
pub use intake::{
    BODY_LIMIT, Ids, OnDisconnect, PASSED_LIMIT, ids_wanted, job_id, last_event_id, read_json_body,
    read_optional_json_body,
};
pub use limits::ConnectionLimits;
pub use peer::{Encryption, Peer};
pub use reply::{
    Body, PING, Refusal, SILENCE, empty, error, event_stream, full, json, method_not_allowed,
    no_such_path, streamed,
};
pub use serve::{Listener, ReservedPort, Serve, Server, bind, handler};
pub use sse::{Decoder, Frame, FrameError, frame, frames};
pub use tls::{Tls, TlsError};

/// The names of this stack's own headers.
pub mod header {
    /// The job of a stream; in a request, the ID that the caller chooses for the job.
    pub const JOB_ID: &str = "x-job-id";
    /// The workflow that starts a job.
    pub const PARENT_JOB_ID: &str = "x-parent-job-id";
    /// In the dispatch of a workflow, and in its requests for jobs: what proves that they are its own.
    pub const CAPABILITY: &str = "x-job-capability";
    /// In a dispatch, what proves that it comes from a gateway of the stack.
    pub const DISPATCH_PROOF: &str = "x-dispatch-proof";
    /// In a request for the status of a replica, what its answer must prove: 64 hexadecimal digits that were never used before.
    pub const CHALLENGE: &str = "x-challenge";
    /// In the answer to a challenge, what proves that it comes from a replica of the stack.
    pub const CHALLENGE_PROOF: &str = "x-challenge-proof";
    /// What happens to a job whose caller disconnects: `continue`, or `cancel`.
    pub const ON_DISCONNECT: &str = "x-on-disconnect";
    /// In a dispatch, the digest of the body that the job's caller sent.
    pub const REQUEST_DIGEST: &str = "x-request-digest";
    /// The replica that a dispatch is meant for.
    pub const REPLICA_ID: &str = "x-replica-id";
}
