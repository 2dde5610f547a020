//! Whether the records of a job are to be believed, and the end of a job whose record is not.

use std::path::Path;

use contract::{CallerName, Code, Ending, Service};
use serde::Deserialize;

use super::{Job, MAX_RECORD};
use crate::{
    Error, JobRecord, Outcome, Result,
    error::FORGED,
    proof::{About, Life, Proof, RawRecord},
};

impl Job {
    /// The job's request.
    ///
    /// # Errors
    /// If `job.json` cannot be read, is damaged, forged or missing, or has no proof. Every job has one from the start.
    pub fn record(&self) -> Result<JobRecord> {
        match self.readable_record()? {
            (_, Life::Earlier) => Err(Error::unproven(&self.record_path())),
            (record, _) => Ok(record),
        }
    }

    /// The job's request, for whoever only shows it: also that of a job of an earlier version, which has no proof, if the job has
    /// ended. Such a job is shown as one of `anonymous`, but belongs to nobody.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn shown_record(&self) -> Result<JobRecord> {
        self.readable_record().map(|(record, _)| record)
    }

    /// Whose the job is; `None` if nothing proves that.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn owner(&self) -> Result<Option<CallerName>> {
        match self.record() {
            Err(error) if error.is_damage() => Ok(None),
            record => record.map(|record| Some(record.caller)),
        }
    }

    /// The same as [`shown_record`](Self::shown_record), and what the job's other records belong to.
    pub(crate) fn readable_record(&self) -> Result<(JobRecord, Life)> {
        let path = self.record_path();
        let (content, proof) = self.checked_record()?.ok_or_else(|| not_found(&path))?;
        let life = match proof {
            Proof::Valid(proof) => Life::Proven(proof),
            Proof::Unchecked => Life::Unknown,
            Proof::Missing if self.workspace.may_be_unsigned(self.id) && self.has_outcome()? => {
                Life::Earlier
            }
            Proof::Missing => return Err(Error::unproven(&path)),
        };
        let mut record: JobRecord =
            serde_json::from_slice(&content).map_err(Error::malformed(&path))?;
        if life == Life::Earlier {
            (record.caller, record.works_anywhere) = (CallerName::anonymous(), false);
        }
        Ok((record, life))
    }

    /// What the record says, whoever wrote it: only for deciding what to keep.
    pub(crate) fn unchecked_record(&self) -> Result<JobRecord> {
        let path = self.record_path();
        let found = RawRecord::read(&path, MAX_RECORD)?.ok_or_else(|| not_found(&path))?;
        serde_json::from_slice(found.unchecked()).map_err(Error::malformed(&path))
    }

    fn checked_record(&self) -> Result<Option<(Vec<u8>, Proof)>> {
        let path = self.record_path();
        let found = RawRecord::read(&path, MAX_RECORD)?;
        found.map(|found| self.workspace.check(About::Job(self.id), &path, found)).transpose()
    }

    /// The error of a job whose record is not the one that it was queued with.
    #[must_use]
    pub fn record_of_another_life(&self) -> Error {
        Error::forged(&self.record_path(), "it is of an earlier job with the same ID")
    }

    /// What the job's other records belong to; `None` if the job does not exist any more.
    pub(super) fn life(&self) -> Result<Option<Life>> {
        if !self.workspace.signs() {
            return Ok(Some(Life::Unknown));
        }
        Ok(match self.checked_record() {
            Ok(None) => None,
            Ok(Some((_, Proof::Valid(proof)))) => Some(Life::Proven(proof)),
            Ok(Some((_, Proof::Missing))) if self.workspace.may_be_unsigned(self.id) => {
                Some(Life::Earlier)
            }
            Ok(Some(_)) => Some(Life::Unknown),
            Err(error) if error.is_damage() => Some(Life::Unknown),
            Err(error) => return Err(error),
        })
    }

    /// Reads a record of this life of the job, which may be `known`; `None` if there is none, or if the job does not exist any
    /// more.
    ///
    /// # Errors
    /// [`Error::Forged`] if it is not to be believed; another if it cannot be read.
    pub(super) fn read_own(
        &self,
        known: Option<&Life>,
        about: impl FnOnce(&Life) -> About<'_>,
        path: &Path,
    ) -> Result<Option<Vec<u8>>> {
        // Most of the time it is not there, and nothing else has to be read.
        let Some(found) = RawRecord::read(path, MAX_RECORD)? else { return Ok(None) };
        let read = if known.is_none() { self.life()? } else { None };
        let Some(life) = known.or(read.as_ref()) else { return Ok(None) };
        match self.workspace.check(about(life), path, found)? {
            (_, Proof::Missing) if *life != Life::Earlier => Err(Error::unproven(path)),
            (content, _) => Ok(Some(content)),
        }
    }

    /// The service that is to end the job. If the record is forged, what it says is believed: it only decides what the terminal
    /// event looks like.
    ///
    /// # Errors
    /// If the record cannot be read, or names no service.
    pub fn service(&self) -> Result<Service> {
        #[derive(Deserialize)]
        struct OfService {
            service: Service,
        }
        match self.shown_record() {
            Err(error) if error.is_forged() => {
                let found = RawRecord::read(&self.record_path(), MAX_RECORD)?;
                let named = found.and_then(|it| serde_json::from_slice(it.unchecked()).ok());
                named.map(|it: OfService| it.service).ok_or(error)
            }
            record => record.map(|record| record.service),
        }
    }

    /// Ends a job whose record is `damaged` because it is forged. Returns `None` if the record is damaged in another way, names
    /// no service, or if a process runs the job.
    ///
    /// # Errors
    /// If the volume cannot be read or written.
    pub fn end_forged(&self, by: &str, damaged: &Error) -> Result<Option<Outcome>> {
        if !damaged.is_forged() {
            return Ok(None);
        }
        let service = match self.service() {
            Err(error) if error.is_damage() => return Ok(None),
            service => service?,
        };
        self.workspace.report_once(&self.record_path(), damaged);
        let ending = Ending::failure(service, self.id, Code::RecordForged, FORGED);
        match self.end_unclaimed(by, ending)? {
            Some(outcome) => Ok(Some(outcome)),
            // It is claimed, and its process may be dead.
            None => self.settle(),
        }
    }
}

fn not_found(path: &Path) -> Error {
    Error::io("read", path)(std::io::ErrorKind::NotFound.into())
}
