//! The gateway over real sockets and a real volume, without services: a test that needs a replica brings its own.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

mod bounds;
mod damage;
mod delete;
mod disconnect;
mod dispatch;
mod health;
mod many;
mod queue_wait;
mod requests;
mod support;
