//! A command from its future to its exit code.

use std::{io::Write as _, process::ExitCode};

use tokio::runtime::Builder;

use crate::{client::ClientError, ops::OpsError};

/// The exit codes that callers rely on.
pub(crate) mod exit {
    /// The command did what it was asked for, or the job is complete.
    pub(crate) const COMPLETE: u8 = 0;
    /// The command or the job failed.
    pub(crate) const FAILED: u8 = 1;
    /// The command line or the request is wrong.
    pub(crate) const USAGE: u8 = 2;
    /// The stack cannot be reached, or takes no job now.
    pub(crate) const UNREACHABLE: u8 = 3;
    /// `up` has wrong settings. This code and the next are those of `sysexits.h`.
    pub(crate) const SETTINGS: u8 = 64;
    /// `up` cannot have what it needs, such as a port.
    pub(crate) const UNAVAILABLE: u8 = 69;
    /// The job was cancelled, or left with Ctrl-C.
    pub(crate) const CANCELLED: u8 = 130;
}

/// Runs a command to its end on this thread. Prints its error, if it fails.
pub(crate) fn complete(command: impl Future<Output = anyhow::Result<u8>>) -> ExitCode {
    complete_on(&mut Builder::new_current_thread(), command)
}

/// The same with two threads, for commands that own processes.
pub(crate) fn complete_on_threads(command: impl Future<Output = anyhow::Result<u8>>) -> ExitCode {
    complete_on(Builder::new_multi_thread().worker_threads(2), command)
}

fn complete_on(
    runtime: &mut Builder,
    command: impl Future<Output = anyhow::Result<u8>>,
) -> ExitCode {
    let runtime = runtime.enable_all().build().map_err(anyhow::Error::from);
    let result = runtime.and_then(|runtime| runtime.block_on(command));
    ExitCode::from(result.unwrap_or_else(|error| {
        // Nobody may be there to read it.
        let _ = writeln!(anstream::stderr(), "error: {error:#}");
        code_of(&error)
    }))
}

fn code_of(error: &anyhow::Error) -> u8 {
    let client = error.downcast_ref().map(ClientError::exit_code);
    let ops = || error.downcast_ref().map(OpsError::exit_code);
    let up = || {
        error.downcast_ref().map(|error| match error {
            supervisor::Error::Settings(_) => exit::SETTINGS,
            _ => exit::UNAVAILABLE,
        })
    };
    client.or_else(ops).or_else(up).unwrap_or(exit::FAILED)
}
