//! What a caller reads while git works.
//!
//! The thread of the pull puts notes into a [`Reporter`] and never waits; the stream takes them out. A
//! note of progress replaces one of the same stage that has not been taken yet, so a slow reader costs no
//! memory and sees the newest state.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use contract::{EventLine, PullEvent, Timestamp};
use tokio::sync::Notify;

/// Between two notes of progress. With the last states of three stages, which are always sent, this
/// makes at most ten in any second.
const INTERVAL: Duration = Duration::from_millis(150);

/// What progress is made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Objects come from the git host.
    Receiving,
    /// Differences are resolved into objects.
    Resolving,
    /// Files are written.
    Checkout,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Resolving => "resolving",
            Self::Checkout => "checkout",
        }
    }
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) stage: Stage,
    pub(crate) received: usize,
    pub(crate) total: usize,
    pub(crate) bytes: usize,
}

/// One thing to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Note {
    Message(String),
    Progress(Progress),
}

impl Note {
    /// The event, as of now.
    pub(crate) fn event(&self) -> EventLine {
        let timestamp = Timestamp::now();
        match self {
            Self::Message(message) => EventLine::encode(&PullEvent::Message { message, timestamp }),
            Self::Progress(Progress { stage, received, total, bytes }) => {
                EventLine::encode(&PullEvent::Progress {
                    stage: stage.name(),
                    received: *received as u64,
                    total: *total as u64,
                    bytes: *bytes as u64,
                    timestamp,
                })
            }
        }
    }
}

/// Between the thread of the pull and its stream. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reporter {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
    abandoned: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Note>,
    /// Not queued yet: either it is too early for it, or it is followed by a newer one.
    held: Option<Progress>,
    last: Option<Instant>,
}

impl Reporter {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `text`, after all progress so far.
    pub(crate) fn message(&self, text: impl Into<String>) {
        let mut state = self.state();
        state.flush();
        state.queue.push_back(Note::Message(text.into()));
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Sends how far a stage is, now or when the interval is over.
    pub(crate) fn progress(&self, progress: Progress) {
        let mut state = self.state();
        if state.held.is_some_and(|held| held.stage != progress.stage) {
            state.flush();
        }
        state.held = Some(progress);
        if state.last.is_none_or(|last| last.elapsed() >= INTERVAL) {
            state.flush();
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Sends the last state of the stage that ends here.
    pub(crate) fn end_stage(&self) {
        self.state().flush();
        self.shared.changed.notify_one();
    }

    /// Waits for the next note.
    pub(crate) async fn next(&self) -> Note {
        loop {
            let changed = self.shared.changed.notified();
            if let Some(note) = self.take() {
                return note;
            }
            changed.await;
        }
    }

    /// The next note, if there is one.
    pub(crate) fn take(&self) -> Option<Note> {
        self.state().queue.pop_front()
    }

    /// From now on nobody reads what is told.
    pub(crate) fn abandon(&self) {
        self.shared.abandoned.store(true, Ordering::SeqCst);
    }

    /// Whether [`abandon`](Self::abandon) was called.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.shared.abandoned.load(Ordering::SeqCst)
    }
}

impl State {
    fn flush(&mut self) {
        let Some(held) = self.held.take() else { return };
        self.last = Some(Instant::now());
        match self.queue.back_mut() {
            Some(Note::Progress(last)) if last.stage == held.stage => *last = held,
            _ => self.queue.push_back(Note::Progress(held)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(stage: Stage, received: usize) -> Progress {
        Progress { stage, received, total: 1000, bytes: received }
    }

    #[test]
    fn the_newest_wins_and_the_last_of_a_stage_is_told() {
        let reporter = Reporter::default();
        for received in 0..=1000 {
            reporter.progress(progress(Stage::Receiving, received));
        }
        for received in 0..=1000 {
            reporter.progress(progress(Stage::Resolving, received));
        }
        reporter.message("done");
        let notes: Vec<_> = std::iter::from_fn(|| reporter.take()).collect();
        assert_eq!(
            notes,
            [
                Note::Progress(progress(Stage::Receiving, 1000)),
                Note::Progress(progress(Stage::Resolving, 1000)),
                Note::Message("done".into()),
            ]
        );
    }

    #[test]
    fn at_most_ten_a_second_to_a_fast_reader() {
        let reporter = Reporter::default();
        let start = Instant::now();
        let mut told = 0;
        while start.elapsed() < Duration::from_millis(500) {
            reporter.progress(progress(Stage::Receiving, 1));
            told += usize::from(reporter.take().is_some());
        }
        assert!((2..=5).contains(&told), "{told}");
    }

    #[tokio::test]
    async fn next_waits_for_a_note() {
        let reporter = Reporter::default();
        let waiting = tokio::spawn({
            let reporter = reporter.clone();
            async move { reporter.next().await }
        });
        tokio::task::yield_now().await;
        reporter.message("here");
        assert_eq!(waiting.await.unwrap(), Note::Message("here".into()));
    }
}
