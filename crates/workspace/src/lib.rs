//! The shared volume, as types.
//!
//! All communication between the services goes through this crate: the journal of a job, the claim that says who runs
//! it, the outcome that says how it ended, and the registry of idle replicas. Every file has one writer or is put in
//! place complete, so the layout works on any POSIX file system. An error is never reported as absence, and a damaged
//! file affects only its own job, session or replica.
//!
//! *Architecture invariant:* this crate knows nothing about HTTP, git or Claude.

mod digest;
mod disconnect;
mod doomed;
mod error;
mod file_lock;
#[cfg(test)]
mod fixtures;
mod follow;
mod gateways;
mod handover;
mod hex;
mod in_use;
mod index;
mod job;
mod journal;
mod layout;
mod liveness;
mod off_thread;
mod outcome;
mod owner;
mod probe;
mod proof;
mod record;
mod registry;
mod resolve;
mod result_file;
mod retention;
mod secret;
mod session;
mod tidy;
mod token;
mod turn;
mod watch;
mod write;

pub use digest::{InvalidDigest, RequestDigest};
pub use disconnect::CancelOnDisconnect;
pub use doomed::remove_tree;
pub use error::{Error, Result};
pub use file_lock::FileLock;
pub use follow::{JournalEntry, Position, follow, follow_parts};
pub use handover::{
    Check, UserIds, close_way, hand_over, let_through, take_back, take_back_if_left, try_owner,
};
pub use index::{EndedJob, JobFilter, NewestFirst, Spending};
pub use job::{Claim, ClaimedJob, Comparable, CreateError, DeletedJob, Job, NewJob, Work};
pub use layout::Workspace;
pub use liveness::LivenessWatch;
pub use off_thread::blocking;
pub use outcome::Outcome;
pub use probe::FreeSpace;
pub use proof::UnprovenRecord;
pub use record::{JobRecord, RecordedRequest, Turns};
pub use registry::{IdleReplicas, Registration, Registry, ReplicaEntry};
pub use resolve::ResolveError;
pub use result_file::CheckoutFile;
pub use retention::{Collect, Collected, Kind, Retention};
pub use secret::{Challenge, StackSecret, Statement};
pub use session::{Deleted, Session};
pub use token::{TokenRecord, Tokens};
pub use turn::{HeldTurn, Turn, TurnUse};
pub use watch::{Watch, Watcher};
