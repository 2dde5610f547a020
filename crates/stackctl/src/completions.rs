//! `stackctl completions`.

use std::{io::Write as _, process::ExitCode};

use clap::{Command, CommandFactory as _};

use crate::cli::{Cli, CompletionsOptions};

const NAME: &str = "stackctl";

pub(crate) fn main(options: CompletionsOptions) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut shown(), NAME, &mut script);
    // Into memory first: the generator panics where standard output is closed early, as by `head`.
    match std::io::stdout().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The command line without what its help does not show either.
fn shown() -> Command {
    let whole = Cli::command();
    let commands = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .subcommands(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_not_completed() {
        Cli::command().debug_assert();
        let command = shown();
        assert!(command.find_subcommand("doctor").is_some());
        assert!(command.find_subcommand("rehearsal-agent").is_none());
    }
}
