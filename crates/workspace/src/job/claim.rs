//! Claims a job once, and ends it once.

use std::{fs, path::Path};

use contract::{Code, Ending, EventLine, Timestamp};
use serde::{Deserialize, Serialize};

use super::Job;
use crate::{
    Error, FileLock, Outcome, Result,
    error::FORGED,
    journal::{self, Journal},
    proof::{About, Life},
    write::Once,
};

/// `claim`: who claimed a job, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The ID of a replica, or the name of a service that only ended the job.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Whether the job was claimed to be run, or only to be ended.
    pub run: bool,
    /// Whether it does not say who claimed the job, because it is forged.
    #[serde(skip)]
    pub(super) is_forged: bool,
}

impl Claim {
    /// What is known about a damaged claim.
    pub(super) fn unreadable(path: &Path, damage: &Error) -> Self {
        let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
        let at = modified.map_or(Timestamp::from_millisecond(0), Timestamp::from);
        Self { by: "unknown".to_owned(), at, run: true, is_forged: damage.is_forged() }
    }
}

impl Job {
    /// Claims the job to run it. At most one call in all processes ever succeeds. Returns `None` if it is already
    /// claimed.
    ///
    /// # Errors
    /// If the volume cannot be written, or nothing proves that this stack wrote the job's record. The job is then not claimed.
    pub fn claim(&self, by: &str) -> Result<Option<ClaimedJob>> {
        self.take(by, true)
    }

    /// Ends an unclaimed job. Returns `None` if it is claimed, because only its process may end it.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn end_unclaimed(&self, by: &str, ending: Ending) -> Result<Option<Outcome>> {
        self.take(by, false)?.map(|claimed| claimed.finish(ending)).transpose()
    }

    fn take(&self, by: &str, run: bool) -> Result<Option<ClaimedJob>> {
        // Take the lease first: if a claim's lease is free, its process is dead.
        let Some(lease) = FileLock::try_acquire(&self.lease_path())? else { return Ok(None) };
        let claim = Claim { by: by.to_owned(), at: Timestamp::now(), run, is_forged: false };
        let (path, reserve) = (self.claim_path(), self.reserve().join("claim"));
        let life = self.life()?.unwrap_or(Life::Unknown);
        if run && self.workspace.signs() && !matches!(life, Life::Proven(_)) {
            // It may have been believed when it was queued, and changed since.
            return Err(Error::unproven(&self.record_path()));
        }
        let content = self.workspace.seal(About::Claim(self.id, &life), &claim);
        let content = content.map_err(Error::malformed(&path))?;
        match self.workspace.put_once_or_reserve(&path, &content, &reserve)? {
            Once::Theirs => Ok(None),
            Once::Ours => {
                let journal = Journal::create(self.journal_path())?;
                self.workspace.watcher().wake(&self.directory());
                Ok(Some(ClaimedJob { job: self.clone(), life, journal, _lease: lease }))
            }
        }
    }

    /// Ends the job as lost if the process that claimed it is dead. Otherwise returns its outcome, if it has one.
    ///
    /// A damaged or forged outcome is replaced with a failure, or taken away if nobody has claimed the job.
    ///
    /// # Errors
    /// If the volume cannot be read or written. The job is then not ended, because its process may be alive.
    pub fn settle(&self) -> Result<Option<Outcome>> {
        match self.outcome() {
            Ok(None) => {}
            Err(error) if error.is_damage() => return self.replace_outcome(&error),
            known => return known,
        }
        // Check only claimed jobs: checking an unclaimed one could prevent a replica from claiming it.
        let Some(claim) = self.claimed()? else { return Ok(None) };
        if FileLock::is_held(&self.lease_path())? {
            return Ok(None);
        }
        // Its process may have written the outcome meanwhile.
        if let Some(outcome) = self.outcome()? {
            return Ok(Some(outcome));
        }
        let service = match self.service() {
            Err(error) if error.is_damage() => {
                self.workspace.report_once(&self.record_path(), &error);
                self.set_aside()?;
                return Err(error);
            }
            service => service?,
        };
        let ending = if claim.is_forged || self.record().is_err_and(|error| error.is_forged()) {
            Ending::failure(service, self.id, Code::RecordForged, FORGED)
        } else {
            Ending::failure(service, self.id, Code::ReplicaLost, service.spec().lost)
        };
        let length = journal::whole_length(&self.journal_path())?;
        // If several processes get here at once, one of them ends the job.
        let Some(_lease) = FileLock::try_acquire(&self.lease_path())? else {
            return self.outcome();
        };
        tracing::warn!(job = %self.id, "the process that ran this job is dead");
        let life = self.life()?.unwrap_or(Life::Unknown);
        self.close(&life, ending, length).map(Some)
    }

    /// Replaces a damaged outcome.
    fn replace_outcome(&self, damage: &Error) -> Result<Option<Outcome>> {
        let path = self.outcome_path();
        self.workspace.report_once(&path, damage);
        let service = self.service()?;
        let Some(_lease) = FileLock::try_acquire(&self.lease_path())? else { return Ok(None) };
        // Another process may have replaced it meanwhile.
        if !self.outcome().is_err_and(|error| error.is_damage()) {
            return self.outcome();
        }
        // It has no outcome for a moment, and this process may die then.
        self.workspace.note_open(self.id)?;
        self.workspace.set_aside(&path)?;
        if damage.is_forged() && self.claimed()?.is_none() {
            // It has never run, so it has not ended either.
            return Ok(None);
        }
        let (code, sentence) = if damage.is_forged() {
            (Code::RecordForged, FORGED)
        } else {
            let sentence = "the outcome of this job is damaged, so how it ended is unknown: its events are \
                            still available";
            (Code::Internal, sentence)
        };
        let ending = Ending::failure(service, self.id, code, sentence);
        let length = journal::whole_length(&self.journal_path())?;
        let life = self.life()?.unwrap_or(Life::Unknown);
        self.close(&life, ending, length).map(Some)
    }

    /// Writes the outcome, unless one exists. Returns the one that counts. Only for the holder of the lease.
    pub(super) fn close(
        &self,
        life: &Life,
        ending: Ending,
        journal_length: u64,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::new(ending, journal_length);
        let path = self.outcome_path();
        let reserve = self.reserve().join("outcome");
        let put = |outcome: &Outcome| {
            let content = self.workspace.seal(About::Outcome(self.id, life), &outcome.record());
            let content = content.map_err(Error::malformed(&path))?;
            self.workspace.put_once_or_reserve(&path, &content, &reserve)
        };
        let mut once = put(&outcome);
        if matches!(once, Ok(Once::Theirs))
            && let Some(forged) = self.outcome_in(Some(life)).err().filter(Error::is_forged)
        {
            self.workspace.report_once(&path, &forged);
            self.workspace.set_aside(&path)?;
            once = put(&outcome);
        }
        if once.as_ref().is_err_and(Error::is_disk_full) {
            // The outcome does not fit into the reserved space.
            let sentence = "the workspace is full: free some space, then send the job again";
            let ending = Ending::failure(self.service()?, self.id, Code::DiskFull, sentence);
            outcome = Outcome::new(ending, journal_length);
            once = put(&outcome);
        }
        let outcome = match once? {
            Once::Ours => outcome,
            Once::Theirs => self.outcome_in(Some(life))?.unwrap_or(outcome),
        };
        // No longer needed; harmless if it cannot be removed.
        let _ = fs::remove_dir_all(self.reserve());
        self.workspace.watcher().wake(&self.directory());
        self.cancel_children();
        Ok(outcome)
    }

    fn cancel_children(&self) {
        let children = self.children().unwrap_or_else(|error| {
            tracing::error!(job = %self.id, error = &error as &dyn std::error::Error, "failed to list the jobs it started");
            Vec::new()
        });
        for id in children {
            let cancelled = Self::open(&self.workspace, id).and_then(|child| match child {
                Some(child) if child.outcome()?.is_none() => child.request_cancel(),
                _ => Ok(()),
            });
            // Continue with the others. This one ends at its own deadline.
            if let Err(error) = cancelled {
                tracing::error!(job = %id, error = &error as &dyn std::error::Error, "failed to cancel a job");
            }
        }
    }
}

