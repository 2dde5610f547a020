//! Turns a request into a job.

use std::{fs, io, path::Path};

use contract::{Code, JobId, JobState, RequestError};

use super::Job;
use crate::{
    Error, JobRecord, Result, Workspace,
    proof::About,
    write::{Once, reserve, sync_directory, write_synced},
};

/// The bytes reserved for a job's claim, so that the job can be claimed and ended on a full volume.
const CLAIM_RESERVE: usize = 512;
/// The bytes reserved for a request to cancel it.
const CANCEL_RESERVE: usize = 256;
/// The bytes reserved for its outcome. On a full volume, a longer outcome is replaced.
const OUTCOME_RESERVE: usize = 8 * 1024;

/// The result of creating a job.
#[derive(Debug)]
pub enum NewJob {
    /// It was created.
    Created(Job),
    /// It already existed and was not changed, because the request was repeated.
    Exists(Job),
}

/// Why a request does not become a job.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Its parent is not a running workflow.
    #[error("the parent is not a running workflow")]
    ParentEnded,
    /// The ID belongs to the job of another request.
    #[error("the id belongs to another request")]
    AnotherRequest,
    /// The volume cannot be used.
    #[error(transparent)]
    Volume(#[from] Error),
}

impl CreateError {
    /// The response to the caller. Errors of the volume are logged.
    #[must_use]
    pub fn refusal(&self) -> RequestError {
        match self {
            Self::ParentEnded => RequestError::new(
                Code::NotFound,
                "the workflow that requested this job is not running",
            ),
            Self::AnotherRequest => RequestError::new(
                Code::Claimed,
                "this job id belongs to another request: use a new one",
            ),
            Self::Volume(error) => error.refusal(),
        }
    }
}

impl Job {
    /// Creates a job. It is then on the volume, waiting to be claimed, and survives a power failure.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn create(workspace: &Workspace, record: &JobRecord) -> Result<NewJob> {
        let job = Self { workspace: workspace.clone(), id: record.job_id };
        if Self::open(workspace, job.id)?.is_some() {
            return Ok(NewJob::Exists(job));
        }
        // Register the child with its parent first: an entry without a job is harmless, but a job without an entry
        // would not be cancelled with its parent.
        if let Some(parent) = record.parent {
            job.announce_to(parent)?;
        }
        workspace.note_open(job.id)?;
        let scratch = workspace.scratch();
        let result = job.fill(&scratch, record);
        if result.is_err() {
            let _ = fs::remove_dir_all(&scratch);
        }
        let once = result?;
        workspace.confirm_open(&job)?;
        // The parent may have ended between the registration and now, before the job existed. The parent writes its
        // outcome and then looks for children; this creates the job and then checks the parent. So at least one of
        // them sees the other. The job exists, so errors are only logged: its replica checks the parent again.
        if let Some(parent) = record.parent {
            let parent = Self { workspace: workspace.clone(), id: parent };
            let cancelled = parent.outcome().and_then(|outcome| match outcome {
                Some(_) => job.request_cancel(),
                None => Ok(()),
            });
            if let Err(error) = cancelled {
                tracing::warn!(job = %job.id, error = &error as &dyn std::error::Error, "failed to check the parent");
            }
        }
        Ok(match once {
            Once::Ours => NewJob::Created(job),
            Once::Theirs => NewJob::Exists(job),
        })
    }

    /// [`create`](Self::create) for a request from outside: its parent must be a running workflow, and an existing
    /// job must have come from the same request.
    ///
    /// # Errors
    /// If the request is invalid, or the volume cannot be used.
    pub fn create_for(workspace: &Workspace, record: &JobRecord) -> Result<NewJob, CreateError> {
        if let Some(parent) = record.parent {
            // Only a running workflow may be a parent, because the queue's limits do not apply to its jobs.
            let view = Self::open(workspace, parent)?.map(|parent| parent.view()).transpose()?;
            let runs = view.is_some_and(|view| {
                view.service.asks_for_jobs() && view.state == JobState::Running
            });
            if !runs {
                return Err(CreateError::ParentEnded);
            }
        }
        let new = Self::create(workspace, record)?;
        if let NewJob::Exists(job) = &new
            && !job.record()?.is_same_request(record)
        {
            return Err(CreateError::AnotherRequest);
        }
        Ok(new)
    }

    fn announce_to(&self, parent: JobId) -> Result<()> {
        let parent = Self { workspace: self.workspace.clone(), id: parent };
        let children = parent.directory().join("children");
        match fs::create_dir(&children) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", children)(error));
            }
            _ => {}
        }
        let marker = children.join(self.id.to_string());
        fs::write(&marker, "").map_err(Error::io("write", &marker))
    }

    fn fill(&self, scratch: &Path, record: &JobRecord) -> Result<Once> {
        let control = scratch.join("control");
        fs::create_dir_all(&control).map_err(Error::io("create", &control))?;
        let path = scratch.join("job.json");
        let content = self.workspace.seal(About::Job(self.id), record);
        let content = content.map_err(Error::malformed(&path))?;
        write_synced(&path, &content).map_err(Error::io("write", &path))?;
        // Every file that the job's end needs is created now, because the volume may run out of inodes later.
        for name in ["lease", "events.ndjson"] {
            let path = scratch.join(name);
            fs::write(&path, "").map_err(Error::io("write", path))?;
        }
        let kept = scratch.join("reserve");
        fs::create_dir(&kept)
            .and_then(|()| reserve(&kept.join("claim"), CLAIM_RESERVE))
            .and_then(|()| reserve(&kept.join("cancel"), CANCEL_RESERVE))
            .and_then(|()| reserve(&kept.join("outcome"), OUTCOME_RESERVE))
            .map_err(Error::io("write", kept))?;
        // Claims and outcomes are flushed, so the record must be flushed too: after a power failure, a claimed job
        // with an empty record could not be ended.
        sync_directory(scratch)?;
        // Fails if the directory exists, because it is not empty.
        match fs::rename(scratch, self.directory()) {
            Ok(()) => {
                sync_directory(&self.workspace.jobs())?;
                Ok(Once::Ours)
            }
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
}
