//! The index of jobs, so that a look at the volume costs what is open and not what ever was.
//!
//! Every job is in at least one of two places:
//! - `.stack/open/<id>`, an empty file, from before the job exists until after it has ended;
//! - `.stack/ended/<day>`, a file with one line for each job that was created on that day and has ended.
//!
//! What jobs have cost that ended on a day is in `.stack/spent/<day>`, for two days, before their entries are removed or they
//! are deleted.
//!
//! Whoever creates a job writes the first, and nobody else has to do anything: a gateway moves what has ended from the
//! first to the second, every few seconds, so the second has one writer at a time and the end of a job costs nothing
//! more. Both may say too much (an entry whose job was never created, a line whose job was deleted), never too little.
//!
//! The index is derived from the jobs. If a part of it is missing, or an earlier version wrote to the volume, it is
//! built again by one scan of all jobs.

mod ended;
mod newest;
mod spending;

pub use self::{
    ended::EndedJob,
    newest::{JobFilter, NewestFirst},
    spending::Spending,
};

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use contract::JobId;

use self::{
    ended::{Day, Days},
    spending::Ledger,
};
use crate::{
    Error, FileLock, Job, Result, Workspace, doomed::Doomed, layout::parsed_names,
    write::sync_directory,
};

/// In each of the two directories once all jobs are in one of them. No ID is spelled like this.
const COMPLETE: &str = ".complete";
/// How long an entry may be there before its job. It takes milliseconds, so this is ample.
const LONGEST_CREATION: Duration = Duration::from_secs(3600);
/// How long to wait for another process that builds the index.
const LONGEST_BUILD: Duration = Duration::from_secs(120);
/// How long to wait for another process that writes to the index. It takes moments.
const LONGEST_WRITE: Duration = Duration::from_secs(5);
/// Between two tries. `flock` has no way to wait for a limited time.
const INTERVAL: Duration = Duration::from_millis(50);

impl Workspace {
    fn open_index(&self) -> PathBuf {
        self.stack().join("open")
    }

    fn ended_index(&self) -> Days {
        Days::at(self.stack().join("ended"))
    }

    fn ledger(&self) -> Ledger {
        Ledger::at(self.stack().join("spent"))
    }

    fn index_lock(&self) -> PathBuf {
        self.stack().join("index.lock")
    }

    /// The jobs that have not ended, oldest first, and some that ended a moment ago. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read, or the index is missing and cannot be built.
    pub fn open_jobs(&self) -> Result<Vec<JobId>> {
        self.complete_index()?;
        let mut ids: Vec<JobId> = parsed_names(&self.open_index())?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// Notes that a job has not ended, durably. Called before the job exists: an entry without a job is harmless, but
    /// a job without an entry would never be looked after.
    pub(crate) fn note_open(&self, id: JobId) -> Result<()> {
        self.write_open(id)?;
        sync_directory(&self.open_index())
    }

    fn write_open(&self, id: JobId) -> Result<()> {
        let path = self.open_index().join(id.to_string());
        let written = match fs::write(&path, "") {
            // The index was lost. It is built again when it is read, because its marker is lost too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(self.open_index()).and_then(|()| fs::write(&path, ""))
            }
            written => written,
        };
        written.map_err(Error::io("write", path))
    }

    /// Checks that the entry of a job is still there after the job was created. It may have been removed as a leftover
    /// if its creator was stopped for long.
    pub(crate) fn confirm_open(&self, job: &Job) -> Result<()> {
        let path = self.open_index().join(job.id().to_string());
        let is_there = path.try_exists().map_err(Error::io("check", path))?;
        if is_there || job.has_outcome()? { Ok(()) } else { self.note_open(job.id()) }
    }

