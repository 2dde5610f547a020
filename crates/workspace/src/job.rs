//! One job on the volume, from its name to its end.

mod child;
mod claim;
mod create;
mod delete;
mod work;

pub(crate) use self::work::keeps_undelivered;
pub use self::{
    claim::{Claim, ClaimedJob},
    create::{CreateError, NewJob},
    delete::DeletedJob,
    work::Work,
};

use std::{fs, io, path::PathBuf};

use contract::{JobId, JobState, JobView};

use crate::{
    Error, FileLock, JobRecord, LivenessWatch, Outcome, Position, Result, Workspace, journal,
    layout::parsed_names, watch::Watch, write::read_at_most,
};

/// The longest record, claim or outcome that is read, in bytes: several times the longest that is written.
const MAX_RECORD: u64 = 64 << 20;

/// The name of the file with a job's terminal event.
const OUTCOME: &str = "outcome";

/// A job in any state. Cheap to clone; all calls block briefly.
#[derive(Clone, Debug)]
pub struct Job {
    pub(crate) workspace: Workspace,
    pub(crate) id: JobId,
}

impl Job {
    /// The job with this ID; `None` if there is none.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn open(workspace: &Workspace, id: JobId) -> Result<Option<Self>> {
        let job = Self { workspace: workspace.clone(), id };
        let path = job.record_path();
        let exists = path.try_exists().map_err(Error::io("check", path))?;
        Ok(exists.then_some(job))
    }

    /// The IDs of all jobs, oldest first. This costs more the more jobs there ever were:
    /// [`open_jobs`](Workspace::open_jobs) and [`NewestFirst`](crate::NewestFirst) do not.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn list(workspace: &Workspace) -> Result<Vec<JobId>> {
        let mut ids: Vec<JobId> = parsed_names(&workspace.jobs())?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// Starts to check whether the job's process is alive.
    #[must_use]
    pub fn watch_liveness(&self) -> LivenessWatch {
        self.workspace.liveness().watch(self)
    }

    /// Watches for the job's end.
    #[must_use]
    pub fn watch_outcome(&self) -> Watch {
        self.workspace.watcher().watch_file(&self.directory(), OUTCOME)
    }

    /// The job's ID.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The volume it is on.
    #[must_use]
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The directory of its files.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.workspace.jobs().join(self.id.to_string())
    }

    /// Where others leave requests for the process that runs it.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.directory().join("control")
    }

    /// What it has left, compared with what it was given: `patch` and `summary.json`, put in place together when somebody asks
    /// for the first time.
    #[must_use]
    pub fn changes(&self) -> PathBuf {
        self.directory().join("changes")
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.directory().join("events.ndjson")
    }

    fn record_path(&self) -> PathBuf {
        self.directory().join("job.json")
    }

    fn outcome_path(&self) -> PathBuf {
        self.directory().join(OUTCOME)
    }

    /// Space reserved for what must be written even if the volume is full. Only for the holder of the lease.
    fn reserve(&self) -> PathBuf {
        self.directory().join("reserve")
    }

    pub(crate) fn lease_path(&self) -> PathBuf {
        self.directory().join("lease")
    }

    /// The job's request.
    ///
    /// # Errors
    /// If `job.json` cannot be read, is damaged or is missing. Every job has one from the start.
    pub fn record(&self) -> Result<JobRecord> {
        let path = self.record_path();
        let content = read_at_most(&path, MAX_RECORD)?
            .ok_or_else(|| Error::io("read", &path)(io::ErrorKind::NotFound.into()))?;
        serde_json::from_slice(&content).map_err(Error::malformed(path))
    }

    /// Who claimed it; `None` if it is unclaimed.
    ///
    /// A claim that cannot be parsed still counts: a process has run the job, or still does.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn claimed(&self) -> Result<Option<Claim>> {
        let path = self.directory().join("claim");
        let claim = read_at_most(&path, MAX_RECORD).and_then(|content| {
            let read = content.map(|content| serde_json::from_slice::<Claim>(&content));
            read.transpose().map_err(Error::malformed(&path))
        });
        match claim {
            Err(error) if error.is_damage() => {
                self.workspace.report_once(&path, &error);
                Ok(Some(Claim::unreadable(&path)))
            }
            claim => claim,
        }
    }

    /// How it ended; `None` if it has not.
    ///
    /// # Errors
    /// If the volume cannot be read, or the outcome is damaged.
    pub fn outcome(&self) -> Result<Option<Outcome>> {
        let path = self.outcome_path();
        let Some(content) = read_at_most(&path, MAX_RECORD)? else { return Ok(None) };
        Outcome::decode(&content).map(Some).map_err(Error::malformed(path))
    }

    /// Whether it has an outcome, readable or not.
    pub(crate) fn has_outcome(&self) -> Result<bool> {
        let path = self.outcome_path();
        path.try_exists().map_err(Error::io("check", path))
    }

    /// The jobs that it started.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn children(&self) -> Result<Vec<JobId>> {
        let children = self.directory().join("children");
        match parsed_names(&children) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            children => children,
        }
    }

    /// Asks the process that runs the job, now or later, to cancel it. Asking again changes nothing.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn request_cancel(&self) -> Result<()> {
        let path = self.control().join("cancel");
        match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(Error::io("write", path)(error)),
        }
        self.workspace.watcher().wake(&self.control());
        Ok(())
    }

    /// Whether cancellation was requested.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn is_cancel_requested(&self) -> Result<bool> {
        let path = self.control().join("cancel");
        path.try_exists().map_err(Error::io("check", path))
    }

    /// Its entry in a listing. A job whose process is gone is ended first.
    ///
    /// # Errors
    /// If the volume cannot be read or written.
    pub fn view(&self) -> Result<JobView> {
        let record = self.record()?;
        let outcome = self.settle()?;
        let claim = self.claimed()?;
        let state = match (&outcome, &claim) {
            (Some(outcome), _) => outcome.state,
            (None, Some(_)) => JobState::Running,
            (None, None) => JobState::Queued,
        };
        let changes_of = record.changes_of();
        let delivery = outcome.as_ref().and_then(work::delivery);
        let (ended, code, error) = match outcome {
            Some(outcome) => (Some(outcome.ended), outcome.code, outcome.error),
            None => (None, None, None),
        };
        Ok(JobView {
            job_id: self.id,
            service: record.service,
            state,
            caller: record.caller,
            parent: record.parent,
            repo_url: record.repo_url,
            created: record.created,
            started: claim.filter(|claim| claim.run).map(|claim| claim.at),
            ended,
            code,
            error,
            changes_of,
            delivery,
        })
    }

    /// The position of a reader that has seen the event with the ID `after`.
    ///
    /// # Errors
    /// [`Error::UnknownEvent`] if this job has no such event.
    pub fn check_position(&self, after: u64) -> Result<Position> {
        if let Some(outcome) = self.outcome()? {
            if after == outcome.event_id() {
                return Ok(Position::Ended);
            }
            if after > outcome.journal_length {
                return Err(Error::UnknownEvent(after));
            }
        }
        if journal::is_boundary(&self.journal_path(), after)? {
            Ok(Position::After(after))
        } else {
            Err(Error::UnknownEvent(after))
        }
    }

    /// Sets a job with a damaged record aside for an operator, unless a process still runs it. It can no longer be
    /// run or ended, because its request and its service are unknown.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn set_aside(&self) -> Result<Option<PathBuf>> {
        let Some(_lease) = FileLock::try_acquire(&self.lease_path())? else { return Ok(None) };
        self.workspace.set_aside(&self.directory()).map(Some)
    }
}

#[cfg(test)]
mod tests;
