use std::{fs, path::Path, time::SystemTime};

use contract::{Code, Ending, JobId, Retain, Service, SessionId, WorkspacePath};
use serde_json::json;

use super::*;
use crate::{
    JobRecord, Turn, TurnUse,
    fixtures::{self, record, workspace},
};

struct Volume {
    _dir: tempfile::TempDir,
    workspace: Workspace,
}

impl Volume {
    fn new() -> Self {
        let (_dir, workspace) = workspace();
        Self { _dir, workspace }
    }

    fn create(&self, record: &JobRecord) -> Job {
        fixtures::create(&self.workspace, record)
    }

    /// A job with an own checkout.
    fn job(&self, parent: Option<JobId>) -> Job {
        let job = self.create(&record(parent, &json!({"prompt": "x"})));
        self.checkout(&job);
        job
    }

    fn checkout(&self, job: &Job) {
        let repo = self.workspace.job_directory(job.id()).join("repo");
        fs::create_dir_all(&repo).unwrap();
        fs::write(repo.join("file"), vec![b'x'; 100_000]).unwrap();
    }

    fn has_checkout(&self, job: &Job) -> bool {
        self.workspace.job_directory(job.id()).exists()
    }

    fn has_job(&self, job: &Job) -> bool {
        Job::open(&self.workspace, job.id()).unwrap().is_some()
    }

    fn session_in(&self, place: &str) -> SessionId {
        let place = WorkspacePath::parse(place, self.workspace.root_text()).unwrap();
        let id = SessionId::new();
        drop(Session::create(&self.workspace, id, &place).unwrap());
        id
    }

    fn mirror(&self, name: &str) -> std::path::PathBuf {
        let path = self.workspace.mirrors().join(format!("{name}.git"));
        fs::create_dir_all(path.join("objects/pack")).unwrap();
        fs::write(self.workspace.mirrors().join(format!("{name}.lock")), "").unwrap();
        path
    }

    /// What is deleted in so many days.
    fn collect(&self, retention: Retention, days: i64) -> Vec<(Kind, String)> {
        let found = self.workspace.collect(&retention, in_days(days), Collect::Delete);
        found.unwrap().unwrap().into_iter().map(|it| (it.kind, it.name)).collect()
    }
}

fn in_days(days: i64) -> Timestamp {
    // A moment later, because jobs end now.
    Timestamp::from_millisecond(Timestamp::now().as_millisecond() + days * 86_400_000 + 1)
}

fn end(job: &Job) {
    let ending = Ending::failure(Service::Workflow, job.id(), Code::Internal, "x");
    job.end_unclaimed("test", ending).unwrap().unwrap();
}

fn names(found: &[(Kind, String)], kind: Kind) -> Vec<&str> {
    found.iter().filter(|(it, _)| *it == kind).map(|(_, name)| name.as_str()).collect()
}

#[test]
fn checkouts_go_before_records_and_what_runs_stays() {
    let volume = Volume::new();
    let (ended, queued, running) = (volume.job(None), volume.job(None), volume.job(None));
    end(&ended);
    let claimed = running.claim("replica").unwrap().unwrap();
    fs::create_dir_all(volume.workspace.root().join("app/.git")).unwrap();
    let default = Retention::default();
    assert!(volume.collect(default, 6).is_empty());
    assert_eq!(volume.collect(default, 7), [(Kind::Checkout, ended.id().to_string())]);
    assert!(!volume.has_checkout(&ended) && volume.has_job(&ended));
    assert!(volume.collect(default, 29).is_empty());
    assert_eq!(volume.collect(default, 30), [(Kind::Job, ended.id().to_string())]);
    assert!(!volume.has_job(&ended));
    assert!(volume.workspace.ended_jobs(|_| true).unwrap().is_empty(), "its line is gone too");
    for job in [&queued, &running] {
        assert!(volume.has_checkout(job) && volume.has_job(job));
    }
    drop(claimed);
    assert!(volume.workspace.root().join("app/.git").exists(), "a named checkout stays");
    assert_eq!(fs::read_dir(volume.workspace.temporary()).unwrap().count(), 0);
    let never = Retention { checkouts: None, jobs: None, sessions: None, mirrors: None, ..default };
    end(&queued);
    assert!(volume.collect(never, 100_000).is_empty());
}

