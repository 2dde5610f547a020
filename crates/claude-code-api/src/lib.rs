//! Runs the Claude Code CLI on one job.
//!
//! [`execute()`] is the job: from a validated request to a stream of steps that ends with one verdict.
//! What the CLI prints is passed on line by line as it stands; what it leaves behind (processes, files)
//! is gone before the last step.
//!
//! There are two parts. The *runner* has to do with processes: it starts one, passes its lines on, keeps its time
//! limits, and ends it with everything it has started. A *dialect* knows one program: its command line, what its
//! lines mean, its files, and when a run was a success. Claude's is the first and so far the only one; another
//! agent is another implementation of `dialect::Dialect`.
//!
//! | module | idea |
//! |---|---|
//! | `config` | what the operator sets |
//! | `execute` | the job, from the request to the verdict; where an agent is confined |
//! | `dialect` | the line between the two parts |
//! | `runner` | the running process, from the first line to the last descendant; what is kept, and what is thrown away |
//! | `claude` | how the CLI is called, what it says, and what became of it |
//!
//! *Architecture invariants:* `runner` and `execute` know no option, variable, file or message of any program but
//! through the dialect. This crate knows nothing of git.

mod claude;
mod config;
mod dialect;
mod execute;
mod refusal;
mod runner;
mod service;

pub use claude::Credential;
pub use config::Config;
pub use execute::{execute, kill_now};
pub use runner::Patience;
pub use service::{ClaudeCodeApi, main};
