//! Runs a whole stack on one machine for `stackctl up`: a gateway and its replicas, which it restarts.
//!
//! Every part is a separate process, started as `<program> serve <part>`, with only the settings that it reads. A
//! replica runs one job and exits; its slot starts the next one. Parts exit with the supervisor, and the supervisor
//! adopts their orphans.
//!
//! Other processes reach a running supervisor through a Unix socket in the workspace: see [`Connection`].
//!
//! *Architecture invariant:* this crate knows nothing about what a service does. [`Plan::read_settings`] says which
//! settings each part reads; everything else comes from the table of [`contract::Service`].

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
    Connection, ConnectionError, ControlRequest, FailureView, Replies, Reply, SlotState, SlotView,
    StackView,
};
pub use environment::{check_settings, settings_of_parts};
pub use error::Error;
pub use part::{Part, SlotId};
pub use plan::{MOST_REPLICAS, Plan, ReadSettings};
pub use run::run;
