//! Reads a journal while it is being written. Every reader of a job's events uses this.

use std::{fs::File, io, os::unix::fs::FileExt, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use contract::{Code, Ending, EventPart};
use futures_util::{Stream, StreamExt};
use tokio::time::Instant;

use crate::{Error, Job, Outcome, Result, blocking, journal};

/// The size of a read, and the most that is buffered, in bytes.
const CHUNK: usize = 32 * 1024;
/// How long to wait for the rest of a journal that is shorter than its outcome says. A network file system may show a
/// new small file before the end of an old large one.
const SHORT_JOURNAL: Duration = Duration::from_secs(30);

/// A reader's position in a job's stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// After the event of this ID; 0 is the beginning.
    After(u64),
    /// After the terminal event: there is nothing more.
    Ended,
}

/// An event read from the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// The offset of its end in the journal. The terminal event's ID is that of the previous event plus one.
    pub id: u64,
    /// The event: one JSON object without a line break.
    pub json: Bytes,
    /// Whether it ends the stream.
    pub terminal: bool,
}

/// An event that is longer than the buffer.
#[derive(Debug)]
struct LongEvent {
    /// Its ID, until its first part has been read.
    id: Option<u64>,
}

struct Follower {
    job: Job,
    file: Option<File>,
    outcome: Option<Outcome>,
    /// The offset of the next byte to read.
    read: u64,
    /// The offset of the next byte to pass on: `read` minus the length of `pending`.
    offset: u64,
    pending: BytesMut,
    /// How many bytes of `pending` are known to contain no line break.
    searched: usize,
    /// If the next byte belongs to a long event whose end is known.
    long: Option<LongEvent>,
    /// Up to where the end of a long event was looked for.
    scanned: u64,
}

/// The events of `job` after the ID `after` (0: all of them), up to the terminal event. You can call this at any
/// time, even before the job starts: no event is lost or repeated.
///
/// If the job's process is dead, this ends the job, so the stream always ends. If the journal is shorter than it was
/// when the job ended, the terminal event is an error that says so.
pub fn follow(job: Job, after: u64) -> impl Stream<Item = Result<JournalEntry>> + Send + 'static {
    async_stream::try_stream! {
        let mut parts = std::pin::pin!(follow_parts(job, after));
        let mut begun: Option<(u64, Vec<u8>)> = None;
        while let Some(part) = parts.next().await {
            match part? {
                EventPart::Events { start, lines } => {
                    let mut from = 0;
                    for end in memchr::memchr_iter(b'\n', &lines) {
                        let id = start + end as u64 + 1;
                        yield JournalEntry { id, json: lines.slice(from..end), terminal: false };
                        from = end + 1;
                    }
                }
                EventPart::Piece { id, json, is_last } => {
                    let (id, mut event) = match (id, begun.take()) {
                        (Some(id), _) => (id, Vec::new()),
                        (None, Some(begun)) => begun,
                        (None, None) => continue,
                    };
                    event.extend_from_slice(&json);
                    if is_last {
                        yield JournalEntry { id, json: event.into(), terminal: false };
                    } else {
                        begun = Some((id, event));
                    }
                }
                EventPart::Terminal { id, json } => {
                    yield JournalEntry { id, json, terminal: true };
                }
            }
        }
    }
}

/// Like [`follow`], but passes on whatever is there at once, and a long event in pieces of at most 32 KiB. So a reader
/// needs little memory, and few steps for many events.
pub fn follow_parts(
    job: Job,
    after: u64,
) -> impl Stream<Item = Result<EventPart>> + Send + 'static {
    follow_within(job, after, SHORT_JOURNAL)
}

fn follow_within(
    job: Job,
    after: u64,
    short_journal: Duration,
) -> impl Stream<Item = Result<EventPart>> + Send + 'static {
    async_stream::try_stream! {
        let mut watch = job.workspace().watcher().watch(&job.directory());
        let mut follower = Follower {
            job,
            file: None,
            outcome: None,
            read: after,
            offset: after,
            pending: BytesMut::new(),
            searched: 0,
            long: None,
            scanned: 0,
        };
        let mut liveness = follower.job.watch_liveness();
        let mut short_since = None;
        loop {
            let found;
            (follower, found) = blocking(move || {
                let found = follower.step();
                (follower, found)
            })
            .await;
            let found = found?;
            while let Some(part) = follower.next_part() {
                yield part;
            }
            if found != JournalRead::Nothing {
                short_since = None;
            }
            if found == JournalRead::More {
                continue;
            }
            if let Some(outcome) = &follower.outcome {
                let since = *short_since.get_or_insert_with(Instant::now);
                if follower.offset >= outcome.journal_length {
                    yield outcome.terminal();
                    return;
                }
                if since.elapsed() > short_journal {
                    yield blocking(move || follower.cut_short()).await?;
                    return;
                }
                // A network file system may show what another machine appended only after the file is opened again.
                follower.file = None;
            }
            let is_dead = tokio::select! {
                () = watch.reported() => false,
                () = liveness.found() => true,
            };
            if is_dead && follower.outcome.is_none() {
                let job = follower.job.clone();
                blocking(move || match job.settle() {
                    Err(error) if error.is_damage() => Err(error),
                    // A failed check says nothing about the job, and the next one may succeed.
                    Err(error) => {
                        job.workspace().report_once(&job.directory(), &error);
                        Ok(())
                    }
                    Ok(Some(_)) => Ok(()),
                    // It was deleted before its outcome was read.
                    Ok(None) if matches!(Job::open(job.workspace(), job.id()), Ok(None)) => {
                        Err(Error::io("follow", job.directory())(io::ErrorKind::NotFound.into()))
                    }
                    Ok(None) => Ok(()),
                })
                .await?;
            }
        }
    }
}

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
enum JournalRead {
    /// New bytes, and there may be more.
    More,
    /// New bytes, which were all at that moment.
    Rest,
    /// Nothing new.
    Nothing,
}

