//! One job on the volume, from its name to its end.

use std::{fs, io, path::PathBuf};

use contract::{
    Code, Ending, EventLine, JobId, JobState, JobView, RequestError, Service, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, JobRecord, Lease, Outcome, Result, Workspace,
    journal::{self, Journal},
    write::{Once, read_at_most, reserve},
};

/// The longest request, claim or outcome that is read back, in bytes: several times the longest that is written.
const MAX_RECORD: u64 = 64 << 20;

/// How much room is kept for a job's claim, so that it can be taken, and ended, when the volume is full. Bytes.
const CLAIM_RESERVE: usize = 512;
/// How much room is kept for its outcome. A longer one is replaced then.
const OUTCOME_RESERVE: usize = 8 * 1024;

/// A job that may or may not have been taken, run or ended. Cheap to clone; all calls block briefly.
#[derive(Clone, Debug)]
pub struct Job {
    workspace: Workspace,
    id: JobId,
}

/// What became of naming a job.
#[derive(Debug)]
pub enum NewJob {
    /// It is there now.
    Created(Job),
    /// It was there already, so nothing was changed: the caller asks a second time.
    Exists(Job),
}

/// Why a request does not become a job.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// It names a parent that is no running workflow.
    #[error("find the workflow that asks")]
    ParentEnded,
    /// Its id is taken by another request.
    #[error("use the id of another request")]
    AnotherRequest,
    /// The volume cannot be used.
    #[error(transparent)]
    Volume(#[from] Error),
}

impl EnterError {
    /// What the caller is told; what is wrong with the volume is for the log.
    #[must_use]
    pub fn refusal(&self) -> RequestError {
        match self {
            Self::ParentEnded => RequestError::new(
                Code::NotFound,
                "the workflow that this job is for is not running",
            ),
            Self::AnotherRequest => RequestError::new(
                Code::Claimed,
                "this job id belongs to another request: use a fresh one",
            ),
            Self::Volume(error) => error.refusal(),
        }
    }
}

/// `claim`: who took a job, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// A replica's id, or the name of a service that only ended the job.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Whether the job was taken to be run, or only to be ended.
    pub run: bool,
}