    /// Moves the jobs that have ended from the index of open jobs to that of ended ones, and removes entries whose job
    /// was never created. Returns how many have ended. If another process is doing this, nothing happens. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read or written. What was not moved is moved the next time.
    pub fn index_ended(&self) -> Result<usize> {
        self.complete_index()?;
        let Some(lock) = FileLock::try_acquire(&self.index_lock())? else { return Ok(0) };
        let mut days: BTreeMap<Day, Vec<EndedJob>> = BTreeMap::new();
        let mut discarded = Vec::new();
        for id in parsed_names::<JobId>(&self.open_index())? {
            // A job that cannot be read now is looked at again. It must not hold up the others.
            match self.look_at_entry(id) {
                Ok(Some(ended)) => days.entry(Day::of(id)).or_default().push(ended),
                Ok(None) => {}
                Err(error) => self.report_once(id.to_string().as_ref(), &error),
            }
        }
        for jobs in days.values_mut() {
            // Before its entry is removed, so that a crash does not leave its directory there.
            jobs.retain(|job| self.discard_own(job, &mut discarded));
        }
        let moved = self.move_ended(days, &lock);
        // Others need not wait until whole checkouts are removed. What is left of them is a leftover like any other.
        drop(lock);
        for tree in discarded {
            if let Err(error) = tree.destroy() {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot remove a checkout"
                );
            }
        }
        moved
    }

    fn move_ended(&self, days: BTreeMap<Day, Vec<EndedJob>>, _lock: &FileLock) -> Result<usize> {
        let mut moved = 0;
        for (day, jobs) in days {
            // Flushed before the entries are removed: after a power failure, each job is in one of the two.
            self.ledger().add(&jobs)?;
            self.ended_index().append(day, &jobs)?;
            for job in &jobs {
                self.remove_entry(job.id)?;
            }
            moved += jobs.len();
        }
        Ok(moved)
    }

    /// Takes the directory of a job away that asked for that. Returns whether nothing has to be tried again.
    fn discard_own(&self, ended: &EndedJob, discarded: &mut Vec<Doomed>) -> bool {
        if !ended.discards {
            return true;
        }
        let taken = self.take_own_directory(ended.id);
        match taken {
            Ok(taken) => {
                discarded.extend(taken);
                true
            }
            Err(error) => {
                self.report_once(&self.job_directory(ended.id), &error);
                false
            }
        }
    }

    /// How the job of an entry has ended, if it has.
    fn look_at_entry(&self, id: JobId) -> Result<Option<EndedJob>> {
        match Job::open(self, id)? {
            Some(job) if job.has_outcome()? => EndedJob::of(&job),
            Some(_) => Ok(None),
            None => self.remove_leftover(id).map(|()| None),
        }
    }

    /// Removes an entry without a job, unless the job may be about to be created.
    fn remove_leftover(&self, id: JobId) -> Result<()> {
        let path = self.open_index().join(id.to_string());
        let modified = match fs::metadata(&path).and_then(|found| found.modified()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            modified => modified.map_err(Error::io("check", path))?,
        };
        match modified.elapsed() {
            Ok(age) if age > LONGEST_CREATION => self.remove_entry(id),
            _ => Ok(()),
        }
    }

    pub(crate) fn remove_entry(&self, id: JobId) -> Result<()> {
        let path = self.open_index().join(id.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Notes what a job has cost, if it ended so recently that this may not have been done yet. Otherwise, that is known a
    /// few seconds after its end. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read or written, or another process writes to the index for too long.
    pub fn note_cost(&self, job: &Job) -> Result<()> {
        // A missing entry says something only then.
        self.complete_index()?;
        let entry = self.open_index().join(job.id().to_string());
        if !entry.try_exists().map_err(Error::io("check", entry))? {
            return Ok(());
        }
        let Some(ended) = EndedJob::of(job)?.filter(Ledger::wants) else { return Ok(()) };
        let _lock = self.lock_index(LONGEST_WRITE)?;
        self.ledger().add(&[ended])
    }

    /// The ended jobs that are `wanted`, in no order. The text is the ID. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read, or the index is missing and cannot be built.
    pub fn ended_jobs(&self, wanted: impl Fn(&EndedJob) -> bool) -> Result<Vec<EndedJob>> {
        self.complete_index()?;
        self.ended_index().all(wanted)
    }

    /// Removes the lines of jobs that were deleted. If another process writes to the index for too long, nothing happens:
    /// such a line is harmless.
    pub(crate) fn forget_ended(&self, gone: &[JobId]) -> Result<()> {
        let Some(_lock) = self.try_lock_index(LONGEST_WRITE)? else { return Ok(()) };
        let mut days: BTreeMap<Day, Vec<JobId>> = BTreeMap::new();
        for id in gone {
            days.entry(Day::of(*id)).or_default().push(*id);
        }
        for (day, gone) in days {
            self.ended_index().remove(day, &gone, &self.scratch())?;
        }
        Ok(())
    }

    fn markers(&self) -> [PathBuf; 2] {
        [self.open_index().join(COMPLETE), self.ended_index().path().join(COMPLETE)]
    }

    fn is_index_complete(&self) -> Result<bool> {
        for marker in self.markers() {
            if !marker.try_exists().map_err(Error::io("check", marker))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Builds the index if a part of it is missing.
    fn complete_index(&self) -> Result<()> {
        if self.is_index_complete()? {
            return Ok(());
        }
        let lock = self.lock_index(LONGEST_BUILD)?;
        // Another process may have built it meanwhile.
        if self.is_index_complete()? { Ok(()) } else { self.build_index(&lock) }
    }

    /// Builds the index from the jobs themselves. Blocking, and slow if there are many.
    ///
    /// # Errors
    /// If the volume cannot be read or written, or another process builds it for too long.
    pub(crate) fn rebuild_index(&self) -> Result<()> {
        self.build_index(&self.lock_index(LONGEST_BUILD)?)
    }

    fn lock_index(&self, patience: Duration) -> Result<FileLock> {
        self.try_lock_index(patience)?.ok_or_else(|| {
            let why = format!("another process has been holding it for {} s", patience.as_secs());
            let held = io::Error::new(io::ErrorKind::TimedOut, why);
            Error::io("lock", self.index_lock())(held)
        })
    }

    /// `None` if another process holds it for so long.
    fn try_lock_index(&self, patience: Duration) -> Result<Option<FileLock>> {
        let begun = Instant::now();
        loop {
            let lock = FileLock::try_acquire(&self.index_lock())?;
            if lock.is_some() || begun.elapsed() > patience {
                return Ok(lock);
            }
            thread::sleep(INTERVAL);
        }
    }

    fn build_index(&self, _lock: &FileLock) -> Result<()> {
        let days = self.ended_index();
        for directory in [&self.open_index(), days.path()] {
            fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
        }
        let mut builder = days.builder(self.scratch());
        // Those that may have cost something today.
        let mut recent = Vec::new();
        // Jobs that are created from now on are noted by their creators.
        for id in Job::list(self)? {
            let ended = match Job::open(self, id) {
                Ok(Some(job)) => EndedJob::of(&job),
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            match ended {
                Ok(Some(ended)) => {
                    builder.add(&ended)?;
                    recent.extend(Some(ended).filter(Ledger::wants));
                }
                Ok(None) => self.write_open(id)?,
                // Whoever looks at open jobs deals with it.
                Err(error) => {
                    self.report_once(id.to_string().as_ref(), &error);
                    self.write_open(id)?;
                }
            }
        }
        builder.finish()?;
        self.ledger().add(&recent)?;
        for marker in self.markers() {
            fs::write(&marker, "").map_err(Error::io("write", &marker))?;
        }
        sync_directory(days.path())?;
        sync_directory(&self.open_index())
    }
}

#[cfg(test)]
mod tests;
