//! Why a command of the client failed, and what it exits with.

use std::path::PathBuf;

use contract::Code;
use http::StatusCode;
use stack_client::{DEFAULT_URL, Error, StackUrl};
use transcript::chain;

use super::command_on;
use crate::{command::exit, program};

/// Why there is no result. Each message says what to do next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The message has the causes, since the hint follows them.
    #[error("{error}{hint}", error = chain(.0), hint = hint(.0))]
    Stack(Error),
    #[error("no job has an ID that begins or ends with '{0}': `{me} jobs --all` lists all jobs", me = program::name())]
    NoSuchJob(String),
    #[error(
        "that is not a job ID: give the beginning or the end of one (at least 3 hexadecimal digits and hyphens)"
    )]
    NotAnId,
    #[error("'{given}' matches {}: give more of the ID", .matches.join(", "))]
    Ambiguous { given: String, matches: Vec<String> },
    #[error("{0}")]
    Usage(String),
    #[error("failed to read the prompt from standard input")]
    Prompt(#[source] std::io::Error),
    #[error(
        "failed to read the prompt from {file}: {1}; if this is the prompt itself, pass it on standard input, with --prompt -", file = .0.display()
    )]
    PromptFile(PathBuf, std::io::Error),
    #[error("failed to read the token from {file}: {1}; name a file that contains nothing but the token", file = .0.display())]
    TokenFile(PathBuf, std::io::Error),
    #[error("{0}")]
    Git(String),
    #[error("failed to write to the directory for temporary files")]
    Temporary(#[source] std::io::Error),
    #[error("failed to print")]
    Output(#[source] std::io::Error),
    #[error("failed to write {file}: {error}; choose another file")]
    File { file: String, error: std::io::Error },
    #[error("failed to listen for signals")]
    Signals(#[source] std::io::Error),
}

impl From<Error> for ClientError {
    fn from(error: Error) -> Self {
        Self::Stack(error)
    }
}

impl ClientError {
    /// What the command exits with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Stack(Error::Refused { status, .. }) => {
                // These two mean "not now".
                let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                if status.is_client_error() && !later.contains(status) {
                    exit::USAGE
                } else {
                    exit::UNREACHABLE
                }
            }
            Self::Stack(_) => exit::UNREACHABLE,
            Self::NoSuchJob(_)
            | Self::NotAnId
            | Self::Ambiguous { .. }
            | Self::Prompt(_)
            | Self::PromptFile(..)
            | Self::TokenFile(..)
            | Self::Usage(_)
            | Self::File { .. } => exit::USAGE,
            Self::Git(_) | Self::Temporary(_) | Self::Output(_) | Self::Signals(_) => exit::FAILED,
        }
    }
}

/// What to do about an error of the stack, to follow its message.
fn hint(error: &Error) -> String {
    match error {
        Error::Unreachable { url, .. } if url.is_https() => {
            ": name another stack with --url; SSL_CERT_FILE names the certificates to trust if yours come from a private authority"
                .to_owned()
        }
        Error::Unreachable { .. } => {
            format!(": start a stack with `{} up`, or name another one with --url", program::name())
        }
        Error::NotAStack { .. } => ": name a stack with --url".to_owned(),
        Error::Lost { url, job, .. } => {
            format!("; come back with `{}`", command_on(url, "attach", *job))
        }
        Error::Certificates(_) => {
            ": set SSL_CERT_FILE to a file of PEM certificates, such as /etc/ssl/certs/ca-certificates.crt"
                .to_owned()
        }
        Error::Refused { status, .. } if *status == StatusCode::UNAUTHORIZED => {
            "; put a token in STACK_TOKEN, or in a file for --token-file".to_owned()
        }
        // A repository on disk is the one kind that an operator can allow.
        Error::Refused { code, sentence, .. }
            if code.as_deref() == Some(Code::SchemeNotAllowed.as_str())
                && sentence.contains("'file'")
                && !sentence.contains(ALLOW_FILES) =>
        {
            format!("; `{ALLOW_FILES}=1 {} up` starts a stack that clones from disk", program::name())
        }
        Error::Refused { .. } | Error::Answer(_) => String::new(),
    }
}

const ALLOW_FILES: &str = "ALLOW_FILE_REPOSITORIES";

/// The argument that names this stack, unless it is the default one.
pub(super) fn url_argument(url: &StackUrl) -> String {
    let url = url.to_string();
    if url == DEFAULT_URL { String::new() } else { format!(" --url {url}") }
}