/// A job that this process has claimed. Only this value writes the journal.
#[derive(Debug)]
pub struct ClaimedJob {
    job: Job,
    /// What its outcome belongs to, whatever becomes of the job's record.
    life: Life,
    journal: Journal,
    _lease: FileLock,
}

impl ClaimedJob {
    /// The job.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Appends an event and returns its ID. All followers of the journal see it.
    ///
    /// # Errors
    /// If the volume cannot be written. The event is then not in the journal.
    pub fn append(&mut self, event: &EventLine) -> Result<u64> {
        self.append_all(std::slice::from_ref(event))?;
        Ok(self.journal.length())
    }

    /// Appends events at once: they cost one write, and followers wake once.
    ///
    /// # Errors
    /// If the volume cannot be written. None of the events is then in the journal.
    pub fn append_all(&mut self, events: &[EventLine]) -> Result<()> {
        self.journal.append(events)?;
        self.job.workspace.watcher().wake(&self.job.directory());
        Ok(())
    }

    /// The length of the journal, in bytes.
    #[must_use]
    pub fn journal_length(&self) -> u64 {
        self.journal.length()
    }

    /// Ends the job. Another process may have ended it before; returns the outcome that counts.
    ///
    /// # Errors
    /// If the volume cannot be written. The job then ends as lost when this process exits.
    pub fn finish(self, ending: Ending) -> Result<Outcome> {
        // Best effort: the outcome must be written even if the disk is full.
        if let Err(error) = self.journal.sync() {
            tracing::warn!(job = %self.job.id, error = %error, "failed to flush the journal");
        }
        self.job.close(&self.life, ending, self.journal.length())
    }
}
