//! What stands beside a stack: `stackctl demo`, the agent that plays in it, `doctor` and `completions`, as people
//! start them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly, and start real processes"
)]

mod doctor;
mod rehearsal;
mod shown;
mod support;
