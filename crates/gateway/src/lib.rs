//! The public HTTP server: it queues jobs, first come, first served, and hands each to a replica that is idle.
//!
//! Its state is on the volume. A job is recorded there before it is queued, so the gateway may be stopped or killed at
//! any moment: running jobs continue, the next gateway takes over those that wait, and callers reconnect to
//! `GET /api/jobs/:id/events`.
//!
//! A job's place (queued, being dispatched, running) changes only through `GatewayState::transition`.
//!
//! Its routes are listed in the module `routes`.
//!
//! *Architecture invariant:* the gateway knows nothing of how any job works. It never talks to a container
//! engine, and it needs no name service.

mod config;
mod dispatch;
mod health;
mod host;
mod layers;
mod lifecycle;
mod queue;
mod readers;
mod reads;
mod recover;
mod retention;
mod routes;
mod sessions;
mod shared;
mod start;
mod state;
mod stream;
mod submit;
mod ticket;

pub use config::Config;
pub use host::AllowedHosts;
pub use retention::read_retention;
pub use start::{Gateway, main};
