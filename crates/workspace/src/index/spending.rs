//! What callers have spent today.
//!
//! `.stack/spent/<day>` has a line for each job that ended on that day (UTC) and has cost something. It is written with the
//! index, and outlives its job: otherwise, callers could delete what they have spent. The day is that of the end, whatever
//! ID a caller has chosen for its job. A job may have two lines, so it is known by its ID and its end: when a job has been
//! deleted, its caller may use its ID again.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use contract::{CallerName, JobId, Timestamp, Usd};

use super::ended::{Day, EndedJob};
use crate::{Error, Result, Workspace, layout::parsed_names, write::sync_directory};

/// The lines of the days that may still be asked for.
#[derive(Debug)]
pub(super) struct Ledger {
    directory: PathBuf,
}

impl Ledger {
    pub(super) fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(super) fn file(&self, day: &Day) -> PathBuf {
        self.directory.join(day.as_str())
    }

    /// Whether this job belongs here: it has cost something, and not before yesterday.
    pub(super) fn wants(job: &EndedJob) -> bool {
        job.cost > Usd::default() && Day::at(job.ended) >= Day::before(Timestamp::now())
    }

    /// Adds the costs of the jobs that it wants, durably. It may have some of them already. Only for the holder of the index's
    /// lock.
    pub(super) fn add(&self, jobs: &[EndedJob]) -> Result<()> {
        let jobs: Vec<_> = jobs.iter().filter(|job| Self::wants(job)).collect();
        if jobs.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(&self.directory).map_err(Error::io("create", &self.directory))?;
        for day in jobs.iter().map(|job| Day::at(job.ended)).collect::<BTreeSet<_>>() {
            let of_day = jobs.iter().filter(|job| Day::at(job.ended) == day);
            let lines = of_day.filter_map(|job| Some(format!("{}\n", Line::of(job)?)));
            append(&self.file(&day), &lines.collect::<String>())?;
        }
        let yesterday = Day::before(Timestamp::now());
        let days: Vec<Day> = parsed_names(&self.directory)?;
        for old in days.into_iter().filter(|day| *day < yesterday) {
            let path = self.file(&old);
            fs::remove_file(&path).map_err(Error::io("remove", path))?;
        }
        sync_directory(&self.directory)
    }
}

/// Appends lines to a file, and writes them to disk.
pub(super) fn append(path: &Path, lines: &str) -> Result<()> {
    let append = || {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // A crash cut the last line short.
                file.write_all(b"\n")?;
            }
        }
        file.write_all(lines.as_bytes())?;
        file.sync_all()
    };
    append().map_err(Error::io("write", path))
}

/// What each caller has spent today (UTC): the costs of its jobs that ended today.
///
/// A look reads only what was added since the last one, so it costs what has ended meanwhile, however many jobs there are.
#[derive(Debug, Default)]
pub struct Spending {
    day: Option<Day>,
    read: Option<Read>,
    /// The jobs that are in the sums, and when they ended.
    counted: HashSet<(JobId, Timestamp)>,
    sums: HashMap<CallerName, Usd>,
}

/// How far the file of the day was read.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    /// What tells a file from the one that has replaced it.
    file: (u64, u64, Option<SystemTime>),
    length: u64,
}

impl Spending {
    /// What this caller had spent at the last look.
    #[must_use]
    pub fn of(&self, caller: &CallerName) -> Usd {
        self.sums.get(caller).copied().unwrap_or_default()
    }

    /// Looks what was added. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn look(&mut self, workspace: &Workspace, now: Timestamp) -> Result<()> {
        let today = Day::at(now);
        let path = workspace.ledger().file(&today);
        if self.day.as_ref() != Some(&today) {
            *self = Self { day: Some(today), ..Self::default() };
        }
        match self.read_on(&path) {
            // No job with a cost has ended yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            read => read.map_err(Error::io("read", path)),
        }
    }

    fn read_on(&mut self, path: &Path) -> io::Result<()> {
        let mut file = File::open(path)?;
        let found = file.metadata()?;
        let version = (found.dev(), found.ino(), found.created().ok());
        let read = self.read.as_ref().filter(|it| it.file == version && it.length <= found.len());
        let mut length = read.map_or(0, |read| read.length);
        file.seek(SeekFrom::Start(length))?;
        let mut file = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let bytes = file.read_until(b'\n', &mut line)?;
            // What has no end yet is being written, and is read the next time.
            let Some(whole) = line.strip_suffix(b"\n") else { break };
            length += bytes as u64;
            self.count(whole);
        }
        self.read = Some(Read { file: version, length });
        Ok(())
    }

    fn count(&mut self, line: &[u8]) {
        // A crash cut it short.
        let Some(Line { job, ended, caller, cost }) = Line::parse(line) else { return };
        if self.counted.insert((job, ended)) {
            let sum = self.sums.entry(caller).or_default();
            *sum = sum.plus(cost);
        }
    }
}

/// What a job has cost.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    job: JobId,
    ended: Timestamp,
    caller: CallerName,
    cost: Usd,
}

impl Line {
    /// `None` if it is not known whose job it was.
    fn of(job: &EndedJob) -> Option<Self> {
        let caller = job.caller.clone()?;
        Some(Self { job: job.id, ended: job.ended, caller, cost: job.cost })
    }

    /// `None` for a line that a crash cut short.
    fn parse(line: &[u8]) -> Option<Self> {
        // A later version may add fields.
        let mut fields = std::str::from_utf8(line).ok()?.split(' ');
        let job = fields.next()?.parse().ok()?;
        let ended = Timestamp::from_millisecond(fields.next()?.parse().ok()?);
        let caller = fields.next()?.parse().ok()?;
        let cost = Usd::from_micros(fields.next()?.parse().ok()?);
        (fields.next()? == ".").then_some(Self { job, ended, caller, cost })
    }
}

/// The line, without its line break.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job, ended, caller, cost } = self;
        write!(f, "{job} {} {caller} {} .", ended.as_millisecond(), cost.micros())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::index::tests::id;

    properties::fuzz! {
        /// A crash may cut a line anywhere. What is left says nothing.
        #[test]
        fn a_line_round_trips_and_a_part_of_it_says_nothing(
            (created, tail) in (0..1_u64 << 48, 0..1_u64 << 48),
            ended in any::<i64>(),
            caller in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}",
            micros in any::<u64>(),
            cut in 0_usize..200,
        ) {
            let (job, ended) = (id(created, tail), Timestamp::from_millisecond(ended));
            let caller = caller.parse().unwrap();
            let whole = Line { job, ended, caller, cost: Usd::from_micros(micros) };
            let line = whole.to_string();
            prop_assert_eq!(Line::parse(line.as_bytes()), Some(whole));
            prop_assert_eq!(Line::parse(&line.as_bytes()[..cut.min(line.len() - 1)]), None);
        }

        #[test]
        fn no_line_is_a_panic(line in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..120),
            "[0-9a-f-]{36} [0-9-]{0,21} [a-z]{0,4} [0-9-]{0,21} ?\\.?".prop_map(String::into_bytes),
        ]) {
            let _ = Line::parse(&line);
        }
    }
}