impl Job {
    /// Names a job: from here on it is on the volume, waiting to be taken.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn create(workspace: &Workspace, record: &JobRecord) -> Result<NewJob> {
        let job = Self { workspace: workspace.clone(), id: record.job_id };
        if job.directory().exists() {
            return Ok(NewJob::Exists(job));
        }
        // The parent learns of its child first: a name that leads nowhere does no harm, a child that its
        // parent's end does not reach would.
        if let Some(parent) = record.parent {
            let children =
                Self { workspace: workspace.clone(), id: parent }.directory().join("children");
            match fs::create_dir(&children) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("create", children)(error));
                }
                _ => {}
            }
            let marker = children.join(record.job_id.to_string());
            fs::write(&marker, "").map_err(Error::io("write", &marker))?;
        }
        let scratch = workspace.scratch();
        let result = job.fill(&scratch, record);
        if result.is_err() {
            let _ = fs::remove_dir_all(&scratch);
        }
        let once = result?;
        // The parent may have ended between the marker and here, and looked before the job was there. It writes
        // its outcome before it looks, and this looks after the job is there: one of the two sees the other.
        // The job is there, so what goes wrong here is not its maker's error: its replica looks at the parent again.
        if let Some(parent) = record.parent {
            let parent = Self { workspace: workspace.clone(), id: parent };
            let cancelled = parent.outcome().and_then(|outcome| match outcome {
                Some(_) => job.request_cancel(),
                None => Ok(()),
            });
            if let Err(error) = cancelled {
                tracing::warn!(job = %job.id, error = &error as &dyn std::error::Error, "cannot look at the parent");
            }
        }
        Ok(match once {
            Once::Ours => NewJob::Created(job),
            Once::Theirs => NewJob::Exists(job),
        })
    }

    /// [`create`](Self::create) for a request from outside: its parent must be a workflow that runs, and a job
    /// that is there already must be the same.
    ///
    /// # Errors
    /// What is wrong with the request, or with the volume.
    pub fn enter(workspace: &Workspace, record: &JobRecord) -> Result<NewJob, EnterError> {
        if let Some(parent) = record.parent {
            // Only a running workflow may ask for jobs in its own name: they pass the limits of queues.
            let runs =
                Self::open(workspace, parent).and_then(|job| job.view().ok()).is_some_and(|view| {
                    view.service == Service::Workflow && view.state == JobState::Running
                });
            if !runs {
                return Err(EnterError::ParentEnded);
            }
        }
        let new = Self::create(workspace, record)?;
        if let NewJob::Exists(job) = &new {
            let known = job.record()?;
            if known.service != record.service
                || known.request.body.get() != record.request.body.get()
            {
                return Err(EnterError::AnotherRequest);
            }
        }
        Ok(new)
    }

    fn fill(&self, scratch: &std::path::Path, record: &JobRecord) -> Result<Once> {
        let control = scratch.join("control");
        fs::create_dir_all(&control).map_err(Error::io("create", &control))?;
        let path = scratch.join("job.json");
        let content = serde_json::to_vec(record)
            .map_err(|source| Error::Malformed { path: path.clone(), source })?;
        fs::write(&path, content).map_err(Error::io("write", &path))?;
        // All that its end needs is there from the beginning: a volume may be out of names, too.
        for name in ["lease", "events.ndjson"] {
            let path = scratch.join(name);
            fs::write(&path, "").map_err(Error::io("write", path))?;
        }
        let kept = scratch.join("reserve");
        fs::create_dir(&kept)
            .and_then(|()| reserve(&kept.join("claim"), CLAIM_RESERVE))
            .and_then(|()| reserve(&kept.join("outcome"), OUTCOME_RESERVE))
            .map_err(Error::io("write", kept))?;
        // Fails if the directory exists, because it is not empty then.
        match fs::rename(scratch, self.directory()) {
            Ok(()) => Ok(Once::Ours),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                let _ = fs::remove_dir_all(scratch);
                Ok(Once::Theirs)
            }
            Err(error) => Err(Error::io("create", self.directory())(error)),
        }
    }

    /// The job of that id, if there is one.
    #[must_use]
    pub fn open(workspace: &Workspace, id: JobId) -> Option<Self> {
        let job = Self { workspace: workspace.clone(), id };
        job.directory().join("job.json").exists().then_some(job)
    }

    /// The ids of all jobs, oldest first.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn list(workspace: &Workspace) -> Result<Vec<JobId>> {
        let jobs = workspace.jobs();
        let entries = fs::read_dir(&jobs).map_err(Error::io("list", &jobs))?;
        let mut ids: Vec<JobId> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The volume it is on.
    #[must_use]
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.workspace.jobs().join(self.id.to_string())
    }

    /// Where others ask something of it.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.directory().join("control")
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.directory().join("events.ndjson")
    }

    /// Room for what has to be written even if the volume is full. Only for who holds the lease.
    fn reserve(&self) -> PathBuf {
        self.directory().join("reserve")
    }

    fn lease_path(&self) -> PathBuf {
        self.directory().join("lease")
    }

    /// What it was asked to do.
    ///
    /// # Errors
    /// If `job.json` cannot be read or is not ours.
    pub fn record(&self) -> Result<JobRecord> {
        let path = self.directory().join("job.json");
        let content = read_at_most(&path, MAX_RECORD)?
            .ok_or_else(|| Error::io("read", &path)(io::ErrorKind::NotFound.into()))?;
        serde_json::from_slice(&content).map_err(|source| Error::Malformed { path, source })
    }

    /// Who took it.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn taken(&self) -> Result<Option<Claim>> {
        let path = self.directory().join("claim");
        let Some(content) = read_at_most(&path, MAX_RECORD)? else { return Ok(None) };
        serde_json::from_slice(&content)
            .map(Some)
            .map_err(|source| Error::Malformed { path, source })
    }

    /// How it ended.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn outcome(&self) -> Result<Option<Outcome>> {
        let path = self.directory().join("outcome");
        let Some(content) = read_at_most(&path, MAX_RECORD)? else { return Ok(None) };
        Outcome::decode(&content).map(Some).map_err(|source| Error::Malformed { path, source })
    }

    /// Takes the job to run it: at most one call ever succeeds, whoever makes it. `None`: it is taken.
    ///
    /// # Errors
    /// If the volume cannot be written; the job is not taken then.
    pub fn claim(&self, by: &str) -> Result<Option<ClaimedJob>> {
        self.take(by, true)
    }

    /// Ends a job that nobody has taken. `None`: somebody has, so it is theirs to end.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn end_unclaimed(&self, by: &str, ending: Ending) -> Result<Option<Outcome>> {
        self.take(by, false)?.map(|claimed| claimed.finish(ending)).transpose()
    }

    fn take(&self, by: &str, run: bool) -> Result<Option<ClaimedJob>> {
        // The lease first: a claim without a holder means a dead one.
        let Some(lease) = Lease::try_acquire(&self.lease_path())? else { return Ok(None) };
        let claim = Claim { by: by.to_owned(), at: Timestamp::now(), run };
        let content = serde_json::to_vec(&claim).unwrap_or_default();
        let (path, reserve) = (self.directory().join("claim"), self.reserve().join("claim"));
        match self.workspace.put_once_or_reserve(&path, &content, &reserve)? {
            Once::Theirs => Ok(None),
            Once::Ours => {
                let journal = Journal::create(self.journal_path())?;
                self.workspace.watcher().wake(&self.directory());
                Ok(Some(ClaimedJob { job: self.clone(), journal, _lease: lease }))
            }
        }
    }

    /// Ends the job as lost if the process that took it is gone; otherwise says how it ended, if it has.
    ///
    /// # Errors
    /// If the volume cannot be read or written.
    pub fn settle(&self) -> Result<Option<Outcome>> {
        if let Some(outcome) = self.outcome()? {
            return Ok(Some(outcome));
        }
        // Only claimed jobs are probed: a probe of an unclaimed one could keep a replica from taking it.
        if self.taken()?.is_none() || Lease::is_held(&self.lease_path())? {
            return Ok(None);
        }
        // Its process may have written the outcome between the two looks.
        if let Some(outcome) = self.outcome()? {
            return Ok(Some(outcome));
        }
        let record = self.record()?;
        let sentence = match record.service {
            Service::Claude => {
                "the replica died while the agent ran: look at the checkout, then send the job again"
            }
            Service::Pull | Service::Workflow => {
                "the replica died before the job was done: send the job again"
            }
        };
        let ending = Ending::failure(record.service, self.id, Code::ReplicaLost, sentence);
        let length = journal::whole_length(&self.journal_path())?;
        // Of several who look at once, one ends it.
        let Some(_lease) = Lease::try_acquire(&self.lease_path())? else { return self.outcome() };
        tracing::warn!(job = %self.id, "the process that ran this job is gone");
        self.close(ending, length).map(Some)
    }

    /// Writes the outcome, unless there is one; returns the one that counts. Only for who holds the lease.
    fn close(&self, ending: Ending, journal_length: u64) -> Result<Outcome> {
        let mut outcome = Outcome::new(ending, journal_length);
        let path = self.directory().join("outcome");
        let reserve = self.reserve().join("outcome");
        let put = |outcome: &Outcome| {
            self.workspace.put_once_or_reserve(&path, &outcome.encode(), &reserve)
        };
        let mut once = put(&outcome);
        if once.as_ref().is_err_and(Error::is_disk_full) {
            // What the job has to say at its end is longer than the room that is left for it.
            let sentence = "the workspace is full: make room, then send the job again";
            let ending = Ending::failure(self.record()?.service, self.id, Code::DiskFull, sentence);
            outcome = Outcome::new(ending, journal_length);
            once = put(&outcome);
        }
        let outcome = match once? {
            Once::Ours => outcome,
            Once::Theirs => self.outcome()?.unwrap_or(outcome),
        };
        // Of no more use; one that stays does no harm.
        let _ = fs::remove_dir_all(self.reserve());
        self.workspace.watcher().wake(&self.directory());
        for child in self.children() {
            let Some(child) = Self::open(&self.workspace, child) else { continue };
            // One that cannot be reached must not save the others; its own deadline ends it.
            let cancelled = child.outcome().and_then(|outcome| match outcome {
                Some(_) => Ok(()),
                None => child.request_cancel(),
            });
            if let Err(error) = cancelled {
                tracing::error!(job = %child.id, error = &error as &dyn std::error::Error, "cannot cancel a job");
            }
        }
        Ok(outcome)
    }

    /// The jobs it asked for.
    #[must_use]
    pub fn children(&self) -> Vec<JobId> {
        let entries = fs::read_dir(self.directory().join("children"));
        entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// Asks whoever runs the job, now or later, to cancel it.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn request_cancel(&self) -> Result<()> {
        let path = self.control().join("cancel");
        fs::write(&path, "").map_err(Error::io("write", &path))?;
        self.workspace.watcher().wake(&self.control());
        Ok(())
    }

    /// Whether somebody has asked to cancel it.
    #[must_use]
    pub fn is_cancel_requested(&self) -> bool {
        self.control().join("cancel").exists()
    }

    /// What a listing says of it; a job whose process is gone is ended first.
    ///
    /// # Errors
    /// If the volume cannot be read or written.
    pub fn view(&self) -> Result<JobView> {
        let record = self.record()?;
        let outcome = self.settle()?;
        let claim = self.taken()?;
        let state = match (&outcome, &claim) {
            (Some(outcome), _) => outcome.state,
            (None, Some(_)) => JobState::Running,
            (None, None) => JobState::Queued,
        };
        let (ended, code, error) = match outcome {
            Some(outcome) => (Some(outcome.ended), outcome.code, outcome.error),
            None => (None, None, None),
        };
        Ok(JobView {
            job_id: self.id,
            service: record.service,
            state,
            parent: record.parent,
            repo_url: record.repo_url,
            created: record.created,
            started: claim.filter(|claim| claim.run).map(|claim| claim.at),
            ended,
            code,
            error,
        })
    }

    /// Whether a stream may go on after the event of this id.
    ///
    /// # Errors
    /// [`Error::UnknownEvent`] if this job never gave the id out.
    pub fn check_position(&self, after: u64) -> Result<crate::Position> {
        if let Some(outcome) = self.outcome()? {
            if after == outcome.event_id() {
                return Ok(crate::Position::Ended);
            }
            if after > outcome.journal_length {
                return Err(Error::UnknownEvent(after));
            }
        }
        if journal::is_boundary(&self.journal_path(), after)? {
            Ok(crate::Position::After(after))
        } else {
            Err(Error::UnknownEvent(after))
        }
    }
}

/// A job that this process has taken, and the only one that may write its journal.
#[derive(Debug)]
pub struct ClaimedJob {
    job: Job,
    journal: Journal,
    _lease: Lease,
}

impl ClaimedJob {
    /// The job.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Appends one event; whoever follows the journal sees it now.
    ///
    /// # Errors
    /// If the volume cannot be written; the event is not there then.
    pub fn append(&mut self, event: &EventLine) -> Result<u64> {
        let id = self.journal.append(event)?;
        self.job.workspace.watcher().wake(&self.job.directory());
        Ok(id)
    }

    /// How long the journal is, in bytes.
    #[must_use]
    pub fn journal_length(&self) -> u64 {
        self.journal.length()
    }

    /// Ends the job. Another may have ended it before: the outcome that counts is returned.
    ///
    /// # Errors
    /// If the volume cannot be written; the job then ends as lost when this process does.
    pub fn finish(self, ending: Ending) -> Result<Outcome> {
        // Best effort: a full disk must not keep the outcome from being written.
        if let Err(error) = self.journal.sync() {
            tracing::warn!(job = %self.job.id, error = %error, "cannot flush the journal");
        }
        self.job.close(ending, self.journal.length())
    }
}

#[cfg(test)]
mod tests;
