//! A job's events as text for people: [`Transcript`] turns them into lines with a role, and [`Plain`] turns those into
//! the text of a file or a pipe. [`Facts`] collects what the events say about the job.
//!
//! Everything here is a pure function of the events, so a job reads the same whenever and wherever it is read.
//!
//! *Architecture invariant:* every string of an event goes through [`clean`] or [`one_line`] before it becomes part of
//! a line, so a terminal acts on nothing that an agent or a repository says. What somebody is to judge goes through [`visible`],
//! which drops nothing.

mod agent;
mod facts;
mod line;
mod plain;
#[cfg(test)]
mod tests;
mod text;
mod time;
mod transcript;

pub use facts::Facts;
pub use line::{Activity, Item, Line, Role, Transfer};
pub use plain::{Plain, bytes};
pub use text::{chain, clean, is_hidden, one_line, visible};
pub use time::{between, duration};
pub use transcript::Transcript;

use serde_json::Value;

/// The text of a field, or an empty one.
fn text_of<'a>(event: &'a Value, field: &str) -> &'a str {
    event.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// What a job cost, for people.
fn cost(usd: f64) -> String {
    if usd >= 1.0 { format!("${usd:.2}") } else { format!("${usd:.4}") }
}

fn turns(turns: u64) -> String {
    if turns == 1 { "1 turn".to_owned() } else { format!("{turns} turns") }
}
