//! A stack on a Docker Swarm, through the Engine's API: what runs there ([`Stack::view`]), its logs ([`Stack::logs`]),
//! and how many replicas its services have ([`Stack::scale`]).
//!
//! What can be pure is: views, waits and the order of lines are functions of what the engine answers.
//!
//! *Architecture invariant:* no other crate knows the Engine's API or its types.

mod engine;
mod error;
mod logs;
mod scaling;
mod stack;
mod task;
mod view;

pub use engine::version;
pub use error::Error;
pub use logs::{LogItem, LogLine, LogQuery, Tail};
pub use scaling::{ScaleProgress, Scaling};
pub use stack::{Service, Stack};
pub use view::{Failure, ReplicaView, Restarts, ServiceView, View};
