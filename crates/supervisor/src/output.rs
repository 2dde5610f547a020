//! The logs of all parts on one terminal.

use std::sync::Arc;

use anstyle::Style;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{
    SlotId,
    history::{Entry, History},
};

enum Line {
    Part(SlotId, String),
    Note(String),
    End(oneshot::Sender<()>),
}

/// Where the lines of all parts meet. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Output {
    lines: mpsc::Sender<Line>,
    history: Arc<History>,
}

impl Output {
    pub(crate) fn start() -> Self {
        // A terminal that does not keep up holds the parts back no further than their pipes do.
        let (lines, receiver) = mpsc::channel(1000);
        let plain = std::env::var("LOG_FORMAT").is_ok_and(|format| format == "json");
        // A thread of its own, because writing to a terminal may block. It ends with the last sender.
        std::thread::spawn(move || write(receiver, plain));
        Self { lines, history: Arc::default() }
    }

    /// A line that a part has logged.
    pub(crate) async fn line(&self, slot: SlotId, text: String) {
        self.history.add(slot, &text);
        // Fails only when this process is about to end.
        let _ = self.lines.send(Line::Part(slot, text)).await;
    }

    /// Something this command has to say itself.
    pub(crate) fn note(&self, text: &str) {
        let _ = self.lines.try_send(Line::Note(text.to_owned()));
    }

    /// What parts have logged, and what they will.
    pub(crate) fn history(&self) -> (Vec<Entry>, broadcast::Receiver<Entry>) {
        self.history.look()
    }

    /// Waits until everything said so far is written.
    pub(crate) async fn finish(&self) {
        let (sender, done) = oneshot::channel();
        if self.lines.send(Line::End(sender)).await.is_ok() {
            let _ = done.await;
        }
    }
}

fn write(mut lines: mpsc::Receiver<Line>, plain: bool) {
    use std::io::Write;
    // Colour only where it is seen: not in a file, not with NO_COLOR.
    let mut stream = anstream::stderr();
    while let Some(line) = lines.blocking_recv() {
        // There is nobody to tell if standard error is gone.
        let _ = match line {
            // A prefix would spoil lines that programs read.
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
