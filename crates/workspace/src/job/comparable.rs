//! Whether what a workflow has left can still be compared with what it was given.

use contract::{Code, RequestError, WorkspacePath};

use super::Job;
use crate::ResolveError;

/// What is compared, as far as the records know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparable {
    /// The commit that the agent was given.
    pub base: String,
    /// The request of the pull, as recorded.
    pub pull: String,
    /// The checkout. Its path contains no link.
    pub checkout: WorkspacePath,
}

impl Job {
    /// Finds what this workflow, which has ended, has left. Blocking.
    ///
    /// # Errors
    /// Why there is nothing to compare, or not any more.
    pub fn comparable(&self) -> std::result::Result<Comparable, RequestError> {
        let volume = |error: crate::Error| error.refusal();
        let work = self.work().map_err(volume)?;
        let Some((work, base, pull)) = work.and_then(|work| {
            let (base, pull) = (work.base.clone()?, work.pull.clone()?);
            Some((work, base, pull))
        }) else {
            let sentence = "there is nothing to compare with: the job's pull did not succeed, or is no longer known";
            return Err(RequestError::new(Code::NoBase, sentence));
        };
        if self.is_superseded(&work).map_err(volume)? {
            let sentence = "a later job has worked in this checkout since, so what this job has changed is not known any \
                            more: ask for the diff of the later job, or before the next one starts";
            return Err(RequestError::new(Code::Superseded, sentence));
        }
        let gone = |why: &str| {
            let sentence = format!("the checkout of this job is gone: {why}");
            RequestError::new(Code::WorkspaceGone, sentence)
        };
        let checkout = match self.workspace.resolve(&work.checkout) {
            Ok(checkout) => checkout,
            Err(ResolveError::Refused(why)) => return Err(gone(&why)),
            Err(ResolveError::Volume(error)) => return Err(volume(error)),
        };
        // An agent may have put a link there, into the checkout of another caller.
        if !self.workspace.may_work_in(self.id, &checkout).map_err(volume)? {
            return Err(gone("something else is in its place"));
        }
        Ok(Comparable { base, pull, checkout })
    }
}

#[cfg(test)]
mod tests {
    use contract::{Ending, JobId, Service, Timestamp};
    use serde_json::json;

    use super::*;
    use crate::{JobRecord, Workspace, fixtures};

    fn end(job: &Job) {
        job.end_unclaimed("test", Ending::success(&json!({"type": "completed"}))).unwrap().unwrap();
    }

    /// A workflow that has ended, with a checkout of its own.
    fn workflow(workspace: &Workspace) -> Job {
        let job = fixtures::create(workspace, &fixtures::record(None, &json!({})));
        let target = workspace.root().join(format!("jobs/{}/r", job.id()));
        std::fs::create_dir_all(&target).unwrap();
        let pull = JobRecord {
            service: Service::Pull,
            ..fixtures::record(Some(job.id()), &json!({"repoUrl": "u"}))
        };
        let pulled = json!({"type": "completed", "targetPath": target, "commit": "c"});
        let pull = fixtures::create(workspace, &pull);
        pull.end_unclaimed("test", Ending::success(&pulled)).unwrap().unwrap();
        end(&job);
        job
    }

    /// A job in the own directory of another one.
    fn works_in(owner: &Job) -> JobRecord {
        let record = fixtures::record(None, &json!({}));
        JobRecord { service: Service::Claude, own: Some(owner.id().into()), ..record }
    }

    fn code(job: &Job) -> Option<Code> {
        job.comparable().err().map(|error| error.code)
    }

    #[test]
    fn an_own_checkout_in_which_another_job_has_worked_is_superseded() {
        let (_dir, workspace) = fixtures::workspace();
        let early = JobId::new();
        let job = workflow(&workspace);
        let place = format!("jobs/{}/r", job.id());
        let found = job.comparable().unwrap();
        assert_eq!((found.base.as_str(), found.checkout.as_str()), ("c", place.as_str()));
        let ended = job.outcome().unwrap().unwrap().ended;
        while Timestamp::now() <= ended {
            std::thread::yield_now();
        }
        // One elsewhere, one that waits, and one that reads. Their callers have chosen IDs before that of the job.
        let elsewhere = works_in(&fixtures::job(&workspace));
        let _elsewhere = fixtures::create(&workspace, &elsewhere).claim("test").unwrap().unwrap();
        let waiting = JobRecord { job_id: early, ..works_in(&job) };
        let waiting = fixtures::create(&workspace, &waiting);
        let reading = JobRecord { path: Some("/api/changes".into()), ..works_in(&job) };
        let _reading = fixtures::create(&workspace, &reading).claim("test").unwrap().unwrap();
        assert_eq!(code(&job), None);
        let running = waiting.claim("test").unwrap().unwrap();
        assert_eq!(code(&job), Some(Code::Superseded));
        running.finish(Ending::success(&json!({"type": "completed"}))).unwrap();
        workspace.index_ended().unwrap();
        assert_eq!(code(&job), Some(Code::Superseded));
    }

    /// The record of another job is no reason to know nothing of this one.
    #[test]
    fn a_damaged_record_of_another_job_is_not_in_the_way() {
        let (_dir, workspace) = fixtures::workspace();
        let job = workflow(&workspace);
        let other = fixtures::create(&workspace, &works_in(&job));
        std::fs::write(other.record_path(), "{").unwrap();
        assert_eq!(code(&job), None);
    }

    #[test]
    fn a_checkout_that_leads_to_somebody_else_is_gone() {
        let (_dir, workspace) = fixtures::workspace();
        let job = workflow(&workspace);
        let other = contract::DirectoryName::parse("other").unwrap();
        workspace.claim_directory(&other, &"ann".parse().unwrap()).unwrap();
        std::fs::create_dir(workspace.checkout(&other)).unwrap();
        let place = workspace.root().join(format!("jobs/{}/r", job.id()));
        std::fs::remove_dir(&place).unwrap();
        std::os::unix::fs::symlink("../../other", &place).unwrap();
        assert_eq!(code(&job), Some(Code::WorkspaceGone));
        // The control: a link to what belongs to nobody else.
        std::fs::remove_file(workspace.owners().join("other")).unwrap();
        assert_eq!(job.comparable().unwrap().checkout.as_str(), "other");
        std::fs::remove_file(&place).unwrap();
        assert_eq!(code(&job), Some(Code::WorkspaceGone));
    }
}
