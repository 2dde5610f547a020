//! What callers have spent today.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::SystemTime,
};

use contract::{CallerName, JobId, Timestamp, Usd};

use super::ended::{Day, EndedJob};
use crate::{Error, Result, Workspace};

/// What each caller has spent today (UTC): the costs of its jobs that ended today and were created today or yesterday.
///
/// It is read from the index of ended jobs. A look reads only what was added since the last one, so it costs what has ended
/// meanwhile, however many jobs there are.
#[derive(Debug, Default)]
pub struct Spending {
    day: Option<Day>,
    /// How far the file of each day was read.
    read: BTreeMap<Day, Read>,
    /// The jobs that are in the sums. A job may be in a file twice, and a file may be written anew.
    counted: HashSet<JobId>,
    sums: HashMap<CallerName, Usd>,
}

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
    /// If the volume cannot be read, or the index is missing and cannot be built.
    pub fn look(&mut self, workspace: &Workspace, now: Timestamp) -> Result<()> {
        workspace.complete_index()?;
        let days = Day::last_two(now);
        let [_, today] = &days;
        if self.day.as_ref() != Some(today) {
            *self = Self { day: Some(today.clone()), ..Self::default() };
        }
        for day in &days {
            let path = workspace.ended_index().file(day);
            match self.look_at(&path, day, today) {
                // No job of that day has ended, or the last one was deleted.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                looked => looked.map_err(Error::io("read", path))?,
            }
        }
        Ok(())
    }

    fn look_at(&mut self, path: &Path, day: &Day, today: &Day) -> io::Result<()> {
        let mut file = File::open(path)?;
        let found = file.metadata()?;
        let version = (found.dev(), found.ino(), found.created().ok());
        let read =
            self.read.get(day).filter(|read| read.file == version && read.length <= found.len());
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
            self.count(whole, today);
        }
        self.read.insert(day.clone(), Read { file: version, length });
        Ok(())
    }

    fn count(&mut self, line: &[u8], today: &Day) {
        let Some(job) = EndedJob::parse(line).filter(|job| job.cost > Usd::default()) else {
            return;
        };
        let Some(caller) = job.caller.filter(|_| Day::at(job.ended) == *today) else { return };
        if self.counted.insert(job.id) {
            let sum = self.sums.entry(caller).or_default();
            *sum = sum.plus(job.cost);
        }
    }
}