#[test]
fn what_is_labelled_is_kept_until_somebody_deletes_it() {
    let volume = Volume::new();
    let plain = volume.job(None);
    let labels = [("keep".to_owned(), String::new())].into();
    let kept = volume.create(&JobRecord { labels, ..record(None, &json!({"prompt": "x"})) });
    volume.checkout(&kept);
    let session = volume.session_in(&format!("jobs/{}/repo", kept.id()));
    for job in [&plain, &kept] {
        end(job);
    }
    let little = Retention { limit: Some(1), ..Retention::default() };
    for retention in [Retention::default(), little] {
        let found = volume.collect(retention, 1000);
        assert!(found.iter().all(|(_, name)| *name == plain.id().to_string()), "{found:?}");
    }
    assert!(!volume.has_job(&plain) && volume.has_job(&kept) && volume.has_checkout(&kept));
    assert!(Session::open(&volume.workspace, session).unwrap().is_some());
    assert_eq!(kept.delete().unwrap(), DeletedJob::Done);
    assert!(!volume.has_job(&kept));
}

#[test]
fn a_look_deletes_nothing_and_measures() {
    let volume = Volume::new();
    let job = volume.job(None);
    end(&job);
    let found = volume.workspace.collect(&Retention::default(), in_days(40), Collect::Find);
    let found = found.unwrap().unwrap();
    assert_eq!(found.iter().map(|it| it.kind).collect::<Vec<_>>(), [Kind::Checkout, Kind::Job]);
    assert!(found.iter().all(|it| it.bytes.is_some()), "{found:?}");
    assert!(found[0].bytes.unwrap() >= 100_000);
    assert!(volume.has_checkout(&job) && volume.has_job(&job));
}

#[test]
fn the_jobs_of_a_workflow_are_kept_and_deleted_with_it() {
    let volume = Volume::new();
    let workflow = volume.job(None);
    let claimed = workflow.claim("replica").unwrap().unwrap();
    let child = volume.job(Some(workflow.id()));
    end(&child);
    let default = Retention::default();
    let gone = volume.collect(default, 40);
    assert!(volume.has_job(&child), "its workflow runs: {gone:?}");
    drop(claimed);
    workflow.settle().unwrap().unwrap();
    let gone = volume.collect(default, 40);
    assert_eq!(names(&gone, Kind::Job), [workflow.id().to_string()]);
    assert!(!volume.has_job(&child) && !volume.has_job(&workflow));
    // A child that is left over, because a crash came in between or its parent was deleted by hand.
    let workflow = volume.job(None);
    let child = volume.job(Some(workflow.id()));
    end(&child);
    end(&workflow);
    fs::remove_dir_all(workflow.directory()).unwrap();
    let gone = volume.collect(default, 40);
    assert_eq!(names(&gone, Kind::Job), [child.id().to_string()]);
}

#[test]
fn a_checkout_lives_as_long_as_a_session_in_it() {
    let volume = Volume::new();
    let job = volume.job(None);
    end(&job);
    let session = volume.session_in(&format!("jobs/{}/repo", job.id()));
    let default =
        Retention { sessions: Some(Duration::from_secs(50 * DAY)), ..Retention::default() };
    assert_eq!(names(&volume.collect(default, 8), Kind::Checkout), Vec::<&str>::new());
    // Not even its record takes it along.
    let gone = volume.collect(default, 40);
    assert_eq!(gone, [(Kind::Job, job.id().to_string())]);
    assert!(volume.has_checkout(&job));
    let gone = volume.collect(default, 50);
    let expected = [(Kind::Session, session.to_string()), (Kind::Checkout, job.id().to_string())];
    assert_eq!(gone, expected);
    assert!(!volume.has_checkout(&job));
    // The workspace of a session that was created without one.
    let id = SessionId::new();
    let own = volume.workspace.make_session_place(id).unwrap();
    fs::write(volume.workspace.root().join(own.as_str()).join("file"), "").unwrap();
    drop(Session::create(&volume.workspace, id, &own).unwrap());
    assert!(volume.collect(default, 49).is_empty());
    assert_eq!(volume.collect(default, 50).len(), 2);
    assert!(!volume.workspace.root().join("jobs").join(id.to_string()).exists());
}

