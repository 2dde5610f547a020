//! What the gateway adds: idle replicas, the queue, running jobs, and the jobs of the last hour.

use contract::{JobState, JobView, Service, Timestamp};
use web::BaseUrl;

use super::snapshot::{Count, Exactness, Failure, ServiceRow};
use crate::client::{Api, Listing, ids, one_line};

const HOUR: i64 = 3_600_000;
/// How many pages of jobs are read: a busier hour is counted from below.
const PAGES: usize = 5;

/// What a gateway has answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// Idle, busy and queued, by service.
    pub(crate) counts: Vec<(Service, [usize; 3])>,
    /// The jobs that run, however old.
    pub(crate) running: Vec<JobView>,
    /// The jobs that were created in the last hour.
    pub(crate) jobs: Vec<JobView>,
    /// Whether those are all.
    pub(crate) whole: bool,
    pub(crate) notes: Vec<String>,
}

/// Asks the gateway at these addresses, one for each service. What it does not say is left out, with a note.
pub(crate) async fn hear(addresses: &[(Service, BaseUrl)], now: Timestamp) -> Heard {
    let mut heard = Heard::default();
    for (service, url) in addresses {
        match Api::new(url.clone()).status().await {
            Ok(status) => heard
                .counts
                .push((*service, [status.replicas.idle, status.replicas.busy, status.queue.depth])),
            Err(error) => {
                heard
                    .notes
                    .push(format!("cannot ask the gateway which replicas are idle: {error}"));
                return heard;
            }
        }
    }
    if let Some((_, url)) = addresses.first() {
        let listing = Listing { state: Some(JobState::Running), ..Listing::default() };
        match Api::new(url.clone()).jobs(listing).await {
            Ok(running) => heard.running = running,
            Err(error) => {
                heard.notes.push(format!("cannot ask the gateway which jobs run: {error}"))
            }
        }
        let since = Timestamp::from_millisecond(now.as_millisecond() - HOUR);
        match Api::new(url.clone()).jobs_since(since, PAGES).await {
            Ok((jobs, whole)) => (heard.jobs, heard.whole) = (jobs, whole),
            Err(error) => heard.notes.push(format!("cannot list the jobs of the gateway: {error}")),
        }
    }
    heard
}

impl Heard {
    /// Adds it to the rows. Pure.
    pub(crate) fn add_to(&self, services: &mut [ServiceRow], failures: &mut Vec<Failure>) {
        for row in services {
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
        failures.extend(self.jobs.iter().filter_map(failure));
    }

    fn count(&self, count: usize) -> Count {
        let exact = if self.whole { Exactness::Exact } else { Exactness::AtLeast };
        Count { count: u64::try_from(count).unwrap_or(u64::MAX), exact }
    }
}

fn failure(job: &JobView) -> Option<Failure> {
    // A workflow fails with the words of the job that failed in it.
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

    use super::*;

    #[test]
    fn jobs_are_counted_by_service_and_failures_named_once() {
        let job = |service, state, parent: Option<&str>| JobView {
            job_id: "019aa001-0000-7000-8000-0123456789ab".parse().unwrap(),
            service,
            state,
            parent: parent.map(|id| id.parse().unwrap()),
            repo_url: None,
            created: Timestamp::from_millisecond(1),
            started: None,
            ended: Some(Timestamp::from_millisecond(2)),
            code: Some(Code::Diverged),
            error: Some("both\nmoved".into()),
        };
        let parent = Some("019aa001-0000-7000-8000-0123456789aa");
        let heard = Heard {
            counts: vec![(Service::Workflow, [1, 2, 3]), (Service::Pull, [0, 0, 0])],
            jobs: vec![
                job(Service::Workflow, JobState::Failed, None),
                job(Service::Workflow, JobState::Succeeded, None),
                job(Service::Workflow, JobState::Running, None),
                job(Service::Pull, JobState::Failed, parent),
            ],
            running: vec![],
            whole: false,
            notes: vec![],
        };
        let row = |name: &str| ServiceRow { service: name.into(), ..ServiceRow::default() };
        let mut rows = [row("gateway"), row("workflow-api"), row("github-pull-api")];
        let mut failures = vec![];
        heard.add_to(&mut rows, &mut failures);
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
