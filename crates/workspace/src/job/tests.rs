use std::fs;

use contract::{Code, Ending, EventLine, ExecuteEvent, Service, Timestamp};
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::{
    JobRecord, RecordedRequest, RequestDigest, Turn,
    fixtures::{self, workspace},
    write::take_synced,
};

fn digest(digit: char) -> RequestDigest {
    digit.to_string().repeat(64).parse().unwrap()
}

fn record(parent: Option<JobId>) -> JobRecord {
    let mut record = fixtures::record(parent, &json!({"prompt": "x"}));
    record.repo_url = Some("https://h/r".into());
    record.request.digest = Some(digest('a'));
    record
}

fn create(workspace: &Workspace, parent: Option<JobId>) -> Job {
    match Job::create(workspace, &record(parent)).unwrap() {
        NewJob::Created(job) => job,
        NewJob::Exists(_) => panic!("a fresh id exists"),
    }
}

fn done() -> Ending {
    Ending::success(&ExecuteEvent::Completed {
        timestamp: Timestamp::now(),
        session_id: None,
        result: None,
        cost_usd: None,
        num_turns: None,
        duration_ms: None,
        usage: None,
        api_usage: &contract::ApiUsage::new(),
        verified: None,
        verify_output: None,
    })
}

#[test]
fn a_job_is_created_once() {
    let (_dir, workspace) = workspace();
    let record = record(None);
    assert!(matches!(Job::create(&workspace, &record).unwrap(), NewJob::Created(_)));
    assert!(matches!(Job::create(&workspace, &record).unwrap(), NewJob::Exists(_)));
    assert_eq!(Job::list(&workspace).unwrap(), [record.job_id]);
    assert_eq!(fs::read_dir(workspace.temporary()).unwrap().count(), 0);
    assert!(Job::open(&workspace, JobId::new()).unwrap().is_none());
}

#[test]
fn a_job_is_claimed_once_by_a_hundred_threads() {
    let (_dir, workspace) = workspace();
    let job = create(&workspace, None);
    let takers: Vec<_> = (0..100)
        .map(|n| {
            let job = job.clone();
            std::thread::spawn(move || job.claim(&format!("replica {n}")).unwrap())
        })
        .collect();
    let taken: Vec<_> = takers.into_iter().filter_map(|taker| taker.join().unwrap()).collect();
    assert_eq!(taken.len(), 1);
    assert_eq!(job.view().unwrap().state, JobState::Running);
    drop(taken);
    assert!(job.claim("late").unwrap().is_none());
}

#[test]
fn a_job_whose_process_is_gone_is_lost_and_its_children_are_cancelled() {
    let (_dir, workspace) = workspace();
    let parent = create(&workspace, None);
    let child = create(&workspace, Some(parent.id()));
    let ended = create(&workspace, Some(parent.id()));
    ended.claim("r").unwrap().unwrap().finish(done()).unwrap();
    assert!(parent.settle().unwrap().is_none(), "it is unclaimed");
    let mut claimed = parent.claim("replica").unwrap().unwrap();
    let id = claimed.append(&EventLine::encode(&json!({"type": "message"}))).unwrap();
    assert!(parent.settle().unwrap().is_none(), "its process is alive");
    fs::OpenOptions::new()
        .append(true)
        .open(parent.journal_path())
        .and_then(|mut file| io::Write::write_all(&mut file, b"{\"torn"))
        .unwrap();
    drop(claimed);
    let outcome = parent.settle().unwrap().unwrap();
    assert_eq!((outcome.code, outcome.journal_length), (Some(Code::ReplicaLost), id));
    assert_eq!(parent.settle().unwrap().unwrap().ended, outcome.ended, "the first outcome stays");
    assert!(child.is_cancel_requested().unwrap());
    assert!(!ended.is_cancel_requested().unwrap());
}

#[test]
fn the_first_outcome_wins() {
    let (_dir, workspace) = workspace();
    let job = create(&workspace, None);
    let claimed = job.claim("replica").unwrap().unwrap();
    job.close(
        &Life::Unknown,
        Ending::failure(Service::Workflow, job.id(), Code::Cancelled, "x"),
        0,
    )
    .unwrap();
    let outcome = claimed.finish(done()).unwrap();
    assert_eq!(outcome.state, JobState::Cancelled);
    assert_eq!(job.view().unwrap().state, JobState::Cancelled);
}

