//! Reads, which are answered at once and without a replica, and the cancelling of jobs.

use std::sync::Arc;

use contract::{
    CallerName, Code, DirectoryName, Ending, JobDeleted, JobList, JobState, JobView, RepoList,
    RequestError, Service, Timestamp,
};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use web::Body;
use workspace::{DeletedJob, Job, JobFilter, NewestFirst, Position, Workspace, blocking};

use crate::{
    caller::{Access, Act, Caller, not_yours},
    dispatch::CANCELLED,
    shared::Shared,
};

/// The most jobs on one page of a listing.
const MOST: usize = 1000;

pub(crate) async fn status(shared: &Arc<Shared>, service: Service) -> Result<Value, RequestError> {
    let replicas = shared.registry(service);
    let found = blocking(move || Ok((replicas.idle()?, replicas.busy()?))).await;
    let (announced, mut at_work) = found.map_err(|error: workspace::Error| error.refusal())?;
    // One may have taken a job between the two listings.
    at_work.retain(|replica| !announced.contains(replica));
    let state = shared.state();
    // A replica that is asked to take a job is no longer idle.
    let asked = announced.iter().filter(|replica| state.is_asked(replica.id)).count();
    let idle = announced.len() - asked;
    // Replicas may work for another gateway, and those of an earlier version do not say that they are at work.
    let busy = state.busy(service).max(asked + at_work.len());
    Ok(json!({
        "status": if idle > 0 { "idle" } else { "busy" },
        "timestamp": Timestamp::now(),
        "replicas": {"idle": idle, "busy": busy},
        "queue": {"depth": state.queue().of(service).count()},
    }))
}

/// The named checkouts that a caller may see.
pub(crate) async fn repos(shared: &Arc<Shared>, caller: Caller) -> Result<Value, RequestError> {
    let workspace = shared.workspace.clone();
    let repos = blocking(move || {
        let mut list = workspace.repos()?;
        if caller.may_all(Act::Read) {
            return Ok(list);
        }
        let mut own = Vec::new();
        for repo in list.repos {
            let Ok(name) = DirectoryName::parse(&repo.name) else { continue };
            match workspace.owner_of_directory(&name) {
                Ok(owner) if owner.as_ref() == Some(&caller.name) => own.push(repo),
                Ok(_) => {}
                // One that cannot be read does not hide the others.
                Err(error) => workspace.report_once(name.as_str().as_ref(), &error),
            }
        }
        list = RepoList { count: own.len(), repos: own };
        Ok(list)
    });
    let repos = repos.await.map_err(|error: workspace::Error| error.refusal())?;
    Ok(json!(repos))
}

/// Which jobs to list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    limit: usize,
    filter: JobFilter,
}

impl Listing {
    /// The same for what this caller may see.
    pub(crate) fn of(mut self, caller: &Caller) -> Self {
        if !caller.may_all(Act::Read) {
            self.filter.caller = Some(caller.name.clone());
        }
        self
    }

    pub(crate) fn parse(query: &str) -> Result<Self, RequestError> {
        let invalid = |what: String| RequestError::new(Code::InvalidField, what);
        let mut listing = Self { limit: 50, filter: JobFilter::default() };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "limit" => {
                    listing.limit =
                        value
                            .parse()
                            .ok()
                            .filter(|limit| (1..=MOST).contains(limit))
                            .ok_or_else(|| invalid(format!("'limit' must be from 1 to {MOST}")))?;
                }
                "cursor" => {
                    let cursor = value
                        .parse()
                        .map_err(|_| invalid("'cursor' must be the 'next' of a page".into()))?;
                    listing.filter.before = Some(cursor);
                }
                "state" => {
                    let state = JobState::from_name(&value).ok_or_else(|| {
                        invalid(
                            "'state' must be queued, running, succeeded, failed or cancelled"
                                .into(),
                        )
                    })?;
                    listing.filter.state = Some(state);
                }
                "id" => {
                    let part = value.to_ascii_lowercase();
                    let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
                    if part.is_empty() || !part.chars().all(is_part) {
                        return Err(invalid(
                            "'id' must be the beginning or the end of a job's ID".into(),
                        ));
                    }
                    listing.filter.id = Some(part);
                }
                // A layer decides whether others are refused.
                _ => {}
            }
        }
        Ok(listing)
    }
}

pub(crate) async fn jobs(shared: &Arc<Shared>, listing: Listing) -> Result<JobList, RequestError> {
    let workspace = shared.workspace.clone();
    blocking(move || list(&workspace, &listing)).await.map_err(|error| error.refusal())
}

fn list(workspace: &Workspace, listing: &Listing) -> workspace::Result<JobList> {
    let mut jobs = Vec::new();
    let mut next = None;
    for id in NewestFirst::look(workspace, listing.filter.clone())? {
        let id = id?;
        let view = match Job::open(workspace, id).and_then(|job| match job {
            Some(job) => job.view().map(Some),
            None => Ok(None),
        }) {
            Ok(Some(view)) => view,
            Ok(None) => continue,
            Err(error) => {
                // A job that cannot be read does not hide the others.
                workspace.report_once(id.to_string().as_ref(), &error);
                continue;
            }
        };
        let filter = &listing.filter;
        if filter.state.is_some_and(|state| view.state != state)
            || filter.caller.as_ref().is_some_and(|caller| view.caller != *caller)
        {
            continue;
        }
        if jobs.len() == listing.limit {
            // There is one more: the page ends before it.
            next = jobs.last().map(|view: &JobView| view.job_id.to_string());
            break;
        }
        jobs.push(view);
    }
    Ok(JobList { count: jobs.len(), jobs, next })
}

