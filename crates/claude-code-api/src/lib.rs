//! Runs an agent, the Claude Code CLI, for one job.
//!
//! [`execute()`] takes a validated request and returns a stream of steps that ends with one verdict. The CLI's output
//! is passed on line by line, unchanged. Its leftovers (processes, files) are removed before the last step.
//!
//! There are two parts. The *runner* manages processes: it starts one, passes on its lines, enforces time limits, and
//! ends it with all its descendants. A *dialect* knows one program: its command line, its lines, its files, and when
//! a run was a success. Claude's is the only one so far; another agent is another implementation of
//! `dialect::Dialect`.
//!
//! | module | idea |
//! |---|---|
//! | `config` | the operator's settings |
//! | `execute` | the job, from the request to the verdict; confines the agent |
//! | `isolation` | what an agent can reach |
//! | `dialect` | the interface between the two parts |
//! | `runner` | the running process, from its first line to its last descendant |
//! | `claude` | the CLI's command line, messages, files and verdict |
//!
//! *Architecture invariants:* `runner` and `execute` know the options, variables, files and messages of a program
//! only through the dialect. This crate knows nothing about git.

mod claude;
mod config;
mod dialect;
mod execute;
mod isolation;
mod refusal;
mod runner;
mod service;
mod verify;

pub use claude::{Credential, MessagesUrl};
pub use config::{AgentKey, Config};
pub use execute::{execute, kill_now};
pub use isolation::{Isolation, IsolationMode, Obstacle, Seen, Trial};
pub use runner::TimeLimits;
pub use service::{ClaudeCodeApi, main};
