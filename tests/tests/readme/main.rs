//! README.md, done as it says: every command and every program in it runs, against a real stack.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly, and start real processes"
)]

mod commands;
mod page;
mod programs;
mod scene;
