//! What the tests of several modules begin with.

use contract::{CallerName, JobId, Retain, Service, Timestamp};
use serde_json::{Value, json, value::to_raw_value};

use crate::{Job, JobRecord, NewJob, RecordedRequest, Workspace};

/// A fresh volume, which is removed with the directory.
pub(crate) fn workspace() -> (tempfile::TempDir, Workspace) {
    let dir = tempfile::tempdir().unwrap();
    let workspace = Workspace::open(dir.path()).unwrap();
    (dir, workspace)
}

/// The record of a workflow, or of the run of an agent that a workflow has started.
pub(crate) fn record(parent: Option<JobId>, body: &Value) -> JobRecord {
    JobRecord {
        job_id: JobId::new(),
        service: if parent.is_some() { Service::Claude } else { Service::Workflow },
        path: None,
        caller: CallerName::anonymous(),
        parent,
        directory: None,
        own: None,
        session: None,
        repo_url: None,
        works_anywhere: false,
        retain: Retain::Default,
        labels: contract::Labels::new(),
        callback_url: None,
        created: Timestamp::now(),
        gateway: None,
        request: RecordedRequest {
            body: to_raw_value(body).unwrap(),
            credentials_withheld: false,
            digest: None,
        },
    }
}

pub(crate) fn create(workspace: &Workspace, record: &JobRecord) -> Job {
    let NewJob::Created(job) = Job::create(workspace, record).unwrap() else { panic!("it exists") };
    job
}

/// The run of an agent.
pub(crate) fn job(workspace: &Workspace) -> Job {
    create(workspace, &JobRecord { service: Service::Claude, ..record(None, &json!({})) })
}
