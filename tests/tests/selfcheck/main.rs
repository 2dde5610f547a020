//! The testkit against the real things it works with: git, sockets, processes, the Claude CLI.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly, and start real processes"
)]

mod agent;
mod git;
mod model;
mod stacks;
mod streams;
