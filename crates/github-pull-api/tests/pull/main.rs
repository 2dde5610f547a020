//! Pulls of real repositories over smart HTTP, into a real workspace.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail loudly and run real git"
)]

mod app;
mod branches;
mod clone;
mod deliver;
mod forges;
mod full;
mod hostile;
mod lfs;
mod mirror;
mod remote;
mod stop;
mod support;
mod update;