#[test]
fn a_session_that_a_job_uses_stays() {
    let volume = Volume::new();
    let (used, queued_for) = (volume.session_in("app"), volume.session_in("app"));
    let turn = volume.workspace.take_turn(&Turn::Session(used), TurnUse::Work).unwrap().unwrap();
    let plain = record(None, &json!({"prompt": "x"}));
    let job = volume.create(&JobRecord { session: Some(queued_for), ..plain });
    assert!(volume.collect(Retention::default(), 8).is_empty());
    drop(turn);
    end(&job);
    assert_eq!(names(&volume.collect(Retention::default(), 8), Kind::Session).len(), 2);
}

/// A job may begin in the checkout of another that has ended, directly, in its session, or through a link.
#[test]
fn a_checkout_in_which_another_job_works_stays() {
    let volume = Volume::new();
    let root = volume.workspace.root().to_owned();
    for kind in ["relative", "absolute", "link", "parent"] {
        let old = volume.job(None);
        let place = format!("jobs/{}/repo", old.id());
        let body = match kind {
            "relative" => json!({"workspace": place}),
            "absolute" => json!({"workspace": root.join(&place)}),
            "link" => {
                std::os::unix::fs::symlink(&place, root.join("link")).unwrap();
                json!({"workspace": "link"})
            }
            _ => json!({}),
        };
        let parent = (kind == "parent").then(|| old.id());
        let job = volume.create(&record(parent, &body));
        end(&old);
        let gone = volume.collect(Retention::default(), 40);
        assert!(gone.iter().all(|(kind, _)| *kind == Kind::Job), "{kind}: {gone:?}");
        assert!(volume.has_checkout(&old), "{kind}");
        assert_eq!(Job::delete(&job).unwrap(), DeletedJob::Running, "{kind}");
        end(&job);
        volume.collect(Retention::default(), 40);
        assert!(!volume.has_checkout(&old), "{kind}");
    }
}

/// The job that needs it is created between the look at what is in use and the deletion.
#[test]
fn a_checkout_that_a_new_job_needs_is_put_back() {
    let volume = Volume::new();
    let old = volume.job(None);
    end(&old);
    let before = InUse::look(&volume.workspace, &[]).unwrap();
    let body = json!({"workspace": format!("jobs/{}/repo", old.id())});
    let new = volume.create(&record(None, &body));
    let name = old.id().to_string();
    assert!(before.take_directory(&volume.workspace, &name).unwrap().is_none());
    assert!(volume.has_checkout(&old));
    end(&new);
    let taken = before.take_directory(&volume.workspace, &name).unwrap().unwrap();
    // A crash now leaves it among the unfinished files, where it is found by its age.
    drop(taken);
    assert!(!volume.has_checkout(&old));
    assert_eq!(fs::read_dir(volume.workspace.temporary()).unwrap().count(), 1);
}

#[test]
fn a_mirror_that_a_pull_uses_stays() {
    let volume = Volume::new();
    let (used, unused) = (volume.mirror("a"), volume.mirror("b"));
    let default = Retention::default();
    assert!(volume.collect(default, 29).is_empty());
    let lock = volume.workspace.mirrors().join("a.lock");
    let pull = FileLock::try_acquire(&lock).unwrap().unwrap();
    assert_eq!(volume.collect(default, 31), [(Kind::Mirror, "b".to_owned())]);
    assert!(used.exists() && !unused.exists());
    assert!(volume.workspace.mirrors().join("b.lock").exists(), "a pull may be waiting for it");
    drop(pull);
    let old = SystemTime::now() - Duration::from_secs(31 * DAY);
    for part in ["a.lock", "a.git/objects/pack", "a.git"] {
        let file = fs::File::open(volume.workspace.mirrors().join(part)).unwrap();
        file.set_modified(old).unwrap();
    }
    FileLock::try_acquire(&lock).unwrap().unwrap().mark_used().unwrap();
    assert!(volume.collect(default, 0).is_empty(), "it was used now");
    fs::File::open(&lock).unwrap().set_modified(old).unwrap();
    assert_eq!(volume.collect(default, 0), [(Kind::Mirror, "a".to_owned())]);
}

