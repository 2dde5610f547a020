//! Removes leftovers of killed processes from the staging directory.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use contract::JobId;
use uuid::Uuid;

use crate::{Error, Job, Result, Workspace};

/// How long anything except a checkout may be staged. It takes milliseconds, so this is ample.
const LONGEST_STAGING: Duration = Duration::from_secs(3600);

impl Workspace {
    /// Removes what will never be put in place: the directories of jobs that have ended, and anything else older than
    /// an hour. The names say which job they belong to and when they were created. Returns the number of removed
    /// entries. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn tidy(&self) -> Result<usize> {
        let directory = self.temporary();
        let entries = fs::read_dir(&directory).map_err(Error::io("list", &directory))?;
        let mut removed = 0;
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &directory))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if self.is_left(name) {
                match self.destroy(name) {
                    Ok(()) => removed += 1,
                    Err(error) => {
                        tracing::warn!(path = %entry.path().display(), %error, "failed to remove a leftover");
                    }
                }
            }
        }
        Ok(removed)
    }

    fn is_left(&self, name: &str) -> bool {
        if let Ok(id) = name.parse::<JobId>() {
            match Job::open(self, id) {
                Ok(Some(job)) => return matches!(job.outcome(), Ok(Some(_))),
                Ok(None) => {}
                // It is unknown whether the job still needs it.
                Err(_) => return false,
            }
        }
        // Other names are not ours.
        let begun = Uuid::try_parse(name).ok().and_then(|id| id.get_timestamp());
        begun.is_some_and(|begun| {
            let (seconds, nanos) = begun.to_unix();
            let age = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
            age.elapsed().is_ok_and(|age| age > LONGEST_STAGING)
        })
    }
}

#[cfg(test)]
mod tests {
    use contract::{Code, Ending, ExecuteRequest, JobRequest as _, Policy, Service};
    use uuid::{NoContext, Timestamp};

    use super::*;
    use crate::{JobRecord, NewJob, RequestDigest};

    #[test]
    fn only_abandoned_entries_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let body = br#"{"prompt":"x"}"#;
        let request = ExecuteRequest::parse(body, "/w", &Policy::default()).unwrap();
        let digest = RequestDigest::of(&request, body, None);
        let job = || {
            let record =
                JobRecord::of(&workspace, &request, digest.clone(), JobId::new(), None).unwrap();
            let NewJob::Created(job) = Job::create(&workspace, &record).unwrap() else { panic!() };
            fs::create_dir_all(workspace.temporary().join(job.id().to_string()).join("half"))
                .unwrap();
            job
        };
        let (ended, running) = (job(), job());
        let ending = Ending::failure(Service::Claude, ended.id(), Code::Cancelled, "x");
        ended.end_unclaimed("test", ending).unwrap().unwrap();
        let hours_ago = |hours: u64| {
            let then = SystemTime::now() - Duration::from_secs(hours * 3600);
            let seconds = then.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, 0)).to_string()
        };
        let (old, new) = (hours_ago(2), hours_ago(0));
        let kept = [running.id().to_string(), new, "somebody's".to_owned()];
        for name in [&old, &kept[1], &kept[2]] {
            fs::write(workspace.temporary().join(name), "").unwrap();
        }
        assert_eq!(workspace.tidy().unwrap(), 2);
        for name in &kept {
            assert!(workspace.temporary().join(name).exists(), "{name}");
        }
        assert_eq!(fs::read_dir(workspace.temporary()).unwrap().count(), kept.len());
    }
}
