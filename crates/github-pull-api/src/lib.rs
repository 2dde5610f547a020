//! Clones or updates one repository, or delivers a result to it, and reports as it goes.
//!
//! [`pull()`] is a job, and [`deliver()`] another: each is a stream of steps that ends once. `work` has the steps of a pull, which run on a
//! thread of the blocking pool; `remote` is the git host's side of it, `checkout` the caller's; `git` is
//! the one place that starts git, and `connector` its one way to the network. `app` makes tokens for one job, and `api` asks
//! forges. What a caller reads is made
//! in `report` and `failure`.
//!
//! *Architecture invariants:*
//! * Only the mirror of a repository talks to the network. A checkout is filled and updated from the
//!   mirror, and only after a fetch with the request's own credentials succeeded.
//! * The configuration of an existing checkout may have been written by an agent and is not obeyed: git
//!   works in a control directory of ours, with the checkout's objects and a copy of its index.
//! * A pull that fails leaves the directory as it was, byte for byte.
//! * Credentials go to the host they are for, and to no disk, argument, environment, event or log.
//!
//! Hooks are never run, and of filters only that of git-lfs, if it is asked for.

mod api;
mod app;
mod changes;
mod checkout;
mod config;
mod connector;
mod deliver;
mod drive;
mod failure;
mod git;
mod lock;
mod monitor;
mod progress;
mod pull;
mod remote;
mod report;
mod service;
mod staging;
mod work;

pub use app::GitHubApp;
pub use changes::changes;
pub use config::Config;
pub use connector::{
    AddressPolicy, AllowedHost, ConnectorSettings, UpstreamProxy, connect_for_git,
};
pub use deliver::{DeliverSettings, deliver};
pub use pull::pull;
pub use service::{GithubPullApi, main};
