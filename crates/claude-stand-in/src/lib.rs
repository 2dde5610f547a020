//! A stand-in for the Claude Code CLI: the same command line, the same lines, the same exit codes, and no model.
//!
//! [`run`] speaks the protocol. It waits for the prompt, keeps the transcript, answers interrupts and signals, and
//! leaves when standard input is closed. What the agent says and does in its one turn is up to the caller: the
//! [`rehearsal`] of `stackctl demo` looks around and changes one file, and the tests' agent follows a script.
//!
//! *Architecture invariant:* there is no code for tests here, and no scripts. `stackctl` ships this crate.

mod agent;
mod flags;
mod messages;
pub mod rehearsal;
mod transcript;

pub use agent::{Agent, run};
pub use flags::{Flags, Session};
pub use messages::{Ending, Messages, Partial, Persona, Usage};
