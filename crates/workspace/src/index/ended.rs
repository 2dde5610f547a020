//! `.stack/ended/<day>`: one line for each job that was created on that day and has ended.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use contract::{CallerName, JobId, JobState, Retain, Timestamp, Usd};
use memchr::memmem;
use serde::Deserialize;

use super::spending::append;
use crate::{
    Error, Job, Outcome, Result, job::keeps_undelivered, proof::Life, write::sync_directory,
};

/// The size of a read, in bytes. A file may be much larger than what a gateway may use.
const BLOCK: usize = 64 * 1024;
/// The length of an ID as text, with which each line begins.
const ID: usize = 36;
/// In place of a parent.
const NONE: &str = "-";

/// What the index says about a job that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedJob {
    /// The job.
    pub id: JobId,
    /// How it ended.
    pub state: JobState,
    /// When.
    pub ended: Timestamp,
    /// The workflow that started it.
    pub parent: Option<JobId>,
    /// Whose it was. `None` if its record is damaged, or its line was cut short.
    pub caller: Option<CallerName>,
    /// What it has cost, as its terminal event says. A job that was killed has none, and neither has a workflow: the jobs
    /// that it started have their own. Only known as long as the job itself was read.
    pub(super) cost: Usd,
    /// Whether its own directory is to be deleted. Only known as long as the job itself was read.
    pub(super) discards: bool,
}

impl EndedJob {
    /// Reads it from the job itself; `None` if the job has not ended.
    ///
    /// # Errors
    /// If the volume cannot be read, or the outcome is damaged.
    pub(super) fn of(job: &Job) -> Result<Option<Self>> {
        let Some(outcome) = job.outcome()? else { return Ok(None) };
        let (parent, caller, discards, cost) = match job.readable_record() {
            Ok((record, life)) => {
                let asks = record.service.asks_for_jobs();
                let cost = if asks { Usd::default() } else { cost_of(&outcome) };
                let discards =
                    record.retain == Retain::None && !keeps_undelivered(&record, &outcome);
                // Nothing proves whose a job of an earlier version was.
                let caller = (life != Life::Earlier).then_some(record.caller);
                (record.parent, caller, discards, cost)
            }
            // It cannot be shown, but it can be deleted when its time has come.
            Err(error) if error.is_damage() => (None, None, false, Usd::default()),
            Err(error) => return Err(error),
        };
        Ok(Some(Self {
            id: job.id(),
            state: outcome.state,
            ended: outcome.ended,
            parent,
            caller,
            cost,
            discards,
        }))
    }

    /// `None` for a line that a crash cut short.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        // A later version may add fields.
        let mut fields = std::str::from_utf8(line).ok()?.split(' ');
        let id = fields.next()?.parse().ok()?;
        let state = JobState::from_name(fields.next()?)?;
        let ended = Timestamp::from_millisecond(fields.next()?.parse().ok()?);
        let parent = match fields.next()? {
            NONE => None,
            parent => Some(parent.parse().ok()?),
        };
        // Every whole line has an end mark, so that half of a parent's ID is not taken for none.
        if fields.next()? != "." {
            return None;
        }
        let caller =
            caller_in(line).and_then(|caller| std::str::from_utf8(caller).ok()?.parse().ok());
        Some(Self { id, state, ended, parent, caller, cost: Usd::default(), discards: false })
    }
}

/// The name of the state in a line.
fn state_in(line: &[u8]) -> &[u8] {
    let rest = line.get(ID + 1..).unwrap_or_default();
    rest.split(|byte| *byte == b' ').next().unwrap_or_default()
}

/// The name of the caller in a line. It has an end mark of its own. A line that ends before it is of an earlier version,
/// which knew only `anonymous`. `None` if the line was cut short.
pub(super) fn caller_in(line: &[u8]) -> Option<&[u8]> {
    let mut fields = line.split(|byte| *byte == b' ').skip(4);
    if fields.next()? != b"." {
        return None;
    }
    // A line that was cut exactly here looks like that too, but its job is indexed again: it was not yet taken off the open ones.
    let Some(caller) = fields.next() else { return Some(CallerName::ANONYMOUS.as_bytes()) };
    (fields.next()? == b".").then_some(caller)
}

