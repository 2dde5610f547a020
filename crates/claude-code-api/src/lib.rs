//! Runs the Claude Code CLI on one job.
//!
//! [`execute()`] is the job: from a validated request to a stream of steps that ends with one verdict.
//! What the CLI prints is passed on line by line as it stands; what it leaves behind (processes, files)
//! is gone before the last step.
//!
//! The CLI is a guest that is not trusted: its environment is a list that stands in `invocation`, its
//! credential comes by file descriptor, its working directory is found beneath a directory handle, its
//! output is data, and the repository's own configuration is not obeyed unless the operator says so.
//!
//! | module | idea |
//! |---|---|
//! | `config`, `credential` | what the operator sets |
//! | `invocation`, `instructions` | how the CLI is called |
//! | `lines`, `message` | what it prints: bytes to lines to messages |
//! | `agent`, `input`, `patience` | the running process, from the first line to the last descendant |
//! | `verdict` | what became of it |
//! | `session`, `private` | what is kept, and what is thrown away |
//!
//! *Architecture invariant:* this crate knows nothing of git.

mod agent;
mod config;
mod credential;
mod execute;
mod input;
mod instructions;
mod invocation;
mod lines;
mod message;
mod patience;
mod private;
mod refusal;
mod service;
mod session;
mod tail;
mod verdict;

pub use config::Config;
pub use credential::Credential;
pub use execute::{execute, kill_now};
pub use patience::Patience;
pub use service::{ClaudeCodeApi, main};
