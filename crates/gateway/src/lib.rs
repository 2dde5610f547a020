//! The public HTTP server: it queues jobs, first come, first served, and hands each to a replica that is idle.
//!
//! Its state is on the volume. A job is recorded there before it is queued, so the gateway may be stopped or killed at
//! any moment: running jobs continue, the next gateway takes over those that wait, and callers reconnect to
//! `GET /api/jobs/:id/events`.
//!
//! A job's place (queued, being dispatched, running) changes only through `GatewayState::transition`.
//!
//! Who sends a request, and whether its route is open to that caller, is decided in one layer (`authenticate`). Whose a
//! job, a session or a checkout is, is looked at by what uses it.
//!
//! Its routes are listed in the module `routes`.
//!
//! *Architecture invariant:* the gateway knows nothing of how any job works. It never talks to a container
//! engine, and it needs no name service.

mod audit;
mod authenticate;
mod caller;
mod callers;
mod changes;
mod config;
mod dispatch;
mod files;
mod health;
mod host;
mod layers;
mod lifecycle;
mod places;
mod queue;
mod rate;
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
mod tokens;

pub use config::{Config, read_tls};
pub use host::AllowedHosts;
pub use retention::read_retention;
pub use start::{Gateway, main};
