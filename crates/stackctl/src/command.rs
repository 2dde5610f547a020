//! A command from its future to its exit code.

use std::{io::Write as _, process::ExitCode};

/// Runs a command to its end. What goes wrong is said on standard error, and `code_of` says which exit code it is.
pub(crate) fn complete(
    command: impl Future<Output = anyhow::Result<u8>>,
    code_of: impl FnOnce(&anyhow::Error) -> u8,
) -> ExitCode {
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(command));
    ExitCode::from(result.unwrap_or_else(|error| {
        // Nobody may be there to read it.
        let _ = writeln!(anstream::stderr(), "error: {error:#}");
        code_of(&error)
    }))
}
