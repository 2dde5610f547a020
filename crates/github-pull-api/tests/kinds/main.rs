//! Every kind of repository, pulled by plain git and by this service, and what they leave compared.
//!
//! `cargo test -p github-pull-api --test kinds -- --nocapture 2>/dev/null | grep '^|'` prints the table.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail loudly and run real git"
)]

mod attributes;
mod bounds;
mod changes;
mod hosts;
mod kind;
mod lfs;
mod names;
mod objects;
mod options;
mod refs;
mod replica;
#[path = "../pull/support.rs"]
#[expect(dead_code, reason = "shared with the other tests")]
mod support;
mod tls;
mod transport;
mod traps;
mod upstream;
