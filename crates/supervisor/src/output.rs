//! The logs of all parts: on the terminal, in files on the volume, and for clients.

use std::sync::Arc;

use anstyle::Style;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{
    SlotId,
    history::{Entry, History},
    log_files::LogFiles,
};

/// How many lines may wait for the terminal, and how many for the disk. If these are slow, parts block as if their
/// pipes were full.
const WAITING: usize = 1000;
/// How many bytes are written to the disk at once.
const BLOCK: usize = 64 << 10;

enum Line {
    Part(SlotId, String),
    Note(String),
    End(oneshot::Sender<()>),
}

enum Kept {
    Entry(Arc<Entry>),
    End(oneshot::Sender<()>),
}

/// Collects the lines of all parts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Output {
    lines: mpsc::Sender<Line>,
    kept: Option<mpsc::Sender<Kept>>,
    history: Arc<History>,
}

impl Output {
    /// Starts with the content of the files, if any.
    pub(crate) fn start(files: Option<(LogFiles, Vec<Entry>)>) -> Self {
        let (lines, receiver) = mpsc::channel(WAITING);
        let plain = std::env::var("LOG_FORMAT").is_ok_and(|format| format == "json");
        // Separate threads, because writing to a terminal or a disk may block. They end with the last sender.
        std::thread::spawn(move || write(receiver, plain));
        let (files, past) = files.unzip();
        let kept = files.map(|files| {
            let (kept, receiver) = mpsc::channel(WAITING);
            let lines = lines.downgrade();
            std::thread::spawn(move || keep(receiver, files, &lines));
            kept
        });
        Self { lines, kept, history: Arc::new(History::new(past.unwrap_or_default())) }
    }

    /// Adds a line that a part has logged.
    pub(crate) async fn line(&self, slot: SlotId, text: String) {
        // These fail only when this process is about to exit.
        let place = match &self.kept {
            Some(kept) => kept.reserve().await.ok(),
            None => None,
        };
        self.history.add(Entry::new(slot, &text), |entry| {
            if let Some(place) = place {
                place.send(Kept::Entry(entry));
            }
        });
        let _ = self.lines.send(Line::Part(slot, text)).await;
    }

    /// Prints a message of the supervisor itself.
    pub(crate) fn note(&self, text: &str) {
        let _ = self.lines.try_send(Line::Note(text.to_owned()));
    }

    /// The history, and a stream of new lines.
    pub(crate) fn history(&self) -> (Vec<Arc<Entry>>, broadcast::Receiver<Arc<Entry>>) {
        self.history.look()
    }

    /// Waits until all earlier lines are written.
    pub(crate) async fn finish(&self) {
        let (sender, written) = oneshot::channel();
        if self.lines.send(Line::End(sender)).await.is_ok() {
            let _ = written.await;
        }
        let (sender, written) = oneshot::channel();
        if let Some(kept) = &self.kept
            && kept.send(Kept::End(sender)).await.is_ok()
        {
            let _ = written.await;
        }
    }
}

fn write(mut lines: mpsc::Receiver<Line>, plain: bool) {
    use std::io::Write;
    // Use colour only on a terminal, and not with NO_COLOR.
    let mut stream = anstream::stderr();
    while let Some(line) = lines.blocking_recv() {
        // If standard error is closed, there is nowhere to report it.
        let _ = match line {
            // A prefix would break lines that programs read.
            Line::Part(_, text) if plain => writeln!(stream, "{text}"),
            Line::Part(slot, text) => {
                let style = slot.part.style();
                writeln!(stream, "{style}{slot:<18}{style:#}| {text}")
            }
            Line::Note(text) => {
                let style = Style::new().bold();
                writeln!(stream, "{style}{:<18}{style:#}| {text}", "stackctl")
            }
            Line::End(done) => done.send(()).map_err(|()| std::io::ErrorKind::BrokenPipe.into()),
        };
    }
}

/// Writes lines to the files, as many at once as there are. Reports a failure once, until writing succeeds again.
fn keep(mut kept: mpsc::Receiver<Kept>, mut files: LogFiles, notes: &mpsc::WeakSender<Line>) {
    let mut failing = false;
    while let Some(first) = kept.blocking_recv() {
        let mut block = Vec::new();
        let mut ends = Vec::new();
        let mut next = Some(first);
        while let Some(kept_line) = next {
            match kept_line {
                Kept::Entry(entry) => {
                    // A line consists of text and numbers, which are always JSON.
                    if serde_json::to_writer(&mut block, &*entry).is_ok() {
                        block.push(b'\n');
                    }
                }
                Kept::End(done) => ends.push(done),
            }
            next = if block.len() < BLOCK { kept.try_recv().ok() } else { None };
        }
        let written = files.append(&block);
        if let (Err(error), false) = (&written, failing)
            && let Some(notes) = notes.upgrade()
        {
            let text = format!(
                "failed to write logs to the workspace: {error}; `logs` shows them while the stack is running"
            );
            let _ = notes.try_send(Line::Note(text));
        }
        failing = written.is_err();
        for done in ends {
            // Fails if the caller has given up.
            let _ = done.send(());
        }
    }
}
