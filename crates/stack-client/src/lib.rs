//! A client of the stack. It knows a stack by its address and a token, and uses nothing but the wire contract, so
//! any program could do what it does.
//!
//! [`Api`] sends requests, over https too. [`follow`] yields a job's events, each once and in order, however often the
//! connection breaks. [`load`] has many callers do that at once and records what became of each job.

mod api;
mod error;
mod follow;
pub mod load;
mod tls;
mod url;

pub use api::{Api, Cancelled, Children, Listing, Queue, ReplicaCounts, ServiceStatus};
pub use error::Error;
pub use follow::{AfterEnd, Event, Follow, FollowEvent, JobSource, follow};
pub use url::{DEFAULT_URL, StackUrl};
