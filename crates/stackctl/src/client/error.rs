//! Why a command of the client failed, and what it exits with.

use http::StatusCode;
use web::{AskError, BaseUrl};

/// The exit codes that callers rely on.
pub(crate) mod exit {
    /// The job is complete.
    pub(crate) const COMPLETE: u8 = 0;
    /// The job failed.
    pub(crate) const FAILED: u8 = 1;
    /// The command line or the request is wrong.
    pub(crate) const USAGE: u8 = 2;
    /// The stack cannot be reached, or takes no job now.
    pub(crate) const UNREACHABLE: u8 = 3;
    /// The job was cancelled, or left with Ctrl-C.
    pub(crate) const CANCELLED: u8 = 130;
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Its cause stands in the sentence, before what to do about it.
    #[error(
        "nobody answers at {url} ({}): start a stack with `stackctl up`, or name another with --url",
        chain(.cause)
    )]
    Unreachable { url: BaseUrl, cause: AskError },
    #[error("what answers at {url} is no stack ({what}): name one with --url")]
    NotAStack { url: BaseUrl, what: String },
    /// The answer says what to do.
    #[error("{sentence}")]
    Refused { status: StatusCode, code: Option<String>, sentence: String },
    #[error(
        "{url} has not answered for {seconds} s; the job goes on without a watcher, come back with `{come_back}`"
    )]
    Lost { url: BaseUrl, seconds: u64, come_back: String },
    #[error("no job has an id that begins or ends with '{0}': `stackctl jobs --all` lists them")]
    NoSuchJob(String),
    #[error("'{0}' is no job id: give the digits a-f, 0-9 and hyphens of its beginning or its end")]
    NotAnId(String),
    #[error("'{given}' may be any of {}: give more of the id", .matches.join(", "))]
    Ambiguous { given: String, matches: Vec<String> },
    #[error("{0}")]
    Usage(String),
    #[error("failed to read the prompt from standard input")]
    Prompt(#[source] std::io::Error),
    #[error("failed to read the answer")]
    Answer(#[source] serde_json::Error),
    #[error("failed to print")]
    Output(#[source] std::io::Error),
    #[error("failed to write {file}; choose another place for it")]
    File { file: String, source: std::io::Error },
    #[error("failed to listen to signals")]
    Signals(#[source] std::io::Error),
}

impl ClientError {
    /// What the command exits with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { status, .. } => {
                // These two say "not now", not "not so".
                let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                if status.is_client_error() && !later.contains(status) {
                    exit::USAGE
                } else {
                    exit::UNREACHABLE
                }
            }
            Self::NoSuchJob(_)
            | Self::NotAnId(_)
            | Self::Ambiguous { .. }
            | Self::Prompt(_)
            | Self::Usage(_)
            | Self::File { .. } => exit::USAGE,
            Self::Unreachable { .. }
            | Self::NotAStack { .. }
            | Self::Lost { .. }
            | Self::Answer(_) => exit::UNREACHABLE,
            Self::Output(_) | Self::Signals(_) => exit::FAILED,
        }
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