/// What a terminal event says about the cost of its job. Whatever is no amount counts as nothing.
fn cost_of(outcome: &Outcome) -> Usd {
    #[derive(Deserialize)]
    struct Cost {
        #[serde(rename = "costUsd", default)]
        dollars: Option<f64>,
    }
    let cost: Option<Cost> = outcome.event.peek().ok();
    cost.and_then(|cost| Usd::from_dollars(cost.dollars?)).unwrap_or_default()
}

/// The line, without its line break.
impl fmt::Display for EndedJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, state, ended, parent, caller, .. } = self;
        write!(f, "{id} {} {} ", state.as_str(), ended.as_millisecond())?;
        match parent {
            Some(parent) => write!(f, "{parent} ."),
            None => write!(f, "{NONE} ."),
        }?;
        match caller {
            Some(caller) => write!(f, " {caller} ."),
            None => Ok(()),
        }
    }
}

/// A day (UTC), such as `2026-01-31`. A job's is that on which it was created, according to its ID, so the days have the
/// order of the IDs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day(String);

impl Day {
    pub(super) fn of(id: JobId) -> Self {
        Self::at(id.created())
    }

    pub(super) fn at(time: Timestamp) -> Self {
        Self(time.to_string().chars().take(10).collect())
    }

    /// The day before that of `time`.
    pub(super) fn before(time: Timestamp) -> Self {
        const DAY: i64 = 24 * 3600 * 1000;
        Self::at(Timestamp::from_millisecond(time.as_millisecond().saturating_sub(DAY)))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Day {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let digits = |part: Option<&str>, length: usize| {
            part.is_some_and(|part| {
                part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit())
            })
        };
        let mut parts = name.split('-');
        let is_day = digits(parts.next(), 4) && digits(parts.next(), 2) && digits(parts.next(), 2);
        if is_day && parts.next().is_none() { Ok(Self(name.to_owned())) } else { Err(()) }
    }
}

/// The directory of the files.
#[derive(Debug)]
pub(super) struct Days {
    directory: PathBuf,
}

impl Days {
    pub(super) fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(super) fn path(&self) -> &Path {
        &self.directory
    }

    pub(super) fn file(&self, day: &Day) -> PathBuf {
        self.directory.join(&day.0)
    }

    /// The days, newest first.
    fn list(&self) -> Result<Vec<Day>> {
        let mut days: Vec<Day> = crate::layout::parsed_names(&self.directory)?;
        days.sort_unstable_by(|a, b| b.cmp(a));
        Ok(days)
    }

    /// Adds jobs that were created on `day`, durably. Only for the holder of the index's lock.
    pub(super) fn append(&self, day: Day, jobs: &[EndedJob]) -> Result<()> {
        let lines: String = jobs.iter().map(|job| format!("{job}\n")).collect();
        append(&self.file(&day), &lines)?;
        sync_directory(&self.directory)
    }

    /// The newest `limit` jobs that are older than `before` and wanted, newest first. `wanted` gets the ID, the name of
    /// the state and the line. Only lines with the `needle` are looked at.
    pub(super) fn newest(
        &self,
        limit: usize,
        before: Option<JobId>,
        needle: Option<&str>,
        wanted: impl Fn(&str, &[u8], &[u8]) -> bool,
    ) -> Result<Vec<JobId>> {
        let last_day = before.map(Day::of);
        let before = before.map(|id| id.to_string());
        let mut found = Vec::new();
        for day in
            self.list()?.into_iter().filter(|day| last_day.as_ref().is_none_or(|last| day <= last))
        {
            let left = limit - found.len();
            if left == 0 {
                break;
            }
            // The files are almost in order, so most lines are not looked at any closer. A job may be in a file twice.
            let mut newest: BTreeSet<JobId> = BTreeSet::new();
            let mut lowest: Option<String> = None;
            self.each_line(&day, needle, |line| {
                let Some(id) = line.get(..ID) else { return };
                let is_later = |text: &Option<String>| {
                    text.as_ref().is_some_and(|text| text.as_bytes().cmp(id) == Ordering::Less)
                };
                let is_before = before.as_ref().is_none_or(|before| id < before.as_bytes());
                if !is_before || (newest.len() == left && !is_later(&lowest)) {
                    return;
                }
                let Ok(text) = std::str::from_utf8(id) else { return };
                // Most lines are of no interest, and need not be understood any further.
                if wanted(text, state_in(line), line)
                    && let Some(job) = EndedJob::parse(line)
                {
                    newest.insert(job.id);
                    if newest.len() > left {
                        newest.pop_first();
                    }
                    if newest.len() == left {
                        lowest = newest.first().map(ToString::to_string);
                    }
                }
            })?;
            found.extend(newest.into_iter().rev());
        }
        Ok(found)
    }

