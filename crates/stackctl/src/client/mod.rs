//! The commands that submit jobs and look at them: `run`, `attach`, `jobs`, `show`, `cancel`, `load`.

mod draw;
mod error;
mod facts;
pub(crate) mod ids;
mod interrupt;
mod jobs;
mod load;
mod options;
mod render;
mod run;
pub(crate) mod table;
mod watch;

use std::{fs, path::Path, process::ExitCode};

use boot::Secret;
use contract::JobId;
use stack_client::StackUrl;
pub(crate) use stack_client::{Api, chain, clean, one_line};

use crate::command::complete;
pub(crate) use crate::program::name as program_name;
pub(crate) use error::{ClientError, exit};
pub(crate) use interrupt::Interrupts;
pub(crate) use jobs::between;
pub(crate) use load::LoadOptions;
pub(crate) use options::{
    AgentOptions, AttachOptions, CancelOptions, JobsOptions, RetryOptions, RunOptions, ShowOptions,
};
pub(crate) use render::note;
pub(crate) use run::{Work, run_workflow};
pub(crate) use watch::End;

/// The variable that holds a token for the stack.
const TOKEN: &str = "STACK_TOKEN";

/// The stack at `url`, with the token of `token_file` or else of the environment, if there is one.
///
/// # Errors
/// If the token cannot be read or sent, or https cannot be used.
pub(crate) fn stack(
    url: impl Into<StackUrl>,
    token_file: Option<&Path>,
) -> Result<Api, ClientError> {
    let (token, place) = match token_file {
        Some(file) => {
            let token = fs::read_to_string(file)
                .map_err(|error| ClientError::TokenFile(file.to_owned(), error))?;
            (Some(token), file.display().to_string())
        }
        None => (std::env::var(TOKEN).ok().filter(|token| !token.is_empty()), TOKEN.to_owned()),
    };
    let token = token.map(|token| token.trim().to_owned());
    if token.as_ref().is_some_and(|it| it.is_empty() || !it.chars().all(|c| c.is_ascii_graphic())) {
        // The text itself may be a secret.
        return Err(ClientError::Usage(format!(
            "{place} does not hold a token: it must be one word of printable ASCII, such as wfs_…"
        )));
    }
    Ok(Api::new(url)?.with_token(token.map(Secret::new)))
}

/// A command on this stack and that job, to be copied.
pub(crate) fn command_on(url: &StackUrl, verb: &str, job: JobId) -> String {
    format!("{} {verb} {}{}", program_name(), ids::short(job), error::url_argument(url))
}

/// `stackctl run`.
pub(crate) fn run(options: RunOptions) -> ExitCode {
    main(async move { run::run(&options).await })
}

/// `stackctl attach`.
pub(crate) fn attach(options: AttachOptions) -> ExitCode {
    main(async move { run::attach(&options).await })
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
