//! The server that serves one job and exits.
//!
//! A service is a [`JobService`]: a function from a validated request to a stream of [`Step`]s. This crate does the
//! rest: the slot for the one job, the claim, the journal, the stream that callers read, the registry entry, the
//! deadline, stopping, and the exit.
//!
//! Routes of every replica: `POST` of the service's job paths, `GET /health`, `GET /status`.
//!
//! *Architecture invariant:* this crate knows nothing about git, Claude, or what the job does.

mod advertise;
mod config;
mod deadline;
mod http;
mod job;
mod orders;
mod pace;
mod replica;
mod run;
mod service;
mod start;
mod stop;

pub use advertise::Advertise;
pub use config::ReplicaConfig;
pub use deadline::{Deadline, Pause};
pub use job::{JobContext, Step};
pub use orders::{Order, Orders};
pub use replica::serve;
pub use service::JobService;
pub use start::main;
pub use stop::{Settling, Stop, StopReason};
