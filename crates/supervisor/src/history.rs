//! The last lines of all parts, and the next ones, for whoever asks.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use contract::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::{SlotId, control::Reply};

/// How much is remembered, in bytes: as much as is kept in files.
const BYTES: usize = 16 << 20;
/// What a remembered line takes besides its text, in bytes.
const OVERHEAD: usize = 128;
/// How many bytes of a line are remembered.
const LINE: usize = 4096;
/// How many lines a follower may be behind.
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
    /// Logged now.
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

/// What was logged.
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
    /// Starts with what was logged before.
    pub(crate) fn new(past: Vec<Entry>) -> Self {
        let mut lines = Lines::default();
        past.into_iter().for_each(|entry| lines.push(Arc::new(entry)));
        Self { lines: Mutex::new(lines), followers: broadcast::Sender::new(BEHIND) }
    }

    pub(crate) fn add(&self, entry: Arc<Entry>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(Arc::clone(&entry));
        // Under the lock, so that whoever looks gets each line once. Fails if nobody follows.
        let _ = self.followers.send(entry);
    }

    /// What was logged, and what will be.
    pub(crate) fn look(&self) -> (Vec<Arc<Entry>>, broadcast::Receiver<Arc<Entry>>) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        (lines.entries.iter().cloned().collect(), self.followers.subscribe())
    }
}

/// As much of a line as is remembered, in whole characters.
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
    fn each_line_once_and_not_too_many() {
        let history = History::new(vec![entry("before")]);
        assert_eq!(history.look().0[0].text, "before");
        let long = "é".repeat(LINE);
        let most = BYTES / (LINE + OVERHEAD);
        for _ in 0..most + 5 {
            history.add(Arc::new(entry(&long)));
        }
        let (past, mut future) = history.look();
        assert_eq!(past.len(), most);
        assert_eq!(past[most - 1].text.len(), LINE);
        assert!(future.try_recv().is_err());
        history.add(Arc::new(entry("next")));
        assert_eq!(future.try_recv().unwrap().text, "next");
    }
}