#[test]
fn above_the_limit_the_oldest_goes_first() {
    let volume = Volume::new();
    let jobs: Vec<_> = (0..4).map(|_| volume.job(None)).collect();
    for job in &jobs[..3] {
        end(job);
        std::thread::sleep(Duration::from_millis(2));
    }
    let session = volume.session_in(&format!("jobs/{}/repo", jobs[0].id()));
    let total = size(volume.workspace.root());
    let limited = |limit| Retention { limit: Some(limit), ..Retention::default() };
    fs::create_dir(volume.workspace.audit()).unwrap();
    fs::write(volume.workspace.audit().join("2026-01-31.ndjson"), vec![b'x'; 1_000_000]).unwrap();
    assert!(volume.collect(limited(total + 100_000), 0).is_empty(), "the audit log does not count");
    // The checkout of the first has a session that was used last, so that of the second is older.
    let limit = limited(total - 90_000);
    let found = volume.workspace.collect(&limit, in_days(0), Collect::Find).unwrap().unwrap();
    let gone = volume.collect(limit, 0);
    let expected =
        [(Kind::Job, jobs[0].id().to_string()), (Kind::Checkout, jobs[1].id().to_string())];
    assert_eq!(gone, expected);
    let found: Vec<_> = found.into_iter().map(|it| (it.kind, it.name)).collect();
    assert_eq!(found, expected, "a look finds the same");
    let gone = volume.collect(limited(1), 0);
    assert_eq!(names(&gone, Kind::Session), [session.to_string()]);
    assert_eq!(names(&gone, Kind::Checkout).len(), 2);
    assert_eq!(names(&gone, Kind::Job).len(), 2);
    assert!(volume.has_checkout(&jobs[3]) && volume.has_job(&jobs[3]), "it waits");
}

#[test]
fn a_job_that_asks_for_it_keeps_no_checkout() {
    let volume = Volume::new();
    let plain = record(None, &json!({"retain": "none"}));
    let job = volume.create(&JobRecord { retain: Retain::None, ..plain });
    volume.checkout(&job);
    let other = volume.job(None);
    let read = serde_json::to_value(job.record().unwrap()).unwrap();
    assert_eq!(read["retain"], "none");
    assert!(serde_json::to_value(other.record().unwrap()).unwrap().get("retain").is_none());
    volume.workspace.index_ended().unwrap();
    assert!(volume.has_checkout(&job), "it has not ended");
    end(&job);
    end(&other);
    volume.workspace.index_ended().unwrap();
    assert!(!volume.has_checkout(&job) && volume.has_job(&job));
    assert!(volume.has_checkout(&other));
}

#[test]
fn a_job_is_deleted_by_hand_when_it_has_ended() {
    let volume = Volume::new();
    let workflow = volume.job(None);
    let child = volume.job(Some(workflow.id()));
    assert_eq!(workflow.delete().unwrap(), DeletedJob::Running);
    let claimed = workflow.claim("replica").unwrap().unwrap();
    assert_eq!(workflow.delete().unwrap(), DeletedJob::Running);
    drop(claimed);
    assert_eq!(workflow.delete().unwrap(), DeletedJob::Running, "its child waits");
    assert!(volume.has_checkout(&workflow) && volume.has_job(&child));
    end(&child);
    // Half of it was deleted when its process was killed.
    fs::remove_dir_all(child.directory()).unwrap();
    assert_eq!(workflow.delete().unwrap(), DeletedJob::Done);
    assert!(!volume.has_checkout(&workflow) && !volume.has_job(&workflow));
    assert_eq!(workflow.delete().unwrap(), DeletedJob::Unknown);
    assert_eq!(volume.workspace.open_jobs().unwrap(), [child.id()], "removed after an hour");
    assert_eq!(fs::read_dir(volume.workspace.temporary()).unwrap().count(), 0);
}

#[test]
fn one_process_deletes_at_a_time_and_only_if_it_knows_what_is_in_use() {
    let volume = Volume::new();
    let (ended, broken) = (volume.job(None), volume.job(None));
    end(&ended);
    let lock = FileLock::try_acquire(&volume.workspace.stack().join("gc.lock")).unwrap();
    let default = Retention::default();
    let other = volume.workspace.collect(&default, in_days(8), Collect::Delete).unwrap();
    assert_eq!(other, None);
    drop(lock);
    let record = broken.directory().join("job.json");
    fs::remove_file(&record).unwrap();
    std::os::unix::fs::symlink(&record, &record).unwrap();
    assert!(volume.workspace.collect(&default, in_days(8), Collect::Delete).is_err());
    assert!(volume.has_checkout(&ended));
}

