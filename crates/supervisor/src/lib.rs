//! A whole stack on one machine, as `stackctl up` runs it: a gateway, the replicas behind it, and the restarts.
//!
//! Every part is a process of its own, started as `<program> serve <part>`, with the settings that it reads and no
//! others. A replica serves one job and exits; its slot starts the next one. Parts die with the supervisor, and the
//! supervisor adopts whatever they leave behind.
//!
//! Others reach a running supervisor through a Unix socket in the workspace: see [`Connection`].
//!
//! *Architecture invariant:* this crate knows nothing of what a service does. Whoever calls [`run`] says with
//! [`Plan::read_settings`] which settings each part reads; all else comes from the table of [`contract::Service`].

mod control;
mod environment;
mod error;
mod history;
mod log_files;
mod output;
mod part;
mod plan;
mod ready;
mod roster;
mod run;
mod slot;
mod slots;

pub use control::{
    Ask, Connection, ConnectionError, FailureView, Replies, Reply, SlotState, SlotView, StackView,
};
pub use environment::{check_settings, settings_of_parts};
pub use error::Error;
pub use part::{Part, SlotId};
pub use plan::{MOST_REPLICAS, Plan, ReadSettings};
pub use run::run;
