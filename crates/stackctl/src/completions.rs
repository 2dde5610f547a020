//! `stackctl completions`.

use std::{io::Write as _, process::ExitCode};

use clap::{Args, Command};

const NAME: &str = "stackctl";

/// Print shell completions
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl completions bash > ~/.local/share/bash-completion/completions/stackctl
  stackctl completions zsh > ~/.zfunc/_stackctl
  stackctl completions fish > ~/.config/fish/completions/stackctl.fish")]
pub(crate) struct CompletionsOptions {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

/// Prints the completions of `program`, which is the whole command line.
pub(crate) fn main(options: CompletionsOptions, program: &Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut shown(program), NAME, &mut script);
    // Into memory first: the generator panics where standard output is closed early, as by `head`.
    match std::io::stdout().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The command line without what its help does not show either.
fn shown(program: &Command) -> Command {
    let commands = program.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .subcommands(commands)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn what_is_hidden_is_not_completed() {
        Cli::command().debug_assert();
        let command = shown(&Cli::command());
        assert!(command.find_subcommand("doctor").is_some());
        assert!(command.find_subcommand("rehearsal-agent").is_none());
    }
}
