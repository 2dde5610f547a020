//! `stackctl`: the operator's command.

mod bench;
mod cli;
mod client;
mod command;
mod completions;
mod demo;
mod doctor;
#[cfg(test)]
mod fixtures;
mod ops;
mod program;
mod serve;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use claude_stand_in::{rehearsal, workload};

use crate::{
    cli::{Cli, Command},
    command::{complete, complete_on_threads},
};

fn main() -> ExitCode {
    if let Some(exit) = github_pull_api::connect_for_git() {
        return exit;
    }
    let mut args = std::env::args_os();
    let program = args.next();
    if rehearsal::is_called(program.as_deref()) {
        rehearsal::main(args);
    }
    if workload::is_called(program.as_deref()) {
        workload::main(args);
    }
    let matches = program::with_name(Cli::command()).try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return cli::refuse(&error, std::env::args()),
    };
    match cli.command {
        Command::Up(options) => complete_on_threads(up::up(options)),
        Command::Run(options) => complete(client::run(*options)),
        Command::Jobs(options) => complete(client::jobs(options)),
        Command::Show(options) => complete(client::show(options)),
        Command::Attach(options) => complete(client::attach(options)),
        Command::Diff(options) => complete(client::diff(options)),
        Command::Apply(options) => complete(client::apply(options)),
        Command::Checkout(options) => complete(client::checkout(options)),
        Command::Cancel(options) => complete(client::cancel(options)),
        Command::Delete(options) => complete(client::delete(options)),
        Command::Deliver(options) => complete(client::deliver(options)),
        Command::Ps(options) => complete(ops::ps(options)),
        Command::Scale(options) => complete(ops::scale(options)),
        Command::Logs(options) => complete(ops::logs(options)),
        Command::Adopt(options) => complete(ops::adopt(options)),
        Command::Gc(options) => complete(ops::gc(options)),
        Command::Token(command) => complete(ops::token(command)),
        Command::Load(options) => complete(client::load(options)),
        Command::Bench(options) => complete_on_threads(bench::bench(options)),
        Command::Demo(options) => complete_on_threads(demo::demo(options)),
        Command::Doctor(options) => complete(doctor::doctor(options)),
        Command::Completions(options) => completions::main(options, &Cli::command()),
        Command::RehearsalAgent { args } => rehearsal::main(args),
        Command::Serve { service } => serve::main(service),
    }
}
