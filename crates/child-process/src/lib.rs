//! Spawns and ends child processes.
//!
//! A child is a guest: it gets only the environment it is given, leads its own session and process group, inherits
//! only the file descriptors passed to it, and is killed with its group when its [`Child`] is dropped.
//! [`kill_descendants`] finds and kills what it leaves behind, in any session or group, because a process that calls
//! [`become_subreaper`] stays the ancestor of all its descendants. Such a process reaps every child at once when it
//! exits, so adopted processes hold no pids.
//!
//! [`JobBounds`] limits the number of a job's processes. If the machine delegates a cgroup, it also kills all of them
//! in one step, which forks cannot outrun. [`Confinement`] limits what a child can reach: files, ports, other processes
//! and system calls. [`machine`] and [`Enforcement`] report what this machine supports.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use child_process::{Guest, Signal};
//! use std::process::Stdio;
//!
//! child_process::become_subreaper()?;
//! let mut child = Guest::new("/usr/bin/env")
//!     .env("PATH", "/usr/bin:/bin")
//!     .secret("TOKEN_FILE_DESCRIPTOR", b"s3cret")?
//!     .cwd("/tmp")
//!     .stdout(Stdio::piped())
//!     .die_with_parent(Signal::SIGTERM)
//!     .spawn()
//!     .await?;
//! let status = child.wait().await?;
//! # let _ = status;
//! # Ok(())
//! # }
//! ```
//!
//! Written for Linux. On other systems it compiles, and children still get a cleared environment and their own
//! session, but there is no parent-death signal, no subreaper, and no search for descendants.
//!
//! *Architecture invariant:* nothing outside this crate calls `fork`, `exec` or `waitpid`.

mod bounds;
mod cgroup;
mod child;
mod confinement;
mod guest;
mod killer;
pub mod machine;
mod processes;
mod reaper;
mod registry;
mod reserve;
mod spawner;
mod survivors;
mod sweep;
mod system_calls;
mod this_process;

pub use bounds::{JobBounds, LimitedBy};
pub use child::Child;
pub use confinement::{
    Confinement, Enforcement, UnixSockets, is_confinement_available, is_port_confinement_available,
};
pub use guest::Guest;
pub use nix::{
    sys::{resource::Resource, signal::Signal, stat::Mode},
    unistd::{Gid, Pid, Uid},
};
pub use processes::descendants;
pub use survivors::Survivors;
pub use sweep::{end_job, kill_adopted, kill_descendants, kill_descendants_now};
pub use this_process::{become_subreaper, hide_environment};
