//! `stackctl`: the operator's command.

mod cli;
mod client;
mod serve;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Up(options) => up::main(options),
        Command::Run(options) => client::run(options),
        Command::Jobs(options) => client::jobs(options),
        Command::Show(options) => client::show(options),
        Command::Attach(options) => client::attach(options),
        Command::Cancel(options) => client::cancel(options),
        Command::Serve { service } => serve::main(service),
    }
}
