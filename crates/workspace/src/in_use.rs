//! What the jobs that have not ended use, so that nothing of it is deleted.

use std::collections::HashSet;

use contract::{JobId, SessionId, WorkspacePath};
use serde::Deserialize;

use crate::{Job, Result, Session, Workspace};

/// The sessions, and the directories in `jobs/`, that jobs use which wait or run.
#[derive(Debug, Default)]
pub(crate) struct InUse {
    pub(crate) sessions: HashSet<SessionId>,
    pub(crate) directories: HashSet<String>,
}

/// The fields of a request that name a place. Whatever else is in it does not matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    #[serde(default)]
    workspace: Option<String>,
    /// The job whose checkout it reads.
    #[serde(default)]
    job_id: Option<String>,
}

/// The directory in `jobs/` that contains this path, if it is in one.
pub(crate) fn own_directory(path: &str) -> Option<&str> {
    let mut parts = path.split('/');
    (parts.next() == Some("jobs")).then(|| parts.next()).flatten()
}

impl InUse {
    /// Looks at all jobs that have not ended, except `but`.
    ///
    /// # Errors
    /// If one of them cannot be read: what it uses is not known then.
    pub(crate) fn look(workspace: &Workspace, but: &[JobId]) -> Result<Self> {
        let mut found = Self::default();
        for id in workspace.open_jobs()?.into_iter().filter(|id| !but.contains(id)) {
            let Some(job) = Job::open(workspace, id)? else { continue };
            match job.outcome() {
                Ok(Some(_)) => {}
                Ok(None) => found.add(workspace, &job)?,
                // What is not to be believed does not say that it has ended.
                Err(error) if error.is_damage() => found.add(workspace, &job)?,
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn add(&mut self, workspace: &Workspace, job: &Job) -> Result<()> {
        self.directories.insert(job.id().to_string());
        let record = match job.record() {
            // It can never be run. A gateway sets it aside.
            Err(error) if error.is_damage() => return Ok(()),
            // It was deleted or set aside just now.
            Err(error) if error.is_missing() => return Ok(()),
            record => record?,
        };
        self.directories.extend(record.parent.map(|parent| parent.to_string()));
        if let Ok(Body { workspace: place, job_id }) =
            serde_json::from_str(record.request.body.get())
        {
            if let Some(place) = place
                && let Ok(place) = WorkspacePath::parse(&place, workspace.root_text())
            {
                self.add_place(workspace, &place)?;
            }
            if let Some(read) = job_id.and_then(|id| id.parse().ok()) {
                self.add_read(workspace, read)?;
            }
        }
        if let Some(id) = record.session {
            self.sessions.insert(id);
            let session = Session::open(workspace, id);
            match session.and_then(|session| session.map_or(Ok(None), |session| session.place())) {
                Ok(Some(place)) => self.add_place(workspace, &place)?,
                Ok(None) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A job whose result is read. It may be in the checkout of an earlier one.
    fn add_read(&mut self, workspace: &Workspace, id: JobId) -> Result<()> {
        self.directories.insert(id.to_string());
        let Some(job) = Job::open(workspace, id)? else { return Ok(()) };
        match job.work() {
            Ok(Some(work)) => self.add_place(workspace, &work.checkout),
            Ok(None) => Ok(()),
            // What is not known cannot be read either.
            Err(error) if error.is_damage() || error.is_missing() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn add_place(&mut self, workspace: &Workspace, place: &WorkspacePath) -> Result<()> {
        self.directories.extend(own_directory(place.as_str()).map(str::to_owned));
        // A link may lead into another directory.
        match workspace.resolve(place) {
            Ok(real) => {
                self.directories.extend(own_directory(real.as_str()).map(str::to_owned));
                Ok(())
            }
            // The job itself is refused then.
            Err(crate::ResolveError::Refused(_)) => Ok(()),
            Err(crate::ResolveError::Volume(error)) => Err(error),
        }
    }

    /// Takes a directory in `jobs/` away, unless a job uses it. The job may have been created meanwhile: then it is put
    /// back. `but` are jobs that have ended or are being deleted.
    pub(crate) fn take_directory(
        &self,
        workspace: &Workspace,
        name: &str,
    ) -> Result<Option<crate::doomed::Doomed>> {
        if self.directories.contains(name) {
            return Ok(None);
        }
        let path = std::path::Path::new("jobs").join(name);
        let Some(taken) = workspace.take_away(&path)? else { return Ok(None) };
        match Self::look(workspace, &[]) {
            Ok(now) if !now.directories.contains(name) => Ok(Some(taken)),
            // Also if that is not known.
            looked => {
                taken.put_back()?;
                looked.map(|_| None)
            }
        }
    }
}
