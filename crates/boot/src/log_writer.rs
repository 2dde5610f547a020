//! The thread that writes log lines.
//!
//! The reader of standard error may stop reading: a terminal after Ctrl-S, or a pipe whose reader hangs. That must
//! not block a task, so a separate thread writes the lines. If its queue is full, lines are dropped and counted.

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

/// The maximum number of queued lines.
const QUEUE: usize = 4096;

/// How long the exit of the process waits for queued lines.
const FLUSH_TIME: Duration = Duration::from_millis(500);

enum Entry {
    Line(Vec<u8>),
    /// Answered when all earlier entries are written.
    Flush(Sender<()>),
}

/// The queue of the thread. Writing never blocks and never fails. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter {
    queue: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

/// Delays the exit of the process until its last log lines are written, for at most half a second. Hold it until
/// `main` returns.
#[derive(Debug)]
#[must_use = "the last log lines are lost unless this is held until the end"]
pub struct LogGuard {
    writer: LogWriter,
}

impl LogWriter {
    /// Starts the thread, which writes to `sink`. `note` formats the line that reports dropped lines.
    ///
    /// # Errors
    /// If no threads are left.
    pub(crate) fn start(
        sink: impl Write + Send + 'static,
        note: fn(u64) -> String,
    ) -> io::Result<Self> {
        let (queue, entries) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        // It runs as long as the process.
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
        // If the queue is full, it is not being read and would not be written in time.
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
        // If standard error is closed, there is nowhere to report it.
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
    /// Takes a whole line; the subscriber writes line by line.
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
    fn a_stalled_reader_blocks_nothing_and_learns_how_many_lines_it_missed() {
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
    fn all_lines_are_written_when_the_guard_is_dropped() {
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