    /// All jobs that are wanted, each once.
    pub(super) fn all(&self, wanted: impl Fn(&EndedJob) -> bool) -> Result<Vec<EndedJob>> {
        let mut found = BTreeMap::new();
        for day in self.list()? {
            self.each_line(&day, None, |line| {
                if let Some(job) = EndedJob::parse(line).filter(&wanted) {
                    found.insert(job.id, job);
                }
            })?;
        }
        Ok(found.into_values().collect())
    }

    /// Removes the lines of these jobs, or the file if no job is left. Only for the holder of the index's lock.
    pub(super) fn remove(&self, day: Day, gone: &[JobId], scratch: &Path) -> Result<()> {
        let gone: BTreeSet<String> = gone.iter().map(ToString::to_string).collect();
        let path = self.file(&day);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let mut kept = Rewrite::begin(scratch.to_owned());
        let mut is_empty = true;
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(Error::io("read", &path))?;
            let id = line.get(..ID).and_then(|id| std::str::from_utf8(id).ok());
            if id.is_some_and(|id| !gone.contains(id)) {
                is_empty = false;
                kept.add(&line);
            }
        }
        if !is_empty {
            return kept.put(&path);
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes all files anew. Jobs must be added in the order of their IDs.
    pub(super) fn builder(&self, scratch: PathBuf) -> Builder<'_> {
        Builder { days: self, scratch, current: None, written: BTreeSet::new() }
    }

    /// Calls `visit` with the lines of a file that contain the `needle`. A file that does not exist has none.
    fn each_line(&self, day: &Day, needle: Option<&str>, visit: impl FnMut(&[u8])) -> Result<()> {
        let path = self.file(day);
        match File::open(&path).and_then(|file| lines_from_end(&file, needle, visit)) {
            // Its last job was deleted.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            read => read.map_err(Error::io("read", path)),
        }
    }
}

/// Calls `visit` with each line of the file that contains the `needle`. Without a needle, the last line comes first;
/// otherwise the blocks of the file do, since it is much faster to search for it in each of them.
fn lines_from_end(
    file: &File,
    needle: Option<&str>,
    mut visit: impl FnMut(&[u8]),
) -> io::Result<()> {
    let needle = needle.map(memmem::Finder::new);
    let mut end = file.metadata()?.len();
    // The end of a line whose beginning is in the block before.
    let mut rest = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(BLOCK)];
        file.read_exact_at(&mut block, start)?;
        block.append(&mut rest);
        let first = if start == 0 { 0 } else { line_end(&block) };
        let (before, lines) = block.split_at(first);
        match &needle {
            Some(needle) => lines_with(lines, needle, &mut visit),
            None => lines.rsplit(|byte| *byte == b'\n').for_each(&mut visit),
        }
        rest = before.to_vec();
        end = start;
    }
    Ok(())
}

/// The length of the first line in `text`.
fn line_end(text: &[u8]) -> usize {
    memchr::memchr(b'\n', text).unwrap_or(text.len())
}

fn lines_with(mut text: &[u8], needle: &memmem::Finder<'_>, mut visit: impl FnMut(&[u8])) {
    while let Some(at) = needle.find(text) {
        let (before, after) = text.split_at(at);
        let start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
        let end = at + line_end(after);
        visit(text.get(start..end).unwrap_or_default());
        text = text.get(end..).unwrap_or_default();
    }
}

/// A file that is written aside and then put in place.
struct Rewrite {
    scratch: PathBuf,
    file: io::Result<BufWriter<File>>,
}

