//! A client of a stack. It needs only an address and a token, and uses only the wire contract, so any program could
//! do the same.
//!
//! [`Api`] sends requests, also over https. [`follow`] yields a job's events, each once and in order, however often
//! the connection breaks. [`load`] lets many callers do this at once and records the result of each job.

mod api;
mod diff;
mod error;
mod follow;
pub mod load;
mod tls;
mod url;

pub use api::{Api, Cancelled, Children, Listing, Queue, ReplicaCounts, ServiceStatus};
pub use error::Error;
pub use follow::{AfterEnd, Event, Follow, FollowEvent, JobSource, follow};
pub use url::{DEFAULT_URL, StackUrl};
