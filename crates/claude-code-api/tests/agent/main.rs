//! Whole jobs, with real processes.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

mod bench;
mod given;
mod isolation;
mod misbehaviour;
mod real_cli;
mod stopping;
