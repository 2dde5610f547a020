//! Runs any agent program: its process, its output, its time limits, its private directory, and the cleanup of
//! everything it started.

mod input;
mod lines;
mod private;
mod run;
mod session;
mod tail;
mod time_limits;

pub(crate) use lines::Line;
pub(crate) use private::Private;
pub(crate) use run::{Cause, Run};
pub(crate) use session::{Conversation, record_answer};
pub(crate) use tail::{Tail, last_lines, sentence_part};
pub use time_limits::TimeLimits;

#[cfg(test)]
pub(crate) use lines::{Lines, MAX_LINE};
