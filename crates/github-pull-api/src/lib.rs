//! Clones or updates one repository, and tells as it goes.
//!
//! [`pull()`] is the job: a stream of steps that ends once. What talks to git is the module `git`,
//! which runs on the blocking pool and knows nothing of streams; what a caller reads is made in
//! `report` and `failure`.
//!
//! Four things hold:
//! * Only the mirror of a repository talks to the network. A checkout is filled and updated from the
//!   mirror, and only after a fetch with the request's own credentials went well.
//! * The configuration of an existing checkout may have been written by an agent and is not obeyed:
//!   git works on a copy of the checkout's references and index under a configuration of ours.
//! * A pull that fails leaves the directory as it was, byte for byte.
//! * Credentials go to the host they are for, and to no disk, event or log.
//!
//! Submodules are not fetched (their directories stay empty), and files kept in LFS stay pointers.
//! Hooks and filters are never run.

mod access;
mod config;
#[expect(dead_code, reason = "git does not go through it yet")]
mod connector;
mod failure;
mod git;
mod known_hosts;
mod pull;
mod report;
mod service;

pub use config::Config;
pub use connector::{
    AddressPolicy, AllowedHost, ConnectorSettings, UpstreamProxy, connect_for_git,
};
pub use pull::pull;
pub use service::{GithubPullApi, main};
