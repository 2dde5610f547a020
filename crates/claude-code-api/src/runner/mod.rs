//! Runs an agent's program, whichever it is: its process and its lines, its time limits, the directory it has for
//! itself, and the end of everything it has started.

mod input;
mod lines;
mod patience;
mod private;
mod run;
mod session;
mod tail;

pub(crate) use lines::Line;
pub use patience::Patience;
pub(crate) use private::Private;
pub(crate) use run::{Cause, Run};
pub(crate) use session::{Conversation, note_answer};
pub(crate) use tail::{Tail, last_words, sentence_part};

#[cfg(test)]
pub(crate) use lines::{Lines, MAX_LINE};
