//! The commands that submit jobs and look at them: `run`, `attach`, `jobs`, `show`, `diff`,
//! `apply`, `checkout`, `deliver`, `cancel`, `delete`, `load`.

mod deliver;
mod diff;
mod diffstat;
mod error;
mod facts;
pub(crate) mod ids;
mod interrupt;
mod jobs;
mod load;
mod local_git;
mod options;
mod render;
mod run;
pub(crate) mod table;
mod watch;

use contract::JobId;
use stack_client::StackUrl;

use crate::program;
pub(crate) use deliver::deliver;
pub(crate) use diff::{apply, checkout, diff};
pub(crate) use error::ClientError;
pub(crate) use interrupt::Interrupts;
pub(crate) use jobs::{cancel, delete, jobs, show};
pub(crate) use load::{LoadOptions, load};
pub(crate) use options::{
    AgentOptions, ApplyOptions, AttachOptions, CancelOptions, CheckoutCommand, DeleteOptions,
    DeliverOptions, DiffOptions, GivenUrl, JobsOptions, RetryOptions, RunOptions, ShowOptions,
    TokenOptions,
};
pub(crate) use render::{note, print};
pub(crate) use run::{Work, attach, run, run_workflow};
pub(crate) use watch::End;

/// A command line for this job on this stack, to be copied.
pub(crate) fn command_on(url: &StackUrl, verb: &str, job: JobId) -> String {
    format!("{} {verb} {}{}", program::name(), ids::short(job), error::url_argument(url))
}
