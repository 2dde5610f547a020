//! The gateway over real sockets and a real volume, without services: a test that needs a replica brings its own.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod bounds;
mod callers;
mod changes;
mod damage;
mod delete;
mod disconnect;
mod dispatch;
mod forged;
mod health;
mod limits;
mod many;
mod owners;
mod queue_wait;
mod requests;
mod support;
mod tls;
mod workflow;
