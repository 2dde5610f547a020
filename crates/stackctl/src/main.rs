//! `stackctl`: the operator's command.

mod cli;
mod serve;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Up(options) => up::main(options),
        Command::Serve { service } => serve::main(service),
    }
}
