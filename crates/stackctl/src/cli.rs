//! The command line.

use std::{ffi::OsString, io::Write as _, process::ExitCode};

use clap::{
    Args, Parser, Subcommand, builder::PossibleValuesParser, builder::TypedValueParser as _,
};
use supervisor::Part;

use crate::{
    bench::BenchOptions,
    client::{
        ApplyOptions, AttachOptions, CancelOptions, CheckoutCommand, DeleteOptions, DeliverOptions,
        DiffOptions, JobsOptions, LoadOptions, RunOptions, ShowOptions,
    },
    command::exit,
    completions::CompletionsOptions,
    doctor::DoctorOptions,
    ops::{AdoptOptions, GcOptions, LogsOptions, PsOptions, ScaleOptions, TokenCommand},
    up::UpOptions,
};

const EXAMPLES: &str = "\
Examples:
  stackctl demo                      see the whole stack at work, without a key
  stackctl doctor                    check what this machine still needs
  stackctl up                        run the whole stack on this machine
  stackctl run --repo https://github.com/user/repo.git --prompt 'Add a README'
  stackctl jobs                      list past and running jobs
  stackctl diff 7c3e91d2             show what a job has changed
  stackctl ps                        show what the stack is doing";

/// Coding-agent jobs over HTTP, on your own machines.
#[derive(Debug, Parser)]
#[command(name = "stackctl", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(UpOptions),
    Run(Box<RunOptions>),
    Jobs(JobsOptions),
    Show(ShowOptions),
    Attach(AttachOptions),
    Diff(DiffOptions),
    Apply(ApplyOptions),
    Checkout(CheckoutCommand),
    Cancel(CancelOptions),
    Delete(DeleteOptions),
    Deliver(DeliverOptions),
    Ps(PsOptions),
    Scale(ScaleOptions),
    Logs(LogsOptions),
    Gc(GcOptions),
    Adopt(AdoptOptions),
    Token(TokenCommand),
    Load(LoadOptions),
    Bench(BenchOptions),
    Demo(DemoOptions),
    Doctor(DoctorOptions),
    Completions(CompletionsOptions),
    /// Stand in for the Claude Code CLI and take its command line; `demo` uses it
    #[command(hide = true, disable_help_flag = true, disable_version_flag = true)]
    RehearsalAgent {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run one part of the stack in this process; `up` and the container images use it
    Serve {
        /// Which part
        #[arg(value_parser = part())]
        service: Part,
    },
}

/// Prints why the command line is refused, or the help that was asked for. Where the reason repeats a URL, it leaves out
/// the credentials in it.
pub(crate) fn refuse(error: &clap::Error, arguments: impl Iterator<Item = String>) -> ExitCode {
    let text = arguments.fold(error.render().ansi().to_string(), |text, argument| {
        let Some((_, rest)) = argument.split_once("://") else { return text };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        match authority.rsplit_once('@') {
            Some((credentials, _)) if !credentials.is_empty() => text.replace(credentials, "***"),
            _ => text,
        }
    });
    // Nobody may be there to read it.
    let _ = if error.use_stderr() {
        anstream::stderr().write_all(text.as_bytes())
    } else {
        anstream::stdout().write_all(text.as_bytes())
    };
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE))
}

fn part() -> impl clap::builder::TypedValueParser<Value = Part> {
    PossibleValuesParser::new(Part::all().map(Part::name))
        .try_map(|name| Part::from_name(&name).ok_or("there is no such part"))
}

/// Show the whole stack at work, without a key and without a network
///
/// Creates a sample repository, starts a stack in a temporary directory, runs one workflow in it with an agent that
/// calls no model, and shows what the agent changed. Then it removes everything.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "\
Examples:
  stackctl demo
  ANTHROPIC_API_KEY=sk-ant-… stackctl demo --real --prompt 'Write tests for hello.py'

Exit codes: 0 the demo ran to its end, 1 something failed, 130 interrupted.")]
pub(crate) struct DemoOptions {
    /// Use the Claude Code CLI and a credential from the environment; this costs money
    #[arg(long)]
    pub(crate) real: bool,
    /// Keep the stack running until Ctrl-C
    #[arg(long)]
    pub(crate) keep: bool,
    /// What the agent is to do [default: a prompt for the sample]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
}
