//! What the gateway and the replicas answer alike: a job's stream, and sessions.
//!
//! *Architecture invariant:* everything here is a view of the volume; this crate knows nothing of queues,
//! of replicas, or of how any job works.

mod disconnect;
mod sessions;
mod stream;

pub use disconnect::{Leaving, OnDisconnect};
pub use sessions::{Route, answer, known};
pub use stream::events;
