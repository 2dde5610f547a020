//! The commands of whoever has jobs done: `run`, `attach`, `jobs`, `show`, `cancel`, `load`.
//!
//! They know the stack by its address alone, and use nothing but the wire contract: what they do, any program
//! can do.

mod api;
mod draw;
mod error;
mod follow;
pub(crate) mod ids;
mod interrupt;
mod jobs;
mod load;
mod options;
mod render;
mod run;
pub(crate) mod table;
mod watch;

use std::process::ExitCode;

use crate::command::complete;
pub(crate) use api::{Api, Listing};
pub(crate) use draw::{clean, one_line};
pub(crate) use error::{ClientError, chain, exit};
pub(crate) use interrupt::Interrupts;
pub(crate) use jobs::between;
pub(crate) use load::LoadOptions;
pub(crate) use options::{
    AgentOptions, AttachOptions, CancelOptions, JobsOptions, RetryOptions, RunOptions, ShowOptions,
    StackOptions,
};
pub(crate) use render::note;
pub(crate) use run::run_workflow;
pub(crate) use watch::End;

/// What hints call this program.
pub(crate) fn program_name() -> &'static str {
    crate::program::name()
}

/// `stackctl run`.
pub(crate) fn run(options: RunOptions) -> ExitCode {
    main(async move { Ok(run::run_workflow(&options, Interrupts::listen()?).await?.exit_code()) })
}

/// `stackctl attach`.
pub(crate) fn attach(options: AttachOptions) -> ExitCode {
    main(async move { Ok(run::attach(&options).await?.exit_code()) })
}

/// `stackctl jobs`.
pub(crate) fn jobs(options: JobsOptions) -> ExitCode {
    main(async move { jobs::jobs(&options).await.map(|()| exit::COMPLETE) })
}

/// `stackctl show`.
pub(crate) fn show(options: ShowOptions) -> ExitCode {
    main(async move { jobs::show(&options).await.map(|()| exit::COMPLETE) })
}

/// `stackctl cancel`.
pub(crate) fn cancel(options: CancelOptions) -> ExitCode {
    main(async move { jobs::cancel(&options).await.map(|()| exit::COMPLETE) })
}

/// `stackctl load`.
pub(crate) fn load(options: LoadOptions) -> ExitCode {
    main(load::load(options))
}

fn main(command: impl Future<Output = anyhow::Result<u8>>) -> ExitCode {
    complete(command, |error| error.downcast_ref().map_or(exit::FAILED, ClientError::exit_code))
}