/// What cannot be deleted does not keep the rest.
#[test]
fn names_that_are_not_ours_stay() {
    let volume = Volume::new();
    let own = volume.workspace.root().join("jobs");
    fs::create_dir_all(own.join("notes")).unwrap();
    fs::write(own.join("file"), "").unwrap();
    let orphan = JobId::new().to_string();
    fs::create_dir_all(own.join(&orphan)).unwrap();
    assert_eq!(volume.collect(Retention::default(), 8), [(Kind::Checkout, orphan)]);
    assert!(own.join("notes").exists() && Path::new(&own.join("file")).exists());
}

/// The volume as a stack sees it that begins to sign now.
fn begins_to_sign(volume: &Volume) -> Volume {
    let last = JobId::new().created();
    while Timestamp::now() <= last {
        std::thread::yield_now();
    }
    let workspace = Workspace::open(volume.workspace.root()).unwrap();
    workspace.sign_with(Some(&workspace.stack_secret_file())).unwrap();
    Volume { _dir: tempfile::tempdir().unwrap(), workspace }
}

/// Sets when a session was last used, as a version does that does not sign.
fn used_in_days(volume: &Volume, session: SessionId, days: i64) {
    let path = volume.workspace.session(session).join("meta.json");
    let mut meta: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    meta["updated"] = json!(in_days(days));
    fs::write(path, meta.to_string()).unwrap();
}

#[test]
fn a_stack_that_begins_to_sign_keeps_the_checkouts_of_sessions_without_a_proof() {
    let earlier = Volume::new();
    let (job, other) = (earlier.job(None), earlier.job(None));
    let session = earlier.session_in(&format!("jobs/{}/repo", job.id()));
    let damaged = earlier.session_in(&format!("jobs/{}/repo", other.id()));
    end(&job);
    end(&other);
    used_in_days(&earlier, session, 7);
    let path = earlier.workspace.session(damaged).join("meta.json");
    fs::write(path, "{").unwrap();
    let volume = begins_to_sign(&earlier);
    assert!(Session::open(&volume.workspace, session).unwrap_err().is_damage());
    // The control: what nobody lives in, as far as is known, goes.
    let found = volume.collect(Retention::default(), 8);
    assert_eq!(names(&found, Kind::Checkout), [other.id().to_string()], "{found:?}");
    assert_eq!(names(&found, Kind::Session), [damaged.to_string()]);
    let small = Retention { limit: Some(1), checkouts: None, jobs: None, ..Retention::default() };
    let left = names(&volume.collect(small, 8), Kind::Session).len();
    assert_eq!(left, 1, "a limit takes the session, and then the checkout");
}

#[test]
fn what_a_job_without_a_proof_uses_stays_while_it_runs() {
    let earlier = Volume::new();
    let (parent, own, lived_in) = (earlier.job(None), earlier.job(None), earlier.job(None));
    let session = earlier.session_in(&format!("jobs/{}/repo", lived_in.id()));
    let body = json!({"workspace": format!("jobs/{}/repo", own.id())});
    let child = JobRecord { session: Some(session), ..record(Some(parent.id()), &body) };
    let child = earlier.create(&child);
    let claimed = child.claim("replica").unwrap().unwrap();
    for job in [&parent, &own, &lived_in] {
        end(job);
    }
    let volume = begins_to_sign(&earlier);
    let checkouts = Retention { jobs: None, ..Retention::default() };
    assert!(volume.collect(checkouts, 1000).is_empty());
    let at = |job: &Job| Job::open(&volume.workspace, job.id()).unwrap().unwrap();
    for job in [&parent, &own, &lived_in] {
        assert_eq!(at(job).delete().unwrap(), DeletedJob::Running);
        assert!(volume.has_checkout(job));
    }
    // What it uses is not known any more.
    let path = child.directory().join("job.json");
    let good = fs::read(&path).unwrap();
    fs::write(&path, "{").unwrap();
    let now = in_days(1000);
    let unknown = volume.workspace.collect(&checkouts, now, Collect::Delete);
    assert!(unknown.unwrap_err().is_damage());
    fs::write(&path, good).unwrap();
    let ending = Ending::failure(Service::Claude, child.id(), Code::Internal, "x");
    claimed.finish(ending).unwrap();
    assert!(!volume.collect(checkouts, 1000).is_empty());
    assert!(!volume.has_checkout(&own) && !volume.has_checkout(&lived_in));
}
