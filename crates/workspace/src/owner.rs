//! Whose the things on the volume are.
//!
//! A job and a session say so themselves. The owner of a shared checkout is in `.stack/owners/<directory>`, which is created
//! once, before the first job there is. What has no owner was made before there were any, and belongs to `anonymous`.

use std::path::PathBuf;

use contract::{CallerName, DirectoryName, JobId, SessionId, Timestamp, WorkspacePath};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Job, JobRecord, Result, Session, UnprovenRecord, Workspace,
    layout::parsed_names,
    proof::{About, Life},
};

/// The longest file that is read, in bytes: many times the longest that is written.
const MAX_FILE: u64 = 64 * 1024;

/// `.stack/owners/<directory>`.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    caller: CallerName,
    since: Timestamp,
}

impl Workspace {
    pub(crate) fn owners(&self) -> PathBuf {
        self.stack().join("owners")
    }

    /// The owners that have no proof.
    pub(crate) fn unproven_owners(&self) -> Result<Vec<UnprovenRecord>> {
        let mut found = Vec::new();
        for name in parsed_names::<String>(&self.owners())? {
            let Ok(name) = DirectoryName::parse(&name) else { continue };
            let path = self.owners().join(name.as_str());
            let describe = |content: &[u8]| {
                let owner: Owner = serde_json::from_slice(content).ok()?;
                let Owner { caller, since } = owner;
                Some(format!("checkout {} of '{caller}', since {since}", name.as_str()))
            };
            found.extend(self.unproven(About::Owner(&name), &path, MAX_FILE, describe)?);
        }
        Ok(found)
    }

    /// The owner of a shared checkout; `None` if there is no such checkout, and nobody has asked for one. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read, or its owner is damaged.
    pub fn owner_of_directory(&self, name: &DirectoryName) -> Result<Option<CallerName>> {
        let path = self.owners().join(name.as_str());
        if let Some(content) = self.read_record(About::Owner(name), &path, MAX_FILE)? {
            let owner: Owner = serde_json::from_slice(&content).map_err(Error::malformed(&path))?;
            return Ok(Some(owner.caller));
        }
        let checkout = self.checkout(name);
        let is_there = checkout.try_exists().map_err(Error::io("check", checkout))?;
        Ok(is_there.then(CallerName::anonymous))
    }

    /// Makes `caller` the owner of a shared checkout that has none, and returns its owner. Of several callers that ask for
    /// it at the same time, through whatever gateways, one gets it. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read or written, or its owner is damaged.
    pub fn claim_directory(&self, name: &DirectoryName, caller: &CallerName) -> Result<CallerName> {
        let path = self.owners().join(name.as_str());
        if !path.try_exists().map_err(Error::io("check", &path))? {
            // A checkout that was made before there were owners keeps the owner that it has now.
            let caller = self.owner_of_directory(name)?.unwrap_or_else(|| caller.clone());
            let owner = Owner { caller, since: Timestamp::now() };
            let content = self.seal(About::Owner(name), &owner).map_err(Error::malformed(&path))?;
            self.put_once(&path, &content)?;
        }
        let owner = self.owner_of_directory(name)?;
        Ok(owner.unwrap_or_else(|| caller.clone()))
    }

