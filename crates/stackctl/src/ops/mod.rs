//! The commands of whoever runs a whole stack: `ps`, `scale`, `logs`. They work on a stack that is on a Docker
//! Swarm, through the engine's API, and on one that `stackctl up` runs, through its control socket.
//!
//! What can be pure is: what the engine or `up` says becomes rows, lines and waits in functions without I/O.

mod engine;
mod error;
mod logs;
mod options;
mod parts;
mod ps;
mod scale;
mod target;

use std::process::ExitCode;

use crate::command::complete;
pub(crate) use options::{LogsOptions, PsOptions, ScaleOptions};

/// `stackctl ps`.
pub(crate) fn ps(options: PsOptions) -> ExitCode {
    main(ps::ps(options))
}

/// `stackctl scale`.
pub(crate) fn scale(options: ScaleOptions) -> ExitCode {
    main(scale::scale(options))
}

/// `stackctl logs`.
pub(crate) fn logs(options: LogsOptions) -> ExitCode {
    main(logs::logs(options))
}

fn main(command: impl Future<Output = anyhow::Result<u8>>) -> ExitCode {
    complete(command, error::code_of)
}
