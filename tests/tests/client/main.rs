//! `stackctl run`, `attach`, `jobs`, `show` and `cancel`, as programs and people use them: real processes
//! against a real stack, with connections that break.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly, and start real processes"
)]

mod interrupts;
mod jobs;
mod load;
mod reconnects;
mod run;
mod support;
mod terminal;
