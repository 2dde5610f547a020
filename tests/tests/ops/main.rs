//! `stackctl ps`, `scale` and `logs`: on a stack that `up` runs, and on a real engine's Swarm.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly, and start real processes"
)]

mod engine;
mod local;
mod support;
mod swarm;
