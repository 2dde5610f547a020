//! What several tests need.

use contract::{CallerName, JobState, JobView, Service, Timestamp};

/// A workflow of that ID, created a second after the epoch, of which nothing else is known.
pub(crate) fn workflow(id: &str, state: JobState) -> JobView {
    JobView {
        job_id: id.parse().unwrap(),
        service: Service::Workflow,
        state,
        caller: CallerName::anonymous(),
        parent: None,
        labels: contract::Labels::new(),
        repo_url: None,
        created: Timestamp::from_millisecond(1000),
        started: None,
        ended: None,
        code: None,
        error: None,
        changes_of: None,
        delivery: None,
        verified: None,
        verify_output: None,
    }
}