    /// Whether a job may work in a place, whose path contains no link: it must belong to the caller of the job. This was checked
    /// when the job was submitted, but since then an agent may have changed a link in the path that was asked for. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn may_work_in(&self, job: JobId, place: &WorkspacePath) -> Result<bool> {
        let record = Job::open(self, job)?.map(|job| job.record()).transpose()?;
        let caller = record.as_ref().map(|it| it.caller.clone()).unwrap_or_default();
        if record.as_ref().is_some_and(|it| it.works_anywhere) {
            return Ok(true);
        }
        match self.owner_of_place(place)? {
            Some(owner) => Ok(owner == caller),
            None if caller.is_anonymous() => Ok(true),
            None => record.map_or(Ok(false), |record| self.continues_in(&record, place)),
        }
    }

    /// Whether a job continues a session, its own or that of its workflow, in the checkout where that has worked. Of a place that
    /// is nobody's any more, only the record of the session says who may work there. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn continues_in(&self, record: &JobRecord, place: &WorkspacePath) -> Result<bool> {
        let parent = match record.parent {
            Some(parent) => Job::open(self, parent)?.map(|job| job.record()).transpose()?,
            None => None,
        };
        let session = record.session.or(parent.and_then(|parent| parent.session));
        let session = session.map(|id| Session::open(self, id)).transpose()?.flatten();
        let lived = session.map(|session| session.place()).transpose()?.flatten();
        let root = self.root_text();
        Ok(lived.is_some_and(|lived| lived.checkout(root) == place.checkout(root)))
    }

    /// The owner of the place where a job works or is to work: that of the shared checkout, or of the job or session whose
    /// own directory it is in. `None` if it belongs to nothing that is known, or to a job of an earlier version, of which nothing
    /// proves whose it was. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read, or what says whose it is is damaged.
    pub fn owner_of_place(&self, place: &WorkspacePath) -> Result<Option<CallerName>> {
        if let Some(name) = place.directory() {
            return self.owner_of_directory(&name);
        }
        let own = place.as_str().strip_prefix("jobs/").and_then(|rest| rest.split('/').next());
        let Some(own) = own else { return Ok(None) };
        if let Ok(id) = own.parse::<JobId>()
            && let Some(job) = Job::open(self, id)?
        {
            let (record, life) = job.readable_record()?;
            return Ok((life != Life::Earlier).then_some(record.caller));
        }
        let Ok(id) = own.parse::<SessionId>() else { return Ok(None) };
        Session::open(self, id)?.map_or(Ok(None), |session| session.owner())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::fixtures;

    fn name(text: &str) -> CallerName {
        text.parse().unwrap()
    }

    #[test]
    fn a_checkout_has_one_owner_however_many_ask_at_once() {
        let (_dir, workspace) = fixtures::workspace();
        let app = DirectoryName::parse("app").unwrap();
        assert_eq!(workspace.owner_of_directory(&app).unwrap(), None);
        let owners: Vec<_> = std::thread::scope(|scope| {
            let claim = |n| {
                let (workspace, app) = (workspace.clone(), app.clone());
                move || workspace.claim_directory(&app, &name(&format!("c{n}"))).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(claim(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(owners.iter().all(|owner| *owner == owners[0]), "{owners:?}");
        assert_eq!(workspace.owner_of_directory(&app).unwrap(), Some(owners[0].clone()));
    }

    #[test]
    fn what_was_there_before_belongs_to_anonymous() {
        let (dir, workspace) = fixtures::workspace();
        let old = DirectoryName::parse("old").unwrap();
        fs::create_dir(dir.path().join("old")).unwrap();
        assert_eq!(workspace.owner_of_directory(&old).unwrap(), Some(CallerName::anonymous()));
        let owner = workspace.claim_directory(&old, &name("late")).unwrap();
        assert_eq!(owner, CallerName::anonymous());
        fs::write(dir.path().join(".stack/owners/old"), "{").unwrap();
        assert!(workspace.owner_of_directory(&old).unwrap_err().is_damage());
        assert!(workspace.claim_directory(&old, &name("late")).is_err(), "it is not given away");
    }

    #[test]
    fn a_place_belongs_to_the_job_the_session_or_the_checkout_that_it_is_in() {
        let (_dir, workspace) = fixtures::workspace();
        let record = JobRecord { caller: name("a"), ..fixtures::record(None, &json!({})) };
        let job = fixtures::create(&workspace, &record);
        let session = SessionId::new();
        let own = workspace.make_session_place(session).unwrap();
        drop(Session::create_for(&workspace, session, &own, &name("b")).unwrap());
        let app = DirectoryName::parse("app").unwrap();
        workspace.claim_directory(&app, &name("c")).unwrap();
        let owner = |place: &str| {
            let place = WorkspacePath::parse(place, workspace.root_text()).unwrap();
            workspace.owner_of_place(&place).unwrap().map(|owner| owner.to_string())
        };
        assert_eq!(owner(&format!("jobs/{}/repo/src", job.id())).as_deref(), Some("a"));
        assert_eq!(owner(own.as_str()).as_deref(), Some("b"));
        assert_eq!(owner("app/src").as_deref(), Some("c"));
        for unknown in [format!("jobs/{}/r", JobId::new()), "jobs/x".into(), "none".into()] {
            assert_eq!(owner(&unknown), None, "{unknown}");
        }
        // A session that a job has started there belongs to the same caller, wherever it works later.
        let started = SessionId::new();
        let place = |text: &str| WorkspacePath::parse(text, "/w").unwrap();
        let (session, _turn) =
            Session::create(&workspace, started, &place(&format!("jobs/{}/repo", job.id())))
                .unwrap();
        session.touch(&place("elsewhere")).unwrap();
        assert_eq!(session.owner().unwrap(), Some(name("a")));
    }

    #[test]
    fn a_job_works_only_in_what_belongs_to_its_caller() {
        let (_dir, workspace) = fixtures::workspace();
        let place = |text: &str| WorkspacePath::parse(text, workspace.root_text()).unwrap();
        for (directory, owner) in [("anns", Some("ann")), ("bobs", Some("bob")), ("old", None)] {
            fs::create_dir(workspace.root().join(directory)).unwrap();
            if let Some(owner) = owner {
                let content = json!({"caller": owner, "since": Timestamp::now()}).to_string();
                fs::create_dir_all(workspace.owners()).unwrap();
                fs::write(workspace.owners().join(directory), content).unwrap();
            }
        }
        let job_of = |caller: &str, works_anywhere| {
            let record = fixtures::record(None, &json!({}));
            let record = JobRecord { caller: name(caller), works_anywhere, ..record };
            fixtures::create(&workspace, &record).id()
        };
        let (ann, admin) = (job_of("ann", false), job_of("root", true));
        let may = |job, path: &str| workspace.may_work_in(job, &place(path)).unwrap();
        let own = format!("jobs/{ann}/work");
        let places = ["anns", "anns/deep/er", &own, "bobs", "bobs/x", "old"];
        assert_eq!(places.map(|path| may(ann, path)), [true, true, true, false, false, false]);
        assert_eq!(places.map(|path| may(admin, path)), [true; 6]);
        // A session continues where it worked, whatever has become of the job that it began in.
        let left = format!("jobs/{}/repo", JobId::new());
        let session = SessionId::new();
        drop(Session::create_for(&workspace, session, &place(&left), &name("ann")).unwrap());
        let record = JobRecord { caller: name("ann"), ..fixtures::record(None, &json!({})) };
        let resumes = JobRecord { session: Some(session), ..record };
        let workflow = fixtures::create(&workspace, &resumes).id();
        assert!(!may(ann, &left), "it does not continue the session");
        let child = fixtures::record(Some(workflow), &json!({}));
        let child = JobRecord { caller: name("ann"), ..child };
        let child = fixtures::create(&workspace, &child).id();
        let deep = format!("{left}/deep");
        for place in [&left, &deep] {
            assert!(may(workflow, place) && may(child, place), "{place}");
        }
        assert!(!may(child, &format!("jobs/{}/repo", JobId::new())) && !may(child, "bobs"));
        // Without callers, nobody owns anything.
        let (old, unknown) = (job_of("anonymous", false), JobId::new());
        for job in [old, unknown] {
            assert_eq!(["old", "anns"].map(|path| may(job, path)), [true, false]);
        }
    }
}
