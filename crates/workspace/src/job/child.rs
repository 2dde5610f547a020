//! Which jobs a workflow may start.

use std::{fs, io};

use contract::{Code, JobId, Service};
use serde::{Deserialize, Serialize};

use super::Job;
use crate::{
    Error, Result,
    proof::{About, Life},
    write::Once,
};

/// How many jobs of each service a workflow may start: a second one only if the replica of the first died.
const ATTEMPTS: usize = 2;
/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 1024;

/// A file in `admitted/`: `<service>.<attempt>`, or `<service>.<path>.<attempt>` for another job path than the first.
#[derive(Serialize, Deserialize)]
struct Admitted {
    job: JobId,
}

impl Job {
    /// Whether this workflow may start the job `child` of `service`, whose request belongs to `path` if that is not the first
    /// job path of the service: one for each path of each service that its own service asks, and another if that one ended
    /// as `replica_lost`. Asking again for the same job changes nothing. Of two that are asked for at the same time, through
    /// whatever gateways, one is admitted. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read or written, or an admission is damaged or forged: another job may have started already.
    pub fn admits_child(
        &self,
        asks: &[Service],
        (service, path): (Service, Option<&str>),
        child: JobId,
    ) -> Result<bool> {
        // Anything else would be part of a file's name.
        let path = path.map(|path| path.trim_start_matches("/api/"));
        let is_name = |path: &str| path.chars().all(|c| c.is_ascii_lowercase());
        if !asks.contains(&service) || !path.is_none_or(is_name) {
            return Ok(false);
        }
        let life = self.life()?.unwrap_or(Life::Unknown);
        let admitted = self.directory().join("admitted");
        match fs::create_dir(&admitted) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", admitted)(error));
            }
            _ => {}
        }
        for attempt in 0..ATTEMPTS {
            let kind = path.map(|path| format!(".{path}")).unwrap_or_default();
            let name = format!("{service}{kind}.{attempt}");
            let path = admitted.join(&name);
            let about = About::Admitted(self.id, &life, &name);
            let content = self.workspace.seal(about, &Admitted { job: child });
            let content = content.map_err(Error::malformed(&path))?;
            if self.workspace.put_once(&path, &content)? == Once::Ours {
                return Ok(true);
            }
            let content = self.workspace.read_record(about, &path, MAX_FILE)?.unwrap_or_default();
            let admitted: Admitted =
                serde_json::from_slice(&content).map_err(Error::malformed(&path))?;
            let first = admitted.job;
            if first == child {
                return Ok(true);
            }
            let outcome =
                Self::open(&self.workspace, first)?.map(|job| job.settle()).transpose()?.flatten();
            if outcome.is_none_or(|outcome| outcome.code != Some(Code::ReplicaLost)) {
                return Ok(false);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use contract::Ending;
    use serde_json::json;

    use super::*;
    use crate::{JobRecord, fixtures};

    const ASKS: &[Service] = &[Service::Pull, Service::Claude];

    #[test]
    fn one_job_of_each_service_and_another_if_the_first_was_lost() {
        let (_dir, workspace) = fixtures::workspace();
        let workflow = fixtures::create(&workspace, &fixtures::record(None, &json!({})));
        let admits = |service, child| workflow.admits_child(ASKS, (service, None), child).unwrap();
        let lose = |service, code| {
            let record = JobRecord { service, ..fixtures::record(Some(workflow.id()), &json!({})) };
            assert!(admits(service, record.job_id));
            let job = fixtures::create(&workspace, &record);
            assert!(!admits(service, JobId::new()), "it has not ended");
            let ending = Ending::failure(service, job.id(), code, "x");
            job.end_unclaimed("test", ending).unwrap().unwrap();
            job.id()
        };
        let first = lose(Service::Pull, Code::ReplicaLost);
        let second = lose(Service::Pull, Code::ReplicaLost);
        assert!(admits(Service::Pull, first) && admits(Service::Pull, second), "asked again");
        assert!(!admits(Service::Pull, JobId::new()), "a third");
        lose(Service::Claude, Code::AgentFailed);
        assert!(!admits(Service::Claude, JobId::new()), "it was not lost");
        assert!(!admits(Service::Workflow, JobId::new()), "a workflow does not start workflows");
        let delivers =
            |path, child| workflow.admits_child(ASKS, (Service::Pull, Some(path)), child).unwrap();
        let one = JobId::new();
        assert!(delivers("/api/deliver", one) && delivers("/api/deliver", one));
        assert!(!delivers("/api/deliver", JobId::new()), "one delivery");
        assert!(!delivers("/api/../x", JobId::new()));
    }

    #[test]
    fn one_of_many_that_ask_at_once_is_admitted() {
        let (_dir, workspace) = fixtures::workspace();
        let workflow = fixtures::create(&workspace, &fixtures::record(None, &json!({})));
        let admitted = std::thread::scope(|scope| {
            let ask =
                || workflow.admits_child(ASKS, (Service::Claude, None), JobId::new()).unwrap();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).filter(|it| *it).count()
        });
        assert_eq!(admitted, 1);
    }
}
