//! What a workflow has left: where its agent worked, and from which commit.

use contract::{BranchName, DeliveryView, JobState, Service, SessionId, WorkspacePath};
use serde::{Deserialize, de::IgnoredAny};

use super::Job;
use crate::{Error, JobFilter, JobRecord, NewestFirst, Outcome, Result, Session, journal};

/// In milliseconds.
const DAY: i64 = 24 * 60 * 60 * 1000;

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
    /// Whether the commands that check it succeeded, and what the last one printed, if there were any.
    pub verification: Option<(bool, String)>,
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
    verified: Option<bool>,
    verify_output: Option<String>,
    #[serde(skip)]
    request: Option<String>,
}

/// Where an agent worked, and its end.
struct AgentRun {
    place: Option<String>,
    end: End,
}

/// The field that says where an agent worked, in its request and its first event.
#[derive(Debug, Default, Deserialize)]
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
        let verification = end.verified.map(|it| (it, end.verify_output.unwrap_or_default()));
        let (session, result) = (end.session_id, end.result);
        let of = |pulled: &End, checkout| Work {
            checkout,
            base: pulled.commit.clone(),
            branch: pulled.branch.as_deref().and_then(|name| BranchName::parse(name).ok()),
            session,
            result: result.clone(),
            verification: verification.clone(),
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
        let record = self.record()?;
        if record.service.asks_for_jobs() {
            return Ok(self.work()?.map(|work| work.checkout));
        }
        let place = if record.service == Service::Claude {
            let asked = serde_json::from_str::<Execute>(record.request.body.get());
            let asked = asked.map_err(Error::malformed(self.record_path()))?.workspace;
            // One that is in a session goes where that is, and says so in its first event.
            let first = journal::first_event(&self.journal_path())?.unwrap_or_default();
            let connected = serde_json::from_slice::<Execute>(&first).unwrap_or_default().workspace;
            let own = || format!("jobs/{}/work", self.id);
            Some(asked.or(connected).unwrap_or_else(own))
        } else {
            let end = self.outcome()?.and_then(|outcome| outcome.event.peek::<End>().ok());
            end.and_then(|end| end.target_path)
        };
        let path = place.and_then(|text| WorkspacePath::parse(&text, root).ok());
        Ok(path.map(|path| path.checkout(root)))
    }

    /// Whether another job has worked in the checkout or the session of `work` since this one ended. Blocking; this reads every
    /// job that has ended since, or not yet.
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
        let (directory, own) = (work.checkout.directory(), work.checkout.own_id());
        let filter = JobFilter { ended_after: Some(ended), ..JobFilter::default() };
        for id in NewestFirst::look(&self.workspace, filter)? {
            let id = id?;
            // Callers choose IDs, with a time within a day of when the job was really created, and jobs wait.
            let age = ended.as_millisecond().saturating_sub(id.created().as_millisecond());
            if age > 2 * DAY {
                break;
            }
            if id == self.id {
                continue;
            }
            let Some(job) = Self::open(&self.workspace, id)? else { continue };
            let record = match job.record() {
                // It can never run, or was deleted just now.
                Err(error) if error.is_damage() || error.is_missing() => continue,
                record => record?,
            };
            // A delivery only reads.
            let works_there =
                (&record.directory, record.own) == (&directory, own) && record.path.is_none();
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
            let JobRecord { service, path, request, .. } = child.record()?;
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

/// What the terminal event of a job says about its result.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Said {
    pub(super) delivery: Option<DeliveryView>,
    pub(super) verified: Option<bool>,
    pub(super) verify_output: Option<String>,
}

pub(super) fn said(outcome: &Outcome) -> Said {
    // A version that says it differently is not damage.
    outcome.event.peek().unwrap_or_default()
}

/// Whether the result of this workflow was to be delivered, and may be only in its checkout: it failed in its third step, or
/// without saying in which, because its own replica died.
pub(crate) fn keeps_undelivered(record: &JobRecord, outcome: &Outcome) -> bool {
    #[derive(Deserialize)]
    struct Failed {
        step: Option<u8>,
    }
    #[derive(Deserialize)]
    struct Asked {
        #[serde(default)]
        deliver: Option<IgnoredAny>,
    }
    if record.service != Service::Workflow || outcome.state != JobState::Failed {
        return false;
    }
    let asked = serde_json::from_str::<Asked>(record.request.body.get());
    let failed = outcome.event.peek::<Failed>();
    // What cannot be understood is not a reason to delete anything.
    asked.map_or(true, |it| it.deliver.is_some())
        && failed.map_or(true, |it| it.step.is_none_or(|step| step == 3))
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
            verification: None,
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
    fn a_later_job_whose_caller_chose_an_earlier_id_supersedes_too() {
        let (_dir, workspace) = fixtures::workspace();
        let (early, late) = (JobId::new(), JobId::new());
        assert!(early < late);
        let record = JobRecord { job_id: late, ..fixtures::record(None, &json!({})) };
        let job = fixtures::create(&workspace, &record);
        job.end_unclaimed("test", Ending::success(&json!({}))).unwrap().unwrap();
        let work = Work {
            checkout: WorkspacePath::parse("app", workspace.root_text()).unwrap(),
            base: None,
            branch: None,
            session: None,
            result: None,
            verification: None,
            pull: None,
        };
        assert!(!job.is_superseded(&work).unwrap(), "the control");
        std::thread::sleep(std::time::Duration::from_millis(2));
        let directory = contract::DirectoryName::parse("app").ok();
        let record = JobRecord { job_id: early, directory, ..record };
        let later = fixtures::create(&workspace, &record);
        let _claimed = later.claim("test").unwrap().unwrap();
        assert!(job.is_superseded(&work).unwrap());
    }

    #[test]
    fn what_was_not_delivered_is_kept() {
        let kept = |body: Value, ending| {
            keeps_undelivered(&fixtures::record(None, &body), &Outcome::new(ending, 0))
        };
        let failed = |step| Ending::workflow_failure(JobId::new(), step, Code::PushRejected, "no");
        let lost =
            || Ending::failure(Service::Workflow, JobId::new(), Code::ReplicaLost, "it died");
        let asked = || json!({"deliver": {"mode": "branch"}});
        let steps = [Some(1), Some(2), Some(3), None];
        assert_eq!(steps.map(|it| kept(asked(), failed(it))), [false, false, true, true]);
        assert!(kept(asked(), lost()));
        // The controls: nothing was to be delivered, or all of it was.
        assert!(!kept(json!({}), lost()) && !kept(json!({"deliver": null}), lost()));
        assert!(!kept(asked(), Ending::success(&json!({"type": "workflow_complete"}))));
    }
}
