//! The front door: it queues jobs first come first served and hands each to a replica that is idle now.
//!
//! Its state is on the volume. A job is named there before it is queued, so the gateway may be stopped or
//! killed at any moment: jobs that run go on, jobs that wait are taken up again, callers come back to
//! `GET /api/jobs/:id/events`.
//!
//! Routes, on the port of each service:
//! `POST` of the service's job path; `GET /health`, `/status`, `/api/repos`, `/api/jobs`, `/api/jobs/:id`,
//! `/api/jobs/:id/events`; `POST /api/jobs/:id/cancel`.
//!
//! *Architecture invariant:* the gateway knows nothing of how any job works. It never talks to a container
//! engine, and it needs no name service.

mod config;
mod dispatch;
mod enter;
mod front;
mod queue;
mod reads;
mod recover;
mod start;
mod state;
mod stream;
mod ticket;

pub use config::Config;
pub use start::{Gateway, main};
