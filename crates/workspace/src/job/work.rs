//! What a workflow has left: where its agent worked, and from which commit.

use contract::{BranchName, DeliveryView, Service, SessionId, WorkspacePath};
use serde::Deserialize;

use super::Job;
use crate::{Error, JobFilter, JobRecord, NewestFirst, Outcome, Result, Session};

/// What the jobs of a workflow have left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The checkout.
    pub checkout: WorkspacePath,
    /// The commit that its pull checked out.
    pub base: Option<String>,
    /// The branch that its pull checked out.
    pub branch: Option<BranchName>,
    /// The session in which its agent worked.
    pub session: Option<SessionId>,
    /// The agent's last words.
    pub result: Option<String>,
    /// The request of its pull, as recorded.
    pub pull: Option<String>,
}

/// The fields of the terminal events of a workflow's jobs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct End {
    target_path: Option<String>,
    commit: Option<String>,
    branch: Option<String>,
    session_id: Option<SessionId>,
    result: Option<String>,
    #[serde(skip)]
    request: Option<String>,
}

/// Where an agent worked, and its end.
struct AgentRun {
    place: Option<String>,
    end: End,
}

/// The field of an agent's request that says where it worked.
#[derive(Debug, Deserialize)]
struct Execute {
    workspace: Option<String>,
}

impl Job {
    /// What this workflow's jobs have left so far; `None` if none of them had a checkout. A workflow that resumed a session
    /// without a pull began where the workflow began to whose checkout it returned. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read, or what it says is damaged.
    pub fn work(&self) -> Result<Option<Work>> {
        let (pulled, agent) = self.ends_of_children()?;
        let root = self.workspace.root_text();
        let path = |text: &str| WorkspacePath::parse(text, root).ok();
        let place = agent.as_ref().and_then(|agent| path(agent.place.as_deref()?));
        let end = agent.map(|agent| agent.end).unwrap_or_default();
        let (session, result) = (end.session_id, end.result);
        let of = |pulled: &End, checkout| Work {
            checkout,
            base: pulled.commit.clone(),
            branch: pulled.branch.as_deref().and_then(|name| BranchName::parse(name).ok()),
            session,
            result: result.clone(),
            pull: pulled.request.clone(),
        };
        if let Some(pulled) = &pulled {
            return Ok(pulled.target_path.as_deref().and_then(path).map(|at| of(pulled, at)));
        }
        let Some(checkout) = place.map(|place| place.checkout(root)) else { return Ok(None) };
        let earlier = match checkout.own_job().filter(|owner| *owner != self.id) {
            Some(owner) => Self::open(&self.workspace, owner)?,
            None => None,
        };
        let pulled = earlier.map(|job| job.ends_of_children()).transpose()?.and_then(|it| it.0);
        Ok(Some(of(&pulled.unwrap_or_default(), checkout)))
    }

    /// The checkout that it worked in, or works in; `None` if it has none yet. Blocking.
    ///
    /// # Errors
    /// As [`work`](Self::work).
    pub fn checkout(&self) -> Result<Option<WorkspacePath>> {
        let root = self.workspace.root_text();
        let record = self.shown_record()?;
        if record.service.asks_for_jobs() {
            return Ok(self.work()?.map(|work| work.checkout));
        }
        let place = if record.service == Service::Claude {
            let asked = serde_json::from_str::<Execute>(record.request.body.get());
            let asked = asked.map_err(Error::malformed(self.record_path()))?.workspace;
            Some(asked.unwrap_or_else(|| format!("jobs/{}/work", self.id)))
        } else {
            let end = self.outcome()?.and_then(|outcome| outcome.event.peek::<End>().ok());
            end.and_then(|end| end.target_path)
        };
        let path = place.and_then(|text| WorkspacePath::parse(&text, root).ok());
        Ok(path.map(|path| path.checkout(root)))
    }

