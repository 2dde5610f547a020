//! The one place that spawns and ends child processes.
//!
//! A child is a guest: it gets the environment it was given and nothing else, leads a session and a process
//! group of its own, inherits no file descriptor but those handed to it, and is killed with its group when
//! the [`Child`] that stands for it is dropped. What it leaves behind, in whatever session or group,
//! is found and killed with [`kill_descendants`], because a process that calls [`become_subreaper`]
//! stays the ancestor of everything that was ever started below it. Such a process reaps every child that ends,
//! at once, so that nothing it adopts holds a pid.
//!
//! [`JobBounds`] says how many processes a job may have and, where the machine delegates a cgroup, ends all of
//! them in one step that no fork can outrun. [`machine`] says what this machine has of all that.
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
//! Written for Linux. On other systems it compiles, and children still get a cleared environment and a session
//! of their own, but there is no parent-death signal, no subreaper, and no walk over descendants.
//!
//! *Architecture invariant:* nothing outside this crate calls `fork`, `exec` or `waitpid`.

mod bounds;
mod cgroup;
mod child;
mod confinement;
mod ender;
mod guest;
pub mod machine;
mod processes;
mod reaper;
mod registry;
mod spawner;
mod sweep;
mod this_process;

pub use bounds::{JobBounds, LimitedBy};
pub use child::Child;
pub use confinement::{Confinement, is_confinement_available, is_port_confinement_available};
pub use guest::Guest;
pub use nix::{
    sys::{resource::Resource, signal::Signal},
    unistd::Pid,
};
pub use processes::descendants;
pub use sweep::{end_job, kill_adopted, kill_descendants, kill_descendants_now};
pub use this_process::{become_subreaper, hide_environment};