/// The job with this ID, if the caller may do this with it.
///
/// # Errors
/// If there is none, it belongs to another caller, or the volume cannot be read.
pub(crate) async fn find(
    shared: &Shared,
    caller: &Caller,
    act: Act,
    id: &str,
) -> Result<Job, RequestError> {
    let workspace = shared.workspace.clone();
    let id = id.parse().map_err(|_| unknown())?;
    let needs_no_owner = caller.may_all(act);
    let found = blocking(move || {
        let Some(job) = Job::open(&workspace, id)? else { return Ok(None) };
        if needs_no_owner {
            return Ok(Some((job, None)));
        }
        let owner = match job.record() {
            Ok(record) => record.caller,
            // Nobody else can be its owner.
            Err(error) if error.is_damage() => CallerName::anonymous(),
            Err(error) => return Err(error),
        };
        Ok(Some((job, Some(owner))))
    });
    let (job, owner) = found.await.map_err(|error| error.refusal())?.ok_or_else(unknown)?;
    match owner.map_or(Access::Granted, |owner| caller.access(&owner, act)) {
        Access::Granted => Ok(job),
        Access::Forbidden => Err(not_yours("this job")),
        Access::Hidden => Err(unknown()),
    }
}

fn unknown() -> RequestError {
    RequestError::new(Code::NotFound, "no such job: GET /api/jobs lists them")
}

/// The position of a reader that has seen the event with the ID `after`.
pub(crate) async fn position(job: &Job, after: u64) -> Result<Position, RequestError> {
    let job = job.clone();
    blocking(move || job.check_position(after)).await.map_err(|error| match error {
        workspace::Error::UnknownEvent(_) => {
            let sentence =
                format!("'Last-Event-ID': {error}; leave it out to read from the beginning");
            RequestError::new(Code::InvalidField, sentence)
        }
        error => error.refusal(),
    })
}

pub(crate) async fn view(job: Job) -> Result<JobView, RequestError> {
    blocking(move || job.view()).await.map_err(|error| error.refusal())
}

/// `POST /api/jobs/:id/cancel`, which is completed even if the caller does not wait for the answer.
pub(crate) async fn cancel(
    shared: &Arc<Shared>,
    caller: &Caller,
    id: &str,
) -> Result<Response<Body>, RequestError> {
    let (shared, caller, id) = (Arc::clone(shared), caller.clone(), id.to_owned());
    let tasks = shared.tasks.clone();
    let cancelling = tasks.spawn(async move {
        let job = find(&shared, &caller, Act::Change, &id).await?;
        cancel_it(&shared, job).await
    });
    let failed = || {
        RequestError::new(Code::Internal, "the job could not be cancelled: see the gateway's log")
    };
    cancelling.await.unwrap_or_else(|_| Err(failed()))
}

/// `DELETE /api/jobs/:id`, which is completed even if the caller does not wait for the answer.
pub(crate) async fn delete(
    shared: &Arc<Shared>,
    caller: &Caller,
    id: &str,
) -> Result<JobDeleted, RequestError> {
    let job = find(shared, caller, Act::Change, id).await?;
    let id = job.id();
    match blocking(move || job.delete()).await.map_err(|error| error.refusal())? {
        DeletedJob::Done => Ok(JobDeleted::new(id)),
        DeletedJob::Running => Err(RequestError::new(
            Code::Running,
            "the job has not ended, or another job works in its checkout: cancel that one, or wait for its end",
        )),
        DeletedJob::Unknown => Err(unknown()),
    }
}

async fn cancel_it(shared: &Arc<Shared>, job: Job) -> Result<Response<Body>, RequestError> {
    let id = job.id();
    let before = view(job.clone()).await?;
    if before.state.has_ended() {
        return Ok(web::json(StatusCode::OK, &json!({"jobId": id, "state": before.state})));
    }
    let ask = job.clone();
    blocking(move || ask.request_cancel()).await.map_err(|error| error.refusal())?;
    shared.end_queued(id, Code::Cancelled, CANCELLED).await;
    let end = job.clone();
    let by = shared.claimant();
    // It is in no queue if its gateway is gone.
    if shared.ticket(id).is_none() {
        let ending = Ending::failure(before.service, id, Code::Cancelled, CANCELLED);
        blocking(move || end.end_unclaimed(&by, ending)).await.map_err(|error| error.refusal())?;
    }
    let after = view(job).await?;
    Ok(web::json(StatusCode::ACCEPTED, &json!({"jobId": id, "state": after.state})))
}

#[cfg(test)]
mod tests {
    use contract::JobId;

    use super::*;

    #[test]
    fn listings() {
        let id = JobId::new();
        let listing =
            Listing::parse(&format!("limit=7&state=running&cursor={id}&id=00Ab-7")).unwrap();
        let filter = JobFilter {
            before: Some(id),
            state: Some(JobState::Running),
            id: Some("00ab-7".to_owned()),
            ..JobFilter::default()
        };
        assert_eq!(listing, Listing { limit: 7, filter });
        let default = Listing { limit: 50, filter: JobFilter::default() };
        assert_eq!(Listing::parse("").unwrap(), default);
        for bad in [
            "limit=0",
            "limit=1001",
            "limit=x",
            "limit=-1",
            "cursor=../x",
            "state=lost",
            "id=",
            "id=..%2F",
        ] {
            assert!(Listing::parse(bad).is_err(), "{bad}");
        }
    }
}
