//! Why something could not be measured.

use std::io;

/// The result of a measurement.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a process of the benchmark itself.
    #[error("failed to {what}")]
    Io {
        /// What failed.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stack did not start, or did not become ready.
    #[error("{0}; its log:\n{1}")]
    Stack(String, String),
    /// The stack cannot be asked.
    #[error("failed to ask the stack")]
    Client(#[from] stack_client::Error),
    /// A job did not end as expected.
    #[error("a job of {service} did not complete; the last that arrived is: {tail}")]
    Job {
        /// The service.
        service: &'static str,
        /// The end of its stream.
        tail: String,
    },
    /// A program did not do what it was started for.
    #[error("{program} failed ({why})")]
    Program {
        /// The program.
        program: String,
        /// Its exit status, or what is missing.
        why: String,
    },
    /// `/proc` cannot be read.
    #[error("failed to read /proc")]
    Proc(#[from] procfs::ProcError),
    /// A task of the benchmark panicked.
    #[error("a task of the benchmark failed")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// For [`map_err`](std::result::Result::map_err).
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