#[test]
fn ending_a_queued_job_and_claiming_it_exclude_each_other() {
    let (_dir, workspace) = workspace();
    let ending = |job: &Job| Ending::failure(Service::Workflow, job.id(), Code::QueueTimeout, "x");
    let job = create(&workspace, None);
    let outcome = job.end_unclaimed("gateway", ending(&job)).unwrap().unwrap();
    assert_eq!(outcome.code, Some(Code::QueueTimeout));
    assert!(job.claim("replica").unwrap().is_none());
    let view = job.view().unwrap();
    assert_eq!((view.state, view.started), (JobState::Failed, None));
    let taken = create(&workspace, None);
    let _claimed = taken.claim("replica").unwrap().unwrap();
    assert!(taken.end_unclaimed("gateway", ending(&taken)).unwrap().is_none());
}

#[test]
fn only_existing_positions_are_valid() {
    let (_dir, workspace) = workspace();
    let job = create(&workspace, None);
    assert_eq!(job.check_position(0).unwrap(), crate::Position::After(0));
    assert!(job.check_position(1).is_err());
    let mut claimed = job.claim("replica").unwrap().unwrap();
    let id = claimed.append(&EventLine::encode(&json!({"type": "message"}))).unwrap();
    assert_eq!(job.check_position(id).unwrap(), crate::Position::After(id));
    assert!(job.check_position(id + 1).is_err());
    claimed.finish(done()).unwrap();
    assert_eq!(job.check_position(id + 1).unwrap(), crate::Position::Ended);
    for unknown in [1, id - 1, id + 2, u64::MAX] {
        assert!(job.check_position(unknown).is_err(), "{unknown}");
    }
}

/// After a power failure, a claim beside an empty record would be a job that cannot be ended.
#[test]
fn a_job_is_flushed_before_it_can_be_claimed() {
    let (_dir, workspace) = workspace();
    take_synced();
    let job = create(&workspace, None);
    let synced = take_synced();
    let [open, record, directory, jobs] = &synced[..] else { panic!("{synced:?}") };
    assert!(open.ends_with(".stack/open"), "the index comes first: {synced:?}");
    assert!(record.ends_with("job.json") && record.parent() == Some(directory), "{synced:?}");
    assert_eq!(Some(&**jobs), job.directory().parent());
}

/// During an update, one part of a stack must not refuse what another version queued.
#[test]
fn a_request_is_recognized_by_what_its_caller_sent() {
    let (_dir, workspace) = workspace();
    let first = record(None);
    Job::create_for(&workspace, &first).unwrap();
    let again = |body: serde_json::Value, digest, service| JobRecord {
        job_id: first.job_id,
        service,
        request: RecordedRequest {
            body: to_raw_value(&body).unwrap(),
            credentials_withheld: false,
            digest,
        },
        ..record(None)
    };
    let body = json!({"prompt": "x", "ofTomorrow": "with its default"});
    let newer = again(body.clone(), Some(digest('a')), Service::Workflow);
    assert!(matches!(Job::create_for(&workspace, &newer).unwrap(), NewJob::Exists(_)));
    let older = again(body.clone(), None, Service::Workflow);
    assert!(matches!(Job::create_for(&workspace, &older).unwrap(), NewJob::Exists(_)));
    for other in [
        again(body.clone(), Some(digest('b')), Service::Workflow),
        again(body, Some(digest('a')), Service::Pull),
    ] {
        let refused = Job::create_for(&workspace, &other).unwrap_err();
        assert!(matches!(refused, CreateError::AnotherRequest), "{refused:?}");
    }
}

#[test]
fn a_second_cancel_writes_nothing() {
    let (_dir, workspace) = workspace();
    let job = create(&workspace, None);
    job.request_cancel().unwrap();
    let path = job.control().join("cancel");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    for _ in 0..3 {
        job.request_cancel().unwrap();
    }
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
    assert!(job.is_cancel_requested().unwrap());
}

