//! Who did what: `.stack/audit/<day>.ndjson`, one line for each submission, cancellation, deletion, change of a token or a
//! session, and refusal. It never contains prompts, URLs or secrets.
//!
//! Lines are written in batches by one task, so that no request waits for the volume. If the volume is slower than the
//! requests, lines are dropped, and their number is logged. Refusals are caused by strangers, who must not be able to fill
//! the volume: above [`REFUSALS`] in a minute, they are only counted.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use contract::{CallerName, JobId, Timestamp, TokenId};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use workspace::blocking;

use crate::caller::Caller;

/// How many lines may wait to be written.
const WAITING: usize = 10_000;
/// How many lines are written at once.
const BATCH: usize = 1000;
/// How many refusals are written in a [`MINUTE`]. One more line says how many more there were.
const REFUSALS: u64 = 60;
const MINUTE: Duration = Duration::from_secs(60);
/// How long a file is kept, in days.
const KEPT: i64 = 90;
const DAY: i64 = 24 * 60 * 60 * 1000;

/// What a caller did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Action {
    #[serde(rename = "submit")]
    Submit,
    #[serde(rename = "cancel")]
    Cancel,
    #[serde(rename = "delete")]
    Delete,
    #[serde(rename = "token.create")]
    CreateToken,
    #[serde(rename = "token.revoke")]
    RevokeToken,
    #[serde(rename = "session.create")]
    CreateSession,
    #[serde(rename = "session.delete")]
    DeleteSession,
    #[serde(rename = "refused")]
    Refused,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<CallerName>,
    /// The token that the caller has used.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<TokenId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
    /// The token or the session that was created or removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// `ok`, or the code of the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'static str>,
    /// That there were so many more, which are not written one by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

impl Entry {
    pub(crate) fn of(caller: &Caller, action: Action) -> Self {
        let (name, token) = (caller.name.clone(), caller.token.clone());
        Self { caller: Some(name), token, ..Self::unknown(caller.address, action) }
    }

    /// An entry of nobody that is known.
    pub(crate) fn unknown(address: Option<IpAddr>, action: Action) -> Self {
        let (time, result) = (Timestamp::now(), Some("ok"));
        Self {
            time,
            caller: None,
            token: None,
            address,
            action,
            job_id: None,
            subject: None,
            result,
            count: None,
        }
    }

    /// So many refusals that are not written one by one.
    fn refusals(count: u64) -> Self {
        Self { result: None, count: Some(count), ..Self::unknown(None, Action::Refused) }
    }

    pub(crate) fn job(self, id: JobId) -> Self {
        Self { job_id: Some(id), ..self }
    }

    pub(crate) fn subject(self, subject: impl ToString) -> Self {
        Self { subject: Some(subject.to_string()), ..self }
    }

    pub(crate) fn result(self, result: &'static str) -> Self {
        Self { result: Some(result), ..self }
    }

    /// The result of a request.
    pub(crate) fn outcome<T>(self, outcome: &Result<T, contract::RequestError>) -> Self {
        match outcome {
            Ok(_) => self,
            Err(error) => self.result(error.code.as_str()),
        }
    }
}

/// What the writer gets.
#[derive(Debug)]
enum Item {
    Entry(Box<Entry>),
    /// Tell when everything before is written.
    Flush(oneshot::Sender<()>),
}

/// Where entries are added.
#[derive(Debug)]
pub(crate) struct Audit {
    items: mpsc::Sender<Item>,
    waiting: Mutex<Option<mpsc::Receiver<Item>>>,
    dropped: AtomicU64,
    /// In the current minute.
    refusals: AtomicU64,
}

impl Default for Audit {
    fn default() -> Self {
        let (items, waiting) = mpsc::channel(WAITING);
        let waiting = Mutex::new(Some(waiting));
        Self { items, waiting, dropped: AtomicU64::default(), refusals: AtomicU64::default() }
    }
}

