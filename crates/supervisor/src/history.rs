//! The last lines of all parts, and the next ones, for whoever asks.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use contract::Timestamp;
use tokio::sync::broadcast;

use crate::{SlotId, control::Reply};

/// How many lines are kept.
const LINES: usize = 10_000;
/// How many bytes of a line are kept.
const LINE: usize = 4096;
/// How many lines a follower may be behind.
const BEHIND: usize = 1000;

/// One line of one part.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) part: String,
    pub(crate) number: u16,
    pub(crate) at: Timestamp,
    pub(crate) text: String,
}

impl From<Entry> for Reply {
    fn from(Entry { part, number, at, text }: Entry) -> Self {
        Self::Line { part, number, at, text }
    }
}

/// What was logged.
#[derive(Debug)]
pub(crate) struct History {
    lines: Mutex<VecDeque<Entry>>,
    followers: broadcast::Sender<Entry>,
}

impl Default for History {
    fn default() -> Self {
        Self { lines: Mutex::default(), followers: broadcast::Sender::new(BEHIND) }
    }
}

impl History {
    pub(crate) fn add(&self, slot: SlotId, text: &str) {
        let text = beginning(text).to_owned();
        let entry = Entry {
            part: slot.part.name().to_owned(),
            number: slot.number,
            at: Timestamp::now(),
            text,
        };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(entry.clone());
        // Under the lock, so that whoever looks gets each line once. Fails if nobody follows.
        let _ = self.followers.send(entry);
    }

    /// What was, and what comes.
    pub(crate) fn look(&self) -> (Vec<Entry>, broadcast::Receiver<Entry>) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        (lines.iter().cloned().collect(), self.followers.subscribe())
    }
}

/// As much of a line as is kept, in whole characters.
fn beginning(text: &str) -> &str {
    let end = (0..=LINE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    if text.len() <= LINE { text } else { text.get(..end).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Part;

    const SLOT: SlotId = SlotId { part: Part::Gateway, number: 1 };

    #[test]
    fn each_line_once_and_not_too_many() {
        let history = History::default();
        for number in 0..LINES + 5 {
            history.add(SLOT, &number.to_string());
        }
        history.add(SLOT, &"é".repeat(LINE));
        let (past, mut future) = history.look();
        assert_eq!(past.len(), LINES);
        assert_eq!(past[0].text, "6");
        assert_eq!(past[LINES - 1].text.len(), LINE);
        assert!(future.try_recv().is_err());
        history.add(SLOT, "next");
        assert_eq!(future.try_recv().unwrap().text, "next");
    }
}
