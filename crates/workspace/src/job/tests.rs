use contract::ExecuteEvent;
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::JobRequest;

fn workspace() -> (tempfile::TempDir, Workspace) {
    let dir = tempfile::tempdir().unwrap();
    let workspace = Workspace::open(dir.path()).unwrap();
    (dir, workspace)
}

fn record(parent: Option<JobId>) -> JobRecord {
    JobRecord {
        job_id: JobId::new(),
        service: if parent.is_some() { Service::Claude } else { Service::Workflow },
        parent,
        directory: None,
        session: None,
        repo_url: Some("https://h/r".into()),
        created: Timestamp::now(),
        gateway: None,
        request: JobRequest {
            body: to_raw_value(&json!({"prompt": "x"})).unwrap(),
            credentials_withheld: false,
        },
    }
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
    })
}

#[test]
fn a_job_is_named_once() {
    let (_dir, workspace) = workspace();
    let record = record(None);
    assert!(matches!(Job::create(&workspace, &record).unwrap(), NewJob::Created(_)));
    assert!(matches!(Job::create(&workspace, &record).unwrap(), NewJob::Exists(_)));
    assert_eq!(Job::list(&workspace).unwrap(), [record.job_id]);
    assert_eq!(fs::read_dir(workspace.temporary()).unwrap().count(), 0);
    assert!(Job::open(&workspace, JobId::new()).is_none());
}

#[test]
fn a_job_is_taken_once_even_by_a_hundred_threads() {
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
    assert!(parent.settle().unwrap().is_none(), "nobody took it yet");
    let mut claimed = parent.claim("replica").unwrap().unwrap();
    let id = claimed.append(&EventLine::encode(&json!({"type": "message"}))).unwrap();
    assert!(parent.settle().unwrap().is_none(), "its process lives");
    fs::OpenOptions::new()
        .append(true)
        .open(parent.journal_path())
        .and_then(|mut file| io::Write::write_all(&mut file, b"{\"torn"))
        .unwrap();
    drop(claimed);
    let outcome = parent.settle().unwrap().unwrap();
    assert_eq!((outcome.code, outcome.journal_length), (Some(Code::ReplicaLost), id));
    assert_eq!(parent.settle().unwrap().unwrap().ended, outcome.ended, "the first outcome stays");
    assert!(child.is_cancel_requested());
    assert!(!ended.is_cancel_requested());
}

#[test]
fn the_first_outcome_wins() {
    let (_dir, workspace) = workspace();
    let job = create(&workspace, None);
    let claimed = job.claim("replica").unwrap().unwrap();
    job.close(Ending::failure(Service::Workflow, job.id(), Code::Cancelled, "x"), 0).unwrap();
    let outcome = claimed.finish(done()).unwrap();
    assert_eq!(outcome.state, JobState::Cancelled);
    assert_eq!(job.view().unwrap().state, JobState::Cancelled);
}

#[test]
fn ending_a_queued_job_and_taking_it_exclude_each_other() {
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
fn positions_are_those_that_were_given_out() {
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
