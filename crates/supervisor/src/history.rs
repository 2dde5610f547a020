//! The recent log lines of all parts, and a stream of new ones.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use contract::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::{SlotId, control::Reply};

/// The size of the history, in bytes. The log files have the same size.
const BYTES: usize = 16 << 20;
/// The memory that a line needs in addition to its text, in bytes.
const OVERHEAD: usize = 128;
/// The maximum length of a line in the history, in bytes.
const LINE: usize = 4096;
/// How many lines a follower may fall behind.
const BEHIND: usize = 1000;

/// One line of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) part: String,
    pub(crate) number: u16,
    pub(crate) at: Timestamp,
    pub(crate) text: String,
}

impl Entry {
    /// A line that is logged now.
    pub(crate) fn new(slot: SlotId, text: &str) -> Self {
        let part = slot.part.name().to_owned();
        Self { part, number: slot.number, at: Timestamp::now(), text: beginning(text).to_owned() }
    }

    fn size(&self) -> usize {
        self.text.len() + OVERHEAD
    }
}

impl From<&Entry> for Reply {
    fn from(entry: &Entry) -> Self {
        let Entry { part, number, at, text } = entry.clone();
        Self::Line { part, number, at, text }
    }
}

/// The history of all parts.
#[derive(Debug)]
pub(crate) struct History {
    lines: Mutex<Lines>,
    followers: broadcast::Sender<Arc<Entry>>,
}

#[derive(Debug, Default)]
struct Lines {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
}

impl Lines {
    fn push(&mut self, entry: Arc<Entry>) {
        self.bytes += entry.size();
        self.entries.push_back(entry);
        while self.bytes > BYTES {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.size();
        }
    }
}

impl History {
    /// Starts with earlier lines.
    pub(crate) fn new(past: Vec<Entry>) -> Self {
        let mut lines = Lines::default();
        past.into_iter().for_each(|entry| lines.push(Arc::new(entry)));
        Self { lines: Mutex::new(lines), followers: broadcast::Sender::new(BEHIND) }
    }

    /// Adds a line. `also` gets it too, and sees the lines in the order of the history.
    pub(crate) fn add(&self, entry: Entry, also: impl FnOnce(Arc<Entry>)) {
        let entry = Arc::new(entry);
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(Arc::clone(&entry));
        also(Arc::clone(&entry));
        // Sent under the lock, so that every follower gets each line once. Fails if there is no follower.
        let _ = self.followers.send(entry);
    }

    /// The history, and a stream of new lines.
    pub(crate) fn look(&self) -> (Vec<Arc<Entry>>, broadcast::Receiver<Arc<Entry>>) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        (lines.entries.iter().cloned().collect(), self.followers.subscribe())
    }
}

/// The beginning of a line, truncated at a character boundary.
fn beginning(text: &str) -> &str {
    let end = (0..=LINE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    if text.len() <= LINE { text } else { text.get(..end).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Part;

    fn entry(text: &str) -> Entry {
        Entry::new(SlotId { part: Part::Gateway, number: 1 }, text)
    }

    #[test]
    fn each_line_arrives_once_and_the_history_is_limited() {
        let history = History::new(vec![entry("before")]);
        assert_eq!(history.look().0[0].text, "before");
        let long = "é".repeat(LINE);
        let most = BYTES / (LINE + OVERHEAD);
        for _ in 0..most + 5 {
            history.add(entry(&long), drop);
        }
        let (past, mut future) = history.look();
        assert_eq!(past.len(), most);
        assert_eq!(past[most - 1].text.len(), LINE);
        assert!(future.try_recv().is_err());
        history.add(entry("next"), drop);
        assert_eq!(future.try_recv().unwrap().text, "next");
    }
}
