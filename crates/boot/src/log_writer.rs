//! The thread that writes log lines.
//!
//! Whoever reads standard error may stop reading: a terminal after Ctrl-S, a pipe whose reader hangs. A log line
//! must not hold up a task for that, so lines go to a thread of their own, and those that it has no room for are
//! dropped and counted.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// How many lines wait at most.
const QUEUE: usize = 4096;

/// How long the end of the process waits for the lines to be written.
const FLUSH_TIME: Duration = Duration::from_millis(500);

enum Entry {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(Sender<()>),
}

/// Where lines are handed in. Never blocks, and never fails. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter {
    queue: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

/// Keeps the end of the process back until its last log lines are written, for half a second at most. Hold it
/// until `main` returns.
#[derive(Debug)]
#[must_use = "the last log lines are lost unless this is held until the end"]
pub struct LogGuard {
    writer: LogWriter,
}

impl LogWriter {
    /// Starts the thread, which writes to `sink`. `note` makes the line that says how many were dropped.
    ///
    /// # Errors
    /// If there are no threads left.
    pub(crate) fn start(
        sink: impl Write + Send + 'static,
        note: fn(u64) -> String,
    ) -> io::Result<Self> {
        let (queue, entries) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        // Its owner is the process: it writes until the end.
        thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || write_all(entries, sink, &counted, note))?;
        Ok(Self { queue, dropped })
    }

    pub(crate) fn guard(&self) -> LogGuard {
        LogGuard { writer: self.clone() }
    }

    fn flush(&self, limit: Duration) {
        let (done, wait) = channel();
        // A full queue is one that nobody reads: nothing will be written in time.
        if self.queue.try_send(Entry::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(limit);
        }
    }
}

fn write_all(
    entries: Receiver<Entry>,
    mut sink: impl Write,
    dropped: &AtomicU64,
    note: fn(u64) -> String,
) {
    for entry in entries {
        // Nobody can be told that standard error is closed.
        let _ = match entry {
            Entry::Line(line) => sink.write_all(&line),
            Entry::Flush(done) => {
                let flushed = sink.flush();
                let _ = done.send(());
                flushed
            }
        };
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            lines => drop(sink.write_all(note(lines).as_bytes())),
        }
    }
}

impl Write for LogWriter {
    /// Takes a whole line, which is how the subscriber writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.queue.try_send(Entry::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.writer.flush(FLUSH_TIME);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, pipe},
        time::Instant,
    };

    use super::*;

    fn note(lines: u64) -> String {
        format!("{lines} dropped\n")
    }

    #[test]
    fn a_reader_that_stops_holds_nobody_up_and_hears_how_much_it_missed() {
        let (reader, sink) = pipe().unwrap();
        let writer = LogWriter::start(sink, note).unwrap();
        let begun = Instant::now();
        let line = |number: usize| format!("{number} {}\n", "x".repeat(100));
        for number in 0..20_000 {
            writer.clone().write_all(line(number).as_bytes()).unwrap();
        }
        drop(writer.guard());
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        drop(writer);
        let lines: Vec<String> = BufReader::new(reader).lines().map(Result::unwrap).collect();
        let (notes, kept): (Vec<_>, Vec<_>) = lines.iter().partition(|it| it.ends_with("dropped"));
        let missed: usize =
            notes.iter().map(|it| it.split(' ').next().unwrap().parse::<usize>().unwrap()).sum();
        assert!(kept.len() >= QUEUE && missed > 0, "{} kept, {missed} missed", kept.len());
        assert_eq!(kept.len() + missed, 20_000);
        assert_eq!(kept[0].as_str(), line(0).trim_end());
    }

    #[test]
    fn what_was_said_is_written_by_the_time_the_guard_is_dropped() {
        let (reader, sink) = pipe().unwrap();
        let writer = LogWriter::start(sink, note).unwrap();
        for _ in 0..100 {
            writer.clone().write_all(b"line\n").unwrap();
        }
        drop(writer.guard());
        let mut reader = BufReader::new(reader);
        let mut bytes = 0;
        while bytes < 500 {
            let read = reader.fill_buf().unwrap().len();
            assert!(read > 0);
            bytes += read;
            reader.consume(read);
        }
    }
}