    /// Whether a job that was created later has worked in the checkout or the session of `work` since this one ended. Blocking;
    /// for a shared checkout, this reads every later job.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn is_superseded(&self, work: &Work) -> Result<bool> {
        let Some(ended) = self.outcome()?.map(|outcome| outcome.ended) else { return Ok(false) };
        if let Some(id) = work.session
            && let Some(session) = Session::open(&self.workspace, id)?
            && session.view()?.is_some_and(|view| view.updated > ended)
        {
            return Ok(true);
        }
        let Some(directory) = work.checkout.directory() else { return Ok(false) };
        for id in NewestFirst::look(&self.workspace, JobFilter::default())? {
            let id = id?;
            if id <= self.id {
                break;
            }
            let Some(job) = Self::open(&self.workspace, id)? else { continue };
            let record = job.shown_record()?;
            // A delivery only reads.
            let works_there =
                record.directory.as_ref() == Some(&directory) && record.path.is_none();
            if works_there && job.claimed()?.is_some_and(|claim| claim.run && claim.at > ended) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The end of the last pull that succeeded, and where the last agent worked with its end, if it has one.
    fn ends_of_children(&self) -> Result<(Option<End>, Option<AgentRun>)> {
        let mut children = self.children()?;
        children.sort_unstable();
        let (mut pulled, mut agent) = (None, None);
        for id in children {
            let Some(child) = Self::open(&self.workspace, id)? else { continue };
            let JobRecord { service, path, request, .. } = child.shown_record()?;
            // A delivery, or a look at a result, leaves nothing.
            if service == Service::Workflow || path.is_some() {
                continue;
            }
            let outcome = child.outcome()?;
            let end = match &outcome {
                Some(outcome) => {
                    let end = outcome.event.peek::<End>();
                    Some(end.map_err(Error::malformed(child.outcome_path()))?)
                }
                None => None,
            };
            if service == Service::Pull {
                let end = end.filter(|end| end.target_path.is_some() && end.commit.is_some());
                let request = Some(request.body.get().to_owned());
                pulled = end.map(|end| End { request, ..end }).or(pulled);
            } else if service == Service::Claude {
                let asked = serde_json::from_str::<Execute>(request.body.get());
                let place = asked.map_err(Error::malformed(child.record_path()))?.workspace;
                agent = Some(AgentRun { place, end: end.unwrap_or_default() });
            }
        }
        Ok((pulled, agent))
    }
}

/// What the terminal event of a workflow says about the delivery of its result.
pub(super) fn delivery(outcome: &Outcome) -> Option<DeliveryView> {
    #[derive(Deserialize)]
    struct Delivered {
        delivery: Option<DeliveryView>,
    }
    // A version that says it differently is not damage.
    outcome.event.peek::<Delivered>().ok()?.delivery
}

/// The job that failed in its third step has a result that is only in its checkout.
pub(crate) fn keeps_undelivered(outcome: &Outcome) -> bool {
    #[derive(Deserialize)]
    struct Failed {
        #[serde(rename = "type")]
        kind: String,
        step: Option<u8>,
    }
    let failed = outcome.event.peek::<Failed>();
    failed.is_ok_and(|it| it.kind == Service::Workflow.spec().failure_event && it.step == Some(3))
}

#[cfg(test)]
mod tests {
    use contract::{Code, Ending, JobId};
    use serde_json::{Value, json};

    use super::*;
    use crate::{Workspace, fixtures};

    fn child(
        workspace: &Workspace,
        parent: JobId,
        service: Service,
        body: &Value,
        end: &Value,
    ) -> Job {
        let record = JobRecord { service, ..fixtures::record(Some(parent), body) };
        let job = fixtures::create(workspace, &record);
        job.end_unclaimed("test", Ending::success(end)).unwrap().unwrap();
        job
    }

    #[test]
    fn where_a_workflow_and_those_that_resume_it_worked() {
        let (_dir, workspace) = fixtures::workspace();
        let root = workspace.root_text();
        let workflow = || fixtures::create(&workspace, &fixtures::record(None, &json!({})));
        let first = workflow();
        assert_eq!(first.work().unwrap(), None);
        let checkout = format!("jobs/{}/r", first.id());
        let session = SessionId::new();
        let pulled = json!({"type": "completed", "targetPath": format!("{root}/{checkout}"), "commit": "c1", "branch": "main"});
        child(&workspace, first.id(), Service::Pull, &json!({}), &pulled);
        let asked = json!({"workspace": checkout});
        let ended =
            |result: &str| json!({"type": "completed", "sessionId": session, "result": result});
        child(&workspace, first.id(), Service::Claude, &asked, &ended("one"));
        let found = first.work().unwrap().unwrap();
        let expected = Work {
            checkout: WorkspacePath::parse(&checkout, root).unwrap(),
            base: Some("c1".into()),
            branch: BranchName::parse("main").ok(),
            session: Some(session),
            result: Some("one".into()),
            pull: Some("{}".into()),
        };
        assert_eq!(found, expected);

        // It resumes the session in a directory of the checkout, without a pull.
        let second = workflow();
        let asked = json!({"workspace": format!("{checkout}/src")});
        child(&workspace, second.id(), Service::Claude, &asked, &ended("two"));
        let found = second.work().unwrap().unwrap();
        assert_eq!(found, Work { result: Some("two".into()), ..expected.clone() });

        // With a pull, it begins at another commit.
        let third = workflow();
        let pulled = json!({"type": "completed", "targetPath": format!("{root}/{checkout}"), "commit": "c2"});
        child(&workspace, third.id(), Service::Pull, &json!({}), &pulled);
        child(&workspace, third.id(), Service::Claude, &asked, &ended("three"));
        let found = third.work().unwrap().unwrap();
        assert_eq!((found.base.as_deref(), found.branch), (Some("c2"), None));
    }

    #[test]
    fn what_was_not_delivered_is_kept() {
        let failed = |step| {
            let ending = Ending::workflow_failure(JobId::new(), step, Code::PushRejected, "no");
            keeps_undelivered(&Outcome::new(ending, 0))
        };
        assert_eq!([Some(1), Some(2), Some(3), None].map(failed), [false, false, true, false]);
    }
}