/// Such a claim once prevented its job from ever ending, without a log line.
#[test]
fn a_damaged_claim_still_counts() {
    let (_dir, workspace) = workspace();
    let job = create(&workspace, None);
    let claimed = job.claim("replica").unwrap().unwrap();
    let path = job.directory().join("claim");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "{").unwrap();
    assert_eq!(job.view().unwrap().state, JobState::Running);
    drop(claimed);
    let outcome = job.settle().unwrap().unwrap();
    assert_eq!(outcome.code, Some(Code::ReplicaLost));
    let view = job.view().unwrap();
    assert!(view.state == JobState::Failed && view.started.is_some(), "{view:?}");
}

#[test]
fn a_damaged_outcome_is_replaced_and_set_aside() {
    let (_dir, workspace) = workspace();
    let job = create(&workspace, None);
    job.claim("replica").unwrap().unwrap().finish(done()).unwrap();
    let path = job.outcome_path();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "{").unwrap();
    assert!(job.outcome().unwrap_err().is_damage());
    let view = job.view().unwrap();
    assert_eq!((view.state, view.code), (JobState::Failed, Some(Code::Internal)));
    assert_eq!(fs::read_dir(workspace.damaged()).unwrap().count(), 1);
}

#[test]
fn a_claimed_job_with_a_damaged_record_is_set_aside_when_its_process_is_dead() {
    let (_dir, workspace) = workspace();
    let job = create(&workspace, None);
    let claimed = job.claim("replica").unwrap().unwrap();
    fs::write(job.record_path(), "{").unwrap();
    assert!(job.settle().unwrap().is_none(), "its process is alive and will end it");
    assert!(job.set_aside().unwrap().is_none());
    drop(claimed);
    assert!(job.settle().unwrap_err().is_damage());
    assert!(Job::open(&workspace, job.id()).unwrap().is_none());
    assert_eq!(fs::read_dir(workspace.damaged()).unwrap().count(), 1);
}

/// Puts a link to itself at `path`: reading it fails, even for root, with an error other than "not found".
fn break_file(path: &std::path::Path) {
    fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink(path, path).unwrap();
}

#[test]
fn an_unreadable_file_is_an_error_and_ends_no_job() {
    let (_dir, workspace) = workspace();
    for name in ["claim", "lease", "job.json"] {
        let job = create(&workspace, None);
        drop(job.claim("replica").unwrap().unwrap());
        break_file(&job.directory().join(name));
        let settled = job.settle();
        assert!(matches!(settled, Err(Error::Io { .. })), "{name}: {settled:?}");
        assert!(job.outcome().unwrap().is_none(), "{name}");
    }
    let job = create(&workspace, None);
    break_file(&job.record_path());
    assert!(matches!(Job::open(&workspace, job.id()), Err(Error::Io { .. })));
    std::os::unix::fs::symlink("cancel", job.control().join("cancel")).unwrap();
    assert!(job.is_cancel_requested().is_err());
    std::os::unix::fs::symlink("children", job.directory().join("children")).unwrap();
    assert!(job.children().is_err());
}

/// The child once waited for the turn that its own workflow held.
#[test]
fn a_child_with_an_unreadable_parent_takes_no_turns() {
    let (_dir, workspace) = workspace();
    let app = contract::DirectoryName::parse("app").unwrap();
    let parent = JobRecord { directory: Some(app.clone()), ..record(None) };
    let NewJob::Created(job) = Job::create(&workspace, &parent).unwrap() else { panic!() };
    let child = JobRecord { directory: Some(app.clone()), ..record(Some(parent.job_id)) };
    let turns = child.turns(&workspace).unwrap();
    assert_eq!((turns.own, turns.parents), (vec![], vec![Turn::Directory(app)]));
    let own = |of: &JobRecord, parent| JobRecord { own: Some(of.job_id.into()), ..record(parent) };
    let workflow = own(&parent, None);
    let NewJob::Created(workflow) = Job::create(&workspace, &workflow).unwrap() else { panic!() };
    let turns = own(&parent, Some(workflow.id())).turns(&workspace).unwrap();
    let expected = Turn::Own(parent.job_id.into());
    assert_eq!((turns.own, turns.parents), (vec![], vec![expected.clone()]));
    let turns = own(&parent, None).turns(&workspace).unwrap();
    assert_eq!((turns.own, turns.parents), (vec![expected], vec![]));
    break_file(&job.record_path());
    assert!(child.turns(&workspace).is_err());
    assert!(matches!(Job::create_for(&workspace, &child), Err(CreateError::Volume(_))));
}
