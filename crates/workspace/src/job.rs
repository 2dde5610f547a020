//! One job on the volume, from its name to its end.

mod child;
mod claim;
mod comparable;
mod create;
mod delete;
mod proven;
mod work;

pub(crate) use self::work::keeps_undelivered;
pub use self::{
    claim::{Claim, ClaimedJob},
    comparable::Comparable,
    create::{CreateError, NewJob},
    delete::DeletedJob,
    work::Work,
};

use std::{io, path::PathBuf};

use contract::{JobId, JobState, JobView};
use serde::Serialize;

use crate::{
    Error, FileLock, LivenessWatch, Outcome, Position, Result, Workspace, journal,
    layout::parsed_names,
    proof::{About, Life},
    watch::Watch,
    write::Once,
};

/// The longest record, claim or outcome that is read, in bytes: several times the longest that is written.
const MAX_RECORD: u64 = 64 << 20;

/// `control/cancel`. It is always the same, so that several processes may write it into the same reserved space.
#[derive(Serialize)]
struct CancelRequest {
    cancel: bool,
}

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

    fn claim_path(&self) -> PathBuf {
        self.directory().join("claim")
    }

    fn cancel_path(&self) -> PathBuf {
        self.control().join("cancel")
    }

    fn outcome_path(&self) -> PathBuf {
        self.directory().join(OUTCOME)
    }

    /// Space reserved for what must be written even if the volume is full. Except for the request to cancel, only for the holder
    /// of the lease.
    fn reserve(&self) -> PathBuf {
        self.directory().join("reserve")
    }

    pub(crate) fn lease_path(&self) -> PathBuf {
        self.directory().join("lease")
    }

    /// Who claimed it; `None` if it is unclaimed.
    ///
    /// A claim that is damaged or forged still counts: a process may have run the job, or may still do so.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn claimed(&self) -> Result<Option<Claim>> {
        self.claimed_in(None)
    }

    fn claimed_in(&self, life: Option<&Life>) -> Result<Option<Claim>> {
        match self.read_claim(life) {
            Err(error) if error.is_damage() => {
                let path = self.claim_path();
                self.workspace.report_once(&path, &error);
                Ok(Some(Claim::unreadable(&path, &error)))
            }
            claim => claim,
        }
    }

    fn read_claim(&self, life: Option<&Life>) -> Result<Option<Claim>> {
        let path = self.claim_path();
        let content = self.read_own(life, |life| About::Claim(self.id, life), &path)?;
        let claim = content.map(|content| serde_json::from_slice(&content)).transpose();
        claim.map_err(Error::malformed(&path))
    }

    /// How it ended; `None` if it has not.
    ///
    /// # Errors
    /// If the volume cannot be read, or the outcome is damaged or forged.
    pub fn outcome(&self) -> Result<Option<Outcome>> {
        self.outcome_in(None)
    }

    fn outcome_in(&self, life: Option<&Life>) -> Result<Option<Outcome>> {
        let path = self.outcome_path();
        let content = self.read_own(life, |life| About::Outcome(self.id, life), &path)?;
        let Some(content) = content else { return Ok(None) };
        Outcome::decode(&content).map(Some).map_err(Error::malformed(path))
    }

    /// Whether it has an outcome, readable or not.
    pub(crate) fn has_outcome(&self) -> Result<bool> {
        let path = self.outcome_path();
        path.try_exists().map_err(Error::io("check", path))
    }

    /// The jobs that it started: those of the named ones whose records say so. Otherwise, whoever could write a name here
    /// could have another job cancelled or deleted with this one. One whose record cannot be read is logged once and omitted.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn children(&self) -> Result<Vec<JobId>> {
        let children = self.directory().join("children");
        let mut named: Vec<JobId> = match parsed_names(&children) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            named => named?,
        };
        named.retain(|id| {
            let child = Self { workspace: self.workspace.clone(), id: *id };
            match child.shown_record() {
                Ok(record) => record.parent == Some(self.id),
                // It was never created, or was deleted.
                Err(error) if error.is_missing() => false,
                Err(error) => {
                    self.workspace.report_once(&child.record_path(), &error);
                    false
                }
            }
        });
        Ok(named)
    }

    /// Asks the process that runs the job, now or later, to cancel it. Asking again changes nothing.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn request_cancel(&self) -> Result<()> {
        if self.is_cancel_requested()? {
            return Ok(());
        }
        let path = self.cancel_path();
        let life = self.life()?.unwrap_or(Life::Unknown);
        let request = CancelRequest { cancel: true };
        let content = self.workspace.seal(About::Cancel(self.id, &life), &request);
        let (content, reserve) =
            (content.map_err(Error::malformed(&path))?, self.reserve().join("cancel"));
        let put = || self.workspace.put_once_or_reserve(&path, &content, &reserve);
        if put()? == Once::Theirs && !self.is_cancel_requested()? {
            // What is there is no request. All who ask write the same, so it does not matter whose is moved away here.
            match self.workspace.set_aside(&path) {
                Err(error) if !error.is_missing() => return Err(error),
                _ => put()?,
            };
        }
        self.workspace.watcher().wake(&self.control());
        Ok(())
    }

    /// Whether cancellation was requested. What is damaged or forged is no request.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn is_cancel_requested(&self) -> Result<bool> {
        let path = self.cancel_path();
        match self.read_own(None, |life| About::Cancel(self.id, life), &path) {
            Err(error) if error.is_damage() => {
                self.workspace.report_once(&path, &error);
                Ok(false)
            }
            read => read.map(|request| request.is_some()),
        }
    }

    /// Its entry in a listing. A job whose process is gone is ended first.
    ///
    /// # Errors
    /// If the volume cannot be read or written.
    pub fn view(&self) -> Result<JobView> {
        let (record, life) = self.readable_record()?;
        let outcome = match self.outcome_in(Some(&life)) {
            Ok(Some(outcome)) => Some(outcome),
            _ => self.settle()?,
        };
        let claim = self.claimed_in(Some(&life))?;
        let state = match (&outcome, &claim) {
            (Some(outcome), _) => outcome.state,
            (None, Some(_)) => JobState::Running,
            (None, None) => JobState::Queued,
        };
        let changes_of = record.changes_of();
        let said = outcome.as_ref().map(work::said).unwrap_or_default();
        let (ended, code, error) = match outcome {
            Some(outcome) => (Some(outcome.ended), outcome.code, outcome.error),
            None => (None, None, None),
        };
        Ok(JobView {
            job_id: self.id,
            service: record.service,
            state,
            caller: record.caller,
            labels: record.labels,
            parent: record.parent,
            repo_url: record.repo_url,
            created: record.created,
            started: claim.filter(|claim| claim.run).map(|claim| claim.at),
            ended,
            code,
            error,
            changes_of,
            delivery: said.delivery,
            verified: said.verified,
            verify_output: said.verify_output,
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

    /// Its state, whatever its record says.
    ///
    /// # Errors
    /// If the volume cannot be read or written.
    pub fn state(&self) -> Result<JobState> {
        Ok(match self.settle()? {
            Some(outcome) => outcome.state,
            None if self.claimed()?.is_some() => JobState::Running,
            None => JobState::Queued,
        })
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