impl Outcome {
    fn terminal(&self) -> EventPart {
        let json = self.event.as_bytes().to_vec().into();
        EventPart::Terminal { id: self.event_id(), json }
    }
}

impl Follower {
    fn step(&mut self) -> Result<JournalRead> {
        // Check the outcome before reading: if it exists, it says how far to read. If not, more events may follow.
        if self.outcome.is_none() {
            self.outcome = match self.job.outcome() {
                // Replaces it with one that can be read.
                Err(error) if error.is_damage() => self.job.settle()?,
                outcome => outcome?,
            };
        }
        let limit = self.outcome.as_ref().map_or(u64::MAX, |outcome| outcome.journal_length);
        let left = usize::try_from(limit.saturating_sub(self.read)).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(JournalRead::Nothing);
        }
        let path = self.job.journal_path();
        let file = match &mut self.file {
            Some(file) => file,
            none => match journal::open(&path) {
                Ok(file) => none.insert(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(JournalRead::Nothing);
                }
                Err(error) => return Err(Error::io("read the journal", path)(error)),
            },
        };
        let held = self.pending.len();
        if held >= CHUNK {
            // Its ID comes before its first byte, and is where it ends.
            return match find_line_end(file, &mut self.scanned, self.read, limit) {
                Ok(Some(end)) => {
                    self.long = Some(LongEvent { id: Some(end + 1) });
                    Ok(JournalRead::More)
                }
                Ok(None) => Ok(JournalRead::Nothing),
                Err(error) => Err(Error::io("read the journal", path)(error)),
            };
        }
        let wanted = left.min(CHUNK - held);
        self.pending.resize(held + wanted, 0);
        let result = file.read_at(self.pending.get_mut(held..).unwrap_or_default(), self.read);
        self.pending.truncate(held + result.as_ref().map_or(0, |read| *read));
        let read = result.map_err(Error::io("read the journal", path))?;
        self.read += read as u64;
        if self.pending.is_empty() {
            // A reader that waits needs no buffer.
            self.pending = BytesMut::new();
        }
        Ok(match read {
            0 => JournalRead::Nothing,
            _ if read == wanted => JournalRead::More,
            _ => JournalRead::Rest,
        })
    }

    /// The end of a stream whose journal stays shorter than its outcome says.
    fn cut_short(&self) -> Result<EventPart> {
        if self.long.as_ref().is_some_and(|long| long.id.is_none()) {
            // Half of an event was passed on.
            let error = io::ErrorKind::UnexpectedEof.into();
            return Err(Error::io("read the journal", self.job.journal_path())(error));
        }
        let service = self.job.service()?;
        let (state, length, id) = match &self.outcome {
            Some(outcome) => (outcome.state.as_str(), outcome.journal_length, outcome.event_id()),
            None => ("unknown", self.offset, self.offset.saturating_add(1)),
        };
        let missing = length.saturating_sub(self.offset);
        tracing::error!(job = %self.job.id(), missing, "the journal is shorter than it was when the job ended");
        let sentence = format!(
            "the job has ended ({state}), but the last {missing} bytes of its events are missing from the workspace: \
             GET /api/jobs/{} says how it ended",
            self.job.id()
        );
        let ending = Ending::failure(service, self.job.id(), Code::JournalDamaged, &sentence);
        let json = ending.event.into_bytes().into();
        Ok(EventPart::Terminal { id, json })
    }

    fn next_part(&mut self) -> Option<EventPart> {
        let Some(long) = &mut self.long else {
            let unsearched = self.pending.get(self.searched..).unwrap_or_default();
            let Some(at) = memchr::memrchr(b'\n', unsearched) else {
                self.searched = self.pending.len();
                return None;
            };
            let start = self.offset;
            let lines = self.pending.split_to(self.searched + at + 1).freeze();
            self.searched = 0;
            self.offset += lines.len() as u64;
            return Some(EventPart::Events { start, lines });
        };
        if self.pending.is_empty() {
            return None;
        }
        let id = long.id.take();
        let end = memchr::memchr(b'\n', &self.pending);
        let json = self.pending.split_to(end.unwrap_or(self.pending.len())).freeze();
        self.offset += json.len() as u64;
        if end.is_some() {
            self.pending.advance(1);
            self.offset += 1;
            self.long = None;
        }
        // What follows a long event has not been searched yet.
        self.searched = 0;
        Some(EventPart::Piece { id, json, is_last: end.is_some() })
    }
}

/// The offset of the first line feed between `from` and `limit`, if it has been written. `scanned` is where an earlier
/// search ended.
fn find_line_end(file: &File, scanned: &mut u64, from: u64, limit: u64) -> io::Result<Option<u64>> {
    let mut block = vec![0; CHUNK];
    *scanned = from.max(*scanned);
    loop {
        let left = usize::try_from(limit.saturating_sub(*scanned)).unwrap_or(CHUNK).min(CHUNK);
        let read = file.read_at(block.get_mut(..left).unwrap_or_default(), *scanned)?;
        if read == 0 {
            return Ok(None);
        }
        if let Some(at) = memchr::memchr(b'\n', block.get(..read).unwrap_or_default()) {
            return Ok(Some(*scanned + at as u64));
        }
        *scanned += read as u64;
    }
}

#[cfg(test)]
mod tests;