impl Rewrite {
    fn begin(scratch: PathBuf) -> Self {
        let file = OpenOptions::new().write(true).create_new(true).open(&scratch);
        Self { scratch, file: file.map(BufWriter::new) }
    }

    fn add(&mut self, line: &[u8]) {
        if let Ok(file) = &mut self.file
            && let Err(error) = file.write_all(line).and_then(|()| file.write_all(b"\n"))
        {
            self.file = Err(error);
        }
    }

    fn put(mut self, path: &Path) -> Result<()> {
        let file = std::mem::replace(&mut self.file, Err(io::ErrorKind::NotFound.into()));
        file.and_then(|file| file.into_inner().map_err(io::IntoInnerError::into_error))
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.scratch, path))
            .map_err(Error::io("write", path))
    }
}

impl Drop for Rewrite {
    fn drop(&mut self) {
        // It is not there if it was put in place.
        let _ = fs::remove_file(&self.scratch);
    }
}

/// Writes the files of all days.
pub(super) struct Builder<'a> {
    days: &'a Days,
    scratch: PathBuf,
    current: Option<(Day, Rewrite)>,
    written: BTreeSet<Day>,
}

impl Builder<'_> {
    pub(super) fn add(&mut self, job: &EndedJob) -> Result<()> {
        let day = Day::of(job.id);
        if self.current.as_ref().is_none_or(|(current, _)| *current != day) {
            self.put()?;
            self.current = Some((day, Rewrite::begin(self.scratch.clone())));
        }
        if let Some((_, file)) = &mut self.current {
            file.add(job.to_string().as_bytes());
        }
        Ok(())
    }

    fn put(&mut self) -> Result<()> {
        if let Some((day, file)) = self.current.take() {
            file.put(&self.days.file(&day))?;
            self.written.insert(day);
        }
        Ok(())
    }

    /// Removes the files of days that have no jobs any more.
    pub(super) fn finish(mut self) -> Result<()> {
        self.put()?;
        for day in self.days.list()?.into_iter().filter(|day| !self.written.contains(day)) {
            let path = self.days.file(&day);
            fs::remove_file(&path).map_err(Error::io("remove", path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::index::tests::id;

    fn ended_job() -> impl Strategy<Value = EndedJob> {
        let id = || (0..1_u64 << 48, 0..1_u64 << 48).prop_map(|(created, tail)| id(created, tail));
        let state =
            prop::sample::select(vec![JobState::Succeeded, JobState::Failed, JobState::Cancelled]);
        let caller = prop::option::of("[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}");
        (id(), state, 0..253_402_300_799_000_i64, prop::option::of(id()), caller).prop_map(
            |(id, state, ended, parent, caller)| EndedJob {
                id,
                state,
                ended: Timestamp::from_millisecond(ended),
                parent,
                cost: Usd::default(),
                caller: caller.map(|caller| caller.parse().unwrap()),
                discards: false,
            },
        )
    }

    properties::fuzz! {
        /// A crash may cut a line anywhere. What is left says nothing wrong.
        #[test]
        fn a_line_round_trips_and_a_part_of_it_says_nothing_else(job in ended_job(), cut in 0_usize..300) {
            let line = job.to_string();
            let whole = EndedJob::parse(line.as_bytes()).unwrap();
            let anonymous = CallerName::anonymous();
            prop_assert_eq!(&whole, &EndedJob { caller: Some(job.caller.clone().unwrap_or(anonymous.clone())), ..job });
            let Some(part) = line.get(..cut.min(line.len())).and_then(|part| EndedJob::parse(part.as_bytes())) else {
                return Ok(());
            };
            prop_assert!(part.caller.is_none() || part.caller == whole.caller || part.caller == Some(anonymous));
            prop_assert_eq!(EndedJob { caller: whole.caller.clone(), ..part }, whole);
        }

        #[test]
        fn no_line_is_a_panic(line in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..120),
            "[0-9a-f-]{36} (succeeded|failed|x)? [0-9-]{0,21} -? ?\\.? [a-z]{0,4} ?\\.?".prop_map(String::into_bytes),
        ]) {
            let _ = (EndedJob::parse(&line), caller_in(&line), state_in(&line));
        }
    }
}
