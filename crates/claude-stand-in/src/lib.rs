//! A stand-in for the Claude Code CLI: the same command line, messages and exit codes, but no model.
//!
//! [`run`] implements the protocol. It waits for the prompt, writes the transcript, handles interrupts and signals,
//! and exits when standard input is closed. The caller defines what the agent does in its one turn: the [`rehearsal`]
//! of `stackctl demo` surveys its directory and changes one file, the [`workload`] of `stackctl bench` floods or waits,
//! and the tests' agent follows a script.
//!
//! *Architecture invariant:* this crate contains no test code and no scripts, because `stackctl` ships it.

mod agent;
mod flags;
mod messages;
pub mod rehearsal;
mod transcript;
pub mod workload;

pub use agent::{Agent, run};
pub use flags::{Flags, Session};
pub use messages::{Ending, Messages, Partial, Persona, Usage};
