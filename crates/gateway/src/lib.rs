//! The front door: it queues jobs first come first served and hands each to a replica that is idle now.
//!
//! Its state is on the volume. A job is named there before it is queued, so the gateway may be stopped or
//! killed at any moment: jobs that run go on, jobs that wait are taken up again, callers come back to
//! `GET /api/jobs/:id/events`.
//!
//! Its routes are listed in the module `routes`.
//!
//! *Architecture invariant:* the gateway knows nothing of how any job works. It never talks to a container
//! engine, and it needs no name service.

mod config;
mod dispatch;
mod enter;
mod health;
mod host;
mod layers;
mod queue;
mod reads;
mod recover;
mod routes;
mod sessions;
mod start;
mod state;
mod stream;
mod ticket;

pub use config::Config;
pub use host::AllowedHosts;
pub use start::{Gateway, main};
