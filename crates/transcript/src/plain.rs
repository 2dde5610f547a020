//! A transcript for a file or a pipe: few lines, and none that moves.

use std::fmt::Write as _;

use contract::Timestamp;
use unit_prefix::NumberPrefix;

use crate::{Activity, Item, Line, Role, Transfer};

/// How often the progress of a transfer becomes a line, in milliseconds. The end of a transfer is a line too.
const INTERVAL: i64 = 10_000;

/// Turns items into lines. It remembers what it has already said.
#[derive(Debug, Default)]
pub struct Plain {
    waiting: Option<String>,
    last: Option<LastStage>,
}

/// The last stage of a transfer.
#[derive(Debug)]
struct LastStage {
    name: String,
    /// When the last line was printed for it, or else when it began.
    at: Option<Timestamp>,
    has_ended: bool,
}

impl Plain {
    /// The line for an item, if it deserves one.
    pub fn line(&mut self, item: &Item) -> Option<Line> {
        let detail = |indent, text| Some(Line { role: Role::Detail, indent, text });
        match item {
            Item::Line(line) => Some(line.clone()),
            Item::Activity(Activity::Waiting(text)) => {
                let is_new = self.waiting.replace(text.clone()).as_ref() != Some(text);
                if is_new { detail(0, text.clone()) } else { None }
            }
            Item::Activity(Activity::Transfer(transfer)) => {
                if self.is_due(transfer) {
                    detail(1, describe(transfer))
                } else {
                    None
                }
            }
            Item::Activity(Activity::None | Activity::Working(_)) => None,
        }
    }

    fn is_due(&mut self, transfer: &Transfer) -> bool {
        let is_whole = transfer.total > 0 && transfer.done >= transfer.total;
        let last = self.last.take().filter(|stage| stage.name == transfer.stage);
        let passed = |from: Option<Timestamp>| {
            Some(transfer.at?.as_millisecond().saturating_sub(from?.as_millisecond()))
        };
        let due = match &last {
            // Most stages are too short for a line about their beginning.
            None => is_whole,
            Some(stage) if stage.has_ended => false,
            Some(stage) => is_whole || passed(stage.at).is_some_and(|passed| passed >= INTERVAL),
        };
        let has_ended = is_whole || last.as_ref().is_some_and(|stage| stage.has_ended);
        let at = if due { transfer.at } else { last.map_or(transfer.at, |stage| stage.at) };
        self.last = Some(LastStage { name: transfer.stage.clone(), at, has_ended });
        due
    }
}

fn describe(transfer: &Transfer) -> String {
    let mut text = format!("{}: {}", transfer.stage, transfer.done);
    if transfer.total > 0 {
        let _ = write!(text, " of {}", transfer.total);
    }
    if transfer.bytes > 0 {
        let _ = write!(text, ", {}", bytes(transfer.bytes));
    }
    text
}

/// A number of bytes, for people.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
    match NumberPrefix::decimal(bytes as f64) {
        NumberPrefix::Standalone(bytes) => format!("{bytes:.0} B"),
        NumberPrefix::Prefixed(prefix, number) => format!("{number:.2} {prefix}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_a_line_every_ten_seconds_and_at_its_end() {
        let mut plain = Plain::default();
        let mut line = |stage: &str, done, seconds: i64| {
            let at = Some(Timestamp::from_millisecond(seconds * 1000));
            let transfer = Transfer { stage: stage.to_owned(), done, total: 9, bytes: 1500, at };
            plain.line(&Item::Activity(Activity::Transfer(transfer))).map(|line| line.text)
        };
        assert_eq!([line("receiving", 1, 0), line("receiving", 2, 9)], [None, None]);
        assert_eq!(line("receiving", 3, 10).as_deref(), Some("receiving: 3 of 9, 1.50 kB"));
        assert_eq!(line("receiving", 4, 19), None);
        assert_eq!(line("receiving", 9, 20).as_deref(), Some("receiving: 9 of 9, 1.50 kB"));
        assert_eq!(line("receiving", 9, 90), None, "its end is told once");
        assert_eq!(line("checkout", 9, 90).as_deref(), Some("checkout: 9 of 9, 1.50 kB"));
    }

    #[test]
    fn a_wait_is_told_once() {
        let mut plain = Plain::default();
        let mut line = |text: &str| {
            let waiting = Activity::Waiting(text.to_owned());
            plain.line(&Item::Activity(waiting)).map(|line| line.text)
        };
        assert_eq!(line("place 2").as_deref(), Some("place 2"));
        assert_eq!(line("place 2"), None);
        assert_eq!(line("place 1").as_deref(), Some("place 1"));
    }
}
