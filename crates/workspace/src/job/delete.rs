//! Deletes a job that has ended, with the jobs it started.

use std::path::Path;

use contract::JobId;

use super::Job;
use crate::{FileLock, Result, in_use::InUse};

/// The result of deleting a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletedJob {
    /// It was deleted.
    Done,
    /// It has not ended, a job that it started has not, or another job works in its checkout.
    Running,
    /// It does not exist any more.
    Unknown,
}

impl Job {
    /// Deletes a job that has ended: its record, its journal and its own checkout, and the same of the jobs it started.
    /// Blocking.
    ///
    /// Readers that have begun to read its events read them to the end. If the process is killed meanwhile, a part of
    /// it may be left, which can be deleted in the same way.
    ///
    /// # Errors
    /// If the volume cannot be read or written.
    pub fn delete(&self) -> Result<DeletedJob> {
        if Self::open(&self.workspace, self.id)?.is_some() {
            // If its process is gone, it has ended, and uses nothing any more.
            self.settle()?;
        }
        let mut gone = Vec::new();
        let in_use = InUse::look(&self.workspace, &[])?;
        let deleted = self.delete_with(&in_use, &|_| true, &mut gone)?;
        self.workspace.forget_ended(&gone)?;
        Ok(deleted)
    }

    /// The same, if what is in use is known. An own checkout is deleted only if `deletes` says so. The IDs of what is
    /// deleted are added to `gone`; its lines in the index stay.
    pub(crate) fn delete_with(
        &self,
        in_use: &InUse,
        deletes: &dyn Fn(&str) -> bool,
        gone: &mut Vec<JobId>,
    ) -> Result<DeletedJob> {
        let workspace = &self.workspace;
        if Self::open(workspace, self.id)?.is_none() {
            return Ok(DeletedJob::Unknown);
        }
        // The job itself comes last: as long as it is there, what is left can be found.
        let mut jobs = Vec::new();
        for id in self.children()? {
            jobs.extend(Self::open(workspace, id)?);
        }
        jobs.push(self.clone());
        let mut leases = Vec::new();
        for job in &jobs {
            let is_used = in_use.directories.contains(&job.id.to_string());
            // Ends it, if its process is gone.
            if job.settle()?.is_none() || (is_used && deletes(&job.id.to_string())) {
                return Ok(DeletedJob::Running);
            }
            // Its process may not have exited yet.
            let Some(lease) = FileLock::try_acquire(&job.lease_path())? else {
                return Ok(DeletedJob::Running);
            };
            leases.push(lease);
        }
        for job in &jobs {
            let name = job.id.to_string();
            if deletes(&name)
                && let Some(checkout) = in_use.take_directory(workspace, &name)?
            {
                // At once, because it makes room for what is written next.
                checkout.destroy()?;
            }
        }
        for job in &jobs {
            // Otherwise, callers could delete what they have spent.
            workspace.note_cost(job)?;
        }
        let mut taken = Vec::new();
        for job in &jobs {
            taken.extend(workspace.take_away(&Path::new(".stack/jobs").join(job.id.to_string()))?);
            workspace.remove_entry(job.id)?;
            // Whoever waits for its events looks again.
            workspace.watcher().wake(&job.directory());
        }
        drop(leases);
        gone.extend(jobs.iter().map(|job| job.id));
        for tree in taken {
            tree.destroy()?;
        }
        Ok(DeletedJob::Done)
    }
}