impl Audit {
    /// Adds an entry, which is written soon, or only counted if it is one refusal too many.
    pub(crate) fn add(&self, entry: Entry) {
        if entry.action == Action::Refused
            && self.refusals.fetch_add(1, Ordering::Relaxed) >= REFUSALS
        {
            return;
        }
        if self.items.try_send(Item::Entry(Box::new(entry))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until the entries that were added are written, for at most `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let (done, written) = oneshot::channel();
        let flush = async {
            if self.items.send(Item::Flush(done)).await.is_ok() {
                // An error means that nobody writes.
                let _ = written.await;
            }
        };
        let _ = tokio::time::timeout(limit, flush).await;
    }

    /// Writes the entries into `directory`, for as long as the gateway lives.
    pub(crate) async fn write(&self, directory: PathBuf) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut waiting) = waiting else { return };
        let mut items = Vec::new();
        let mut cleaned = None;
        let mut minute = tokio::time::interval(MINUTE);
        minute.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first is now.
        minute.tick().await;
        loop {
            let is_over = tokio::select! {
                _ = minute.tick() => true,
                received = waiting.recv_many(&mut items, BATCH) => {
                    if received == 0 {
                        return;
                    }
                    false
                }
            };
            let (mut batch, mut flushes) = (Vec::new(), Vec::new());
            for item in items.drain(..) {
                match item {
                    Item::Entry(entry) => batch.push(*entry),
                    Item::Flush(done) => flushes.push(done),
                }
            }
            // Nothing is counted any more after a flush, which comes at the end.
            if is_over || !flushes.is_empty() {
                let more = self.refusals.swap(0, Ordering::Relaxed).saturating_sub(REFUSALS);
                batch.extend((more > 0).then(|| Entry::refusals(more)));
            }
            if batch.is_empty() && flushes.is_empty() {
                continue;
            }
            let (at, today) = (directory.clone(), day(Timestamp::now()));
            let clean = cleaned.as_ref() != Some(&today);
            cleaned = Some(today);
            let written = blocking(move || {
                append(&at, &batch)?;
                if clean { remove_old(&at) } else { Ok(()) }
            });
            if let Err(error) = written.await {
                tracing::error!(%error, directory = %directory.display(), "cannot write the audit log");
            }
            for done in flushes {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::error!(
                    dropped,
                    "the volume is too slow for the audit log: entries are missing"
                );
            }
        }
    }
}

fn day(time: Timestamp) -> String {
    time.to_string().chars().take(10).collect()
}

fn append(directory: &Path, entries: &[Entry]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let today = day(first.time);
        let end = rest.iter().position(|entry| day(entry.time) != today).unwrap_or(rest.len());
        let (of_day, later) = rest.split_at(end);
        let mut text = Vec::new();
        for entry in of_day {
            serde_json::to_writer(&mut text, entry)?;
            text.push(b'\n');
        }
        let path = directory.join(format!("{today}.ndjson"));
        // One write, so that the lines of several gateways do not mix.
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(&text)?;
        rest = later;
    }
    Ok(())
}

/// Removes the files of days that are too long ago.
fn remove_old(directory: &Path) -> io::Result<()> {
    let oldest = day(Timestamp::from_millisecond(Timestamp::now().as_millisecond() - KEPT * DAY));
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ndjson"));
        if name.is_some_and(|name| name.len() == oldest.len() && *name < *oldest) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_added_is_written_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let audit = std::sync::Arc::new(Audit::default());
        for _ in 0..3 {
            audit.add(Entry::of(&Caller::anonymous(), Action::Cancel));
        }
        let (writer, at) = (std::sync::Arc::clone(&audit), dir.path().to_owned());
        let task = tokio::spawn(async move { writer.write(at).await });
        audit.flush(Duration::from_secs(20)).await;
        let path = dir.path().join(format!("{}.ndjson", day(Timestamp::now())));
        assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 3);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_counted_when_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let audit = std::sync::Arc::new(Audit::default());
        let (writer, at) = (std::sync::Arc::clone(&audit), dir.path().to_owned());
        let task = tokio::spawn(async move { writer.write(at).await });
        let flood = |refusals: usize| {
            for _ in 0..refusals {
                audit.add(Entry::unknown(None, Action::Refused).result("unauthorized"));
            }
            audit.add(Entry::of(&Caller::anonymous(), Action::Submit));
        };
        let lines = || -> Vec<serde_json::Value> {
            let mut days: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
            days.sort_by_key(fs::DirEntry::path);
            let texts = days.iter().map(|day| fs::read_to_string(day.path()).unwrap());
            let texts: String = texts.collect();
            texts.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        flood(1000);
        // The clock is paused, and moves on when nothing else is left to do.
        tokio::time::sleep(MINUTE + Duration::from_secs(1)).await;
        flood(70);
        audit.flush(Duration::from_secs(20)).await;
        let lines = lines();
        let of = |action: &str| lines.iter().filter(|line| line["action"] == action).count();
        assert_eq!(of("refused"), 60 + 1 + 60 + 1);
        assert_eq!(of("submit"), 2, "what callers do is always written");
        let counts: Vec<_> = lines.iter().filter(|line| line.get("count").is_some()).collect();
        let found: Vec<_> = counts.iter().map(|line| line["count"].as_u64()).collect();
        assert_eq!(found, [Some(940), Some(10)]);
        assert!(counts.iter().all(|line| line.get("result").is_none()), "{counts:?}");
        task.abort();
    }

    #[test]
    fn lines_are_appended_by_day_and_old_files_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("audit");
        let entry = |time: i64| {
            let entry = Entry::of(&Caller::anonymous(), Action::Submit).job(JobId::new());
            Entry { time: Timestamp::from_millisecond(time), ..entry }
        };
        append(&at, &[entry(0), entry(1), entry(DAY)]).unwrap();
        append(&at, &[entry(2)]).unwrap();
        let now = Timestamp::now();
        append(&at, &[entry(now.as_millisecond())]).unwrap();
        let lines = |day: &str| fs::read_to_string(at.join(format!("{day}.ndjson"))).unwrap();
        assert_eq!(lines("1970-01-01").lines().count(), 3);
        let first: serde_json::Value =
            serde_json::from_str(lines("1970-01-02").lines().next().unwrap()).unwrap();
        let names: Vec<_> = first.as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["action", "caller", "jobId", "result", "time"]);
        fs::write(at.join("notes.ndjson"), "").unwrap();
        remove_old(&at).unwrap();
        let mut left: Vec<_> = fs::read_dir(&at)
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [format!("{}.ndjson", day(now)), "notes.ndjson".to_owned()]);
    }
}
