//! What the gateway adds: idle replicas, the queue, running jobs, and the jobs of the last hour.

use contract::{JobState, JobView, Service, Timestamp};
use stack_client::{Api, Listing, ServiceStatus};
use transcript::one_line;

use super::snapshot::{Count, Exactness, Failure, Rows};
use crate::{client::ids, program};

const HOUR: i64 = 3_600_000;
/// How many pages of jobs are read: a busier hour is counted from below.
const PAGES: usize = 5;

/// What a gateway answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct GatewayReport {
    /// Idle, busy and queued, by service.
    pub(crate) counts: Vec<(Service, [usize; 3])>,
    /// The running jobs, however old.
    pub(crate) running: Vec<JobView>,
    /// The jobs that were created in the last hour.
    pub(crate) jobs: Vec<JobView>,
    /// Whether those are all of them.
    pub(crate) has_all_jobs: bool,
    /// What it does not say, and why.
    pub(crate) notes: Vec<String>,
}

impl GatewayReport {
    /// Asks the gateway about each service. What it does not answer is left out, with a note.
    pub(crate) async fn read(apis: &[(Service, Api)], now: Timestamp) -> Self {
        let mut report = Self::default();
        for (service, api) in apis {
            match api.status().await {
                Ok(ServiceStatus { replicas, queue }) => {
                    report.counts.push((*service, [replicas.idle, replicas.busy, queue.depth]));
                }
                Err(error) => {
                    report.unknown("which replicas are idle", &error);
                    return report;
                }
            }
        }
        if let Some((_, api)) = apis.first() {
            if api.is_open().await.unwrap_or(false) {
                report.notes.push(format!(
                    "the stack is open: whoever can reach it may run agents and read all jobs; `{} token create --admin` \
                     closes it",
                    program::name()
                ));
            }
            let listing = Listing { state: Some(JobState::Running), ..Listing::default() };
            match api.jobs(listing).await {
                Ok(running) => report.running = running,
                Err(error) => report.unknown("which jobs are running", &error),
            }
            let since = Timestamp::from_millisecond(now.as_millisecond() - HOUR);
            match api.jobs_since(since, PAGES).await {
                Ok((jobs, all)) => (report.jobs, report.has_all_jobs) = (jobs, all),
                Err(error) => report.unknown("the jobs of the last hour", &error),
            }
        }
        report
    }

    fn unknown(&mut self, what: &str, error: &stack_client::Error) {
        self.notes.push(format!("the gateway does not say {what}: {error}"));
    }

    /// Adds it to the rows. Pure.
    pub(crate) fn add_to(&self, rows: &mut Rows) {
        for row in &mut rows.services {
            let of_row = |service: Service| service.name() == row.service;
            let Some((service, [idle, busy, queued])) =
                self.counts.iter().copied().find(|(service, _)| of_row(*service))
            else {
                continue;
            };
            (row.idle, row.busy, row.queued) = (Some(idle), Some(busy), Some(queued));
            let ended = || {
                self.jobs.iter().filter(move |job| job.service == service && job.state.has_ended())
            };
            row.jobs = Some(self.count(ended().count()));
            row.jobs_failed =
                Some(self.count(ended().filter(|job| job.state == JobState::Failed).count()));
        }
        rows.failures.extend(self.jobs.iter().filter_map(failure));
    }

    fn count(&self, count: usize) -> Count {
        let exact = if self.has_all_jobs { Exactness::Exact } else { Exactness::AtLeast };
        Count { count: u64::try_from(count).unwrap_or(u64::MAX), exact }
    }
}

fn failure(job: &JobView) -> Option<Failure> {
    // A workflow fails with the error of the job that failed in it.
    let told_by_parent = job.parent.is_some();
    if job.state != JobState::Failed || told_by_parent {
        return None;
    }
    let code = job.code.map(|code| code.to_string());
    let what = [code.as_deref(), job.error.as_deref()].into_iter().flatten().collect::<Vec<_>>();
    Some(Failure {
        at: job.ended.unwrap_or(job.created),
        of: format!("job {}", ids::short(job.job_id)),
        what: one_line(&what.join(": "), 120),
    })
}

#[cfg(test)]
mod tests {
    use contract::Code;

    use super::{super::snapshot::ServiceRow, *};
    use crate::fixtures::workflow;

    #[test]
    fn jobs_are_counted_by_service_and_failures_named_once() {
        let job = |service, state, parent: Option<&str>| JobView {
            service,
            parent: parent.map(|id| id.parse().unwrap()),
            ended: Some(Timestamp::from_millisecond(2000)),
            code: Some(Code::Diverged),
            error: Some("both\nmoved".into()),
            ..workflow("019aa001-0000-7000-8000-0123456789ab", state)
        };
        let parent = Some("019aa001-0000-7000-8000-0123456789aa");
        let report = GatewayReport {
            counts: vec![(Service::Workflow, [1, 2, 3]), (Service::Pull, [0, 0, 0])],
            jobs: vec![
                job(Service::Workflow, JobState::Failed, None),
                job(Service::Workflow, JobState::Succeeded, None),
                job(Service::Workflow, JobState::Running, None),
                job(Service::Pull, JobState::Failed, parent),
            ],
            running: vec![],
            has_all_jobs: false,
            notes: vec![],
        };
        let row = |name: &str| ServiceRow { service: name.into(), ..ServiceRow::default() };
        let services = ["gateway", "workflow-api", "github-pull-api"].map(row).to_vec();
        let mut all = Rows { services, ..Rows::default() };
        report.add_to(&mut all);
        let (rows, failures) = (all.services, all.failures);
        assert_eq!(rows[0], row("gateway"));
        let count = |count| Some(Count { count, exact: Exactness::AtLeast });
        assert_eq!((rows[1].jobs, rows[1].jobs_failed), (count(2), count(1)));
        assert_eq!((rows[1].idle, rows[1].busy, rows[1].queued), (Some(1), Some(2), Some(3)));
        assert_eq!((rows[2].jobs, rows[2].jobs_failed), (count(1), count(1)));
        assert_eq!(failures.len(), 1);
        assert_eq!(
            (&*failures[0].of, &*failures[0].what),
            ("job 456789ab", "diverged: both moved")
        );
    }
}
