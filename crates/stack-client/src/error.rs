//! Errors of the client.

use contract::JobId;
use http::StatusCode;
use transcript::chain;
use web::AskError;

use crate::StackUrl;

/// Why a request or a stream has no result. The message says what happened; the caller of this crate adds what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection, or no response on it. The cause is part of the message.
    #[error("nothing answers at {url} ({})", chain(.cause))]
    Unreachable {
        /// The stack.
        url: StackUrl,
        /// What went wrong.
        cause: AskError,
    },
    /// The server at this address is not a stack.
    #[error("the server at {url} is not a stack ({what})")]
    NotAStack {
        /// Its address.
        url: StackUrl,
        /// How it answers.
        what: String,
    },
    /// The stack refused the request. Its sentence says what to do.
    #[error("{sentence}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The error code, if any.
        code: Option<String>,
        /// The error sentence, safe for a terminal.
        sentence: String,
    },
    /// A stack that answered before has not answered for too long.
    #[error("{url} has not answered for {seconds} s; the job continues without a watcher")]
    Lost {
        /// The stack.
        url: StackUrl,
        /// For how long.
        seconds: u64,
        /// The job that was followed.
        job: JobId,
    },
    /// The response cannot be parsed.
    #[error("failed to parse the response")]
    Answer(#[source] serde_json::Error),
    /// There are no root certificates.
    #[error("https needs root certificates, but none could be read ({0}): set SSL_CERT_FILE")]
    Certificates(String),
}
