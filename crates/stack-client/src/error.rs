//! Why there is no answer, or not the expected one.

use contract::JobId;
use http::StatusCode;
use transcript::chain;
use web::AskError;

use crate::StackUrl;

/// Why a request or a stream has no result. The messages say what happened; what to do about it is the caller's to say.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or no answer on it. The cause is part of the message.
    #[error("nothing answers at {url} ({})", chain(.cause))]
    Unreachable {
        /// The stack.
        url: StackUrl,
        /// What went wrong.
        cause: AskError,
    },
    /// Something answers that is not a stack.
    #[error("what answers at {url} is not a stack ({what})")]
    NotAStack {
        /// Its address.
        url: StackUrl,
        /// What it answers.
        what: String,
    },
    /// The stack refused the request. Its sentence says what to do.
    #[error("{sentence}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The code, if there is one.
        code: Option<String>,
        /// The sentence, fit for a terminal.
        sentence: String,
    },
    /// A stack that answered before has been away for too long.
    #[error("{url} has not answered for {seconds} s; the job continues without a watcher")]
    Lost {
        /// The stack.
        url: StackUrl,
        /// For how long.
        seconds: u64,
        /// The job that was followed.
        job: JobId,
    },
    /// An answer that cannot be read.
    #[error("failed to read the answer")]
    Answer(#[source] serde_json::Error),
    /// There is no certificate to trust.
    #[error("cannot use https: no root certificates could be read ({0})")]
    Certificates(String),
}
