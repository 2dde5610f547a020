use std::fs;

use contract::{CallerName, Code, Ending, EventLine, JobState, Service, Timestamp, Usd};
use serde_json::json;

use super::*;
use crate::{
    JobRecord,
    fixtures::{self, workspace},
};

/// An ID of this time, in milliseconds.
pub(super) fn id(created: u64, tail: u64) -> JobId {
    let time = format!("{created:012x}");
    let (high, low) = time.split_at(8);
    format!("{high}-{low}-7000-8000-{tail:012x}").parse().unwrap()
}

fn create(workspace: &Workspace, job_id: JobId, parent: Option<JobId>) -> Job {
    let record = fixtures::record(parent, &json!({"prompt": "x"}));
    fixtures::create(workspace, &JobRecord { job_id, service: Service::Workflow, ..record })
}

fn end(job: &Job, code: Code) {
    let ending = Ending::failure(Service::Workflow, job.id(), code, "x");
    job.end_unclaimed("test", ending).unwrap().unwrap();
}

fn found(workspace: &Workspace, filter: JobFilter) -> Vec<JobId> {
    NewestFirst::look(workspace, filter).unwrap().collect::<Result<_>>().unwrap()
}

fn state(state: JobState) -> JobFilter {
    JobFilter { state: Some(state), ..JobFilter::default() }
}

fn entries(workspace: &Workspace) -> Vec<JobId> {
    let mut ids = parsed_names(&workspace.open_index()).unwrap();
    ids.sort_unstable();
    ids
}

const DAY: u64 = 86_400_000;

#[test]
fn jobs_of_many_days_newest_first() {
    let (_dir, workspace) = workspace();
    let ids: Vec<_> = (0..12).map(|n| id(DAY * (n / 3 + 1) + n % 3, n)).collect();
    // They do not end in the order in which they were created.
    for n in [3, 1, 0, 2, 11, 8, 7, 4, 10] {
        let code = if n % 2 == 0 { Code::Internal } else { Code::Cancelled };
        end(&create(&workspace, ids[n], None), code);
        if n == 8 {
            assert_eq!(workspace.index_ended().unwrap(), 6);
        }
    }
    let open = [ids[5], ids[6], ids[9]];
    for id in open {
        create(&workspace, id, None);
    }
    let newest_first: Vec<_> = ids.iter().rev().copied().collect();
    for moved in [3, 0] {
        assert_eq!(found(&workspace, JobFilter::default()), newest_first);
        let before = |n: usize| JobFilter { before: Some(ids[n]), ..JobFilter::default() };
        assert_eq!(found(&workspace, before(5)), newest_first[7..]);
        assert_eq!(found(&workspace, before(0)), []);
        assert_eq!(found(&workspace, state(JobState::Cancelled)), [11, 7, 3, 1].map(|n| ids[n]));
        assert_eq!(found(&workspace, state(JobState::Failed)), [10, 8, 4, 2, 0].map(|n| ids[n]));
        let part = |part: &str| JobFilter { id: Some(part.into()), ..JobFilter::default() };
        assert_eq!(found(&workspace, part("00b")), [ids[11]]);
        assert_eq!(found(&workspace, part(&ids[5].to_string()[..12])), [ids[5], ids[4], ids[3]]);
        assert_eq!(workspace.index_ended().unwrap(), moved);
    }
    assert_eq!(entries(&workspace), open);
    assert_eq!(workspace.open_jobs().unwrap(), open);
    let ended = workspace.ended_jobs(|job| job.state == JobState::Cancelled).unwrap();
    assert_eq!(ended.len(), 4);
}

#[test]
fn the_jobs_of_one_caller() {
    let (_dir, workspace) = workspace();
    workspace.open_jobs().unwrap();
    let name = |n: u64| -> CallerName {
        ["ci", "ci2", "c"][usize::try_from(n % 3).unwrap()].parse().unwrap()
    };
    let record = |n| fixtures::record(None, &json!({"prompt": n}));
    let jobs: Vec<_> = (0..9)
        .map(|n| {
            let record = JobRecord { job_id: id(DAY + n, n), caller: name(n), ..record(n) };
            let job = fixtures::create(&workspace, &record);
            end(&job, Code::Internal);
            job.id()
        })
        .collect();
    let of = |caller: &str| JobFilter { caller: caller.parse().ok(), ..JobFilter::default() };
    workspace.index_ended().unwrap();
    assert_eq!(found(&workspace, of("ci")), [6, 3, 0].map(|n| jobs[n]));
    assert_eq!(found(&workspace, of("c")), [8, 5, 2].map(|n| jobs[n]));
    assert_eq!(found(&workspace, of("nobody")), []);
    // A line of an earlier version is of `anonymous`. One that was cut short hides nothing.
    let path = workspace.ended_index().path().join("1970-01-02");
    let text = fs::read_to_string(&path).unwrap();
    let ending = |n: usize, end: &str, new: &str| {
        let line = text.lines().find(|line| line.starts_with(&jobs[n].to_string())).unwrap();
        (line.to_owned(), line.strip_suffix(end).unwrap().to_owned() + new)
    };
    let (one, two) = (ending(1, " ci2 .", ""), ending(8, " c .", " c"));
    fs::write(&path, text.replace(&one.0, &one.1).replace(&two.0, &two.1)).unwrap();
    assert_eq!(found(&workspace, of("ci")), [8, 6, 3, 0].map(|n| jobs[n]));
    let of_anonymous = JobFilter { caller: Some(CallerName::anonymous()), ..JobFilter::default() };
    assert_eq!(found(&workspace, of_anonymous), [8, 1].map(|n| jobs[n]));
}

/// More lines than fit into a block, and more jobs than one look finds.
#[test]
fn a_day_of_thousands_of_jobs() {
    let (_dir, workspace) = workspace();
    workspace.open_jobs().unwrap();
    let ids: Vec<_> = (0..2500).map(|n| id(DAY + n, n)).collect();
    let mut jobs: Vec<_> = ids
        .iter()
        .map(|id| {
            let parent = (id.created().as_millisecond() % 2 == 0).then_some(ids[0]);
            let state = if *id == ids[7] { JobState::Cancelled } else { JobState::Succeeded };
            // Some lines are of an earlier version.
            let caller = parent.is_none().then(CallerName::anonymous);
            EndedJob {
                id: *id,
                state,
                ended: Timestamp::now(),
                parent,
                caller,
                cost: Usd::default(),
                discards: false,
            }
        })
        .collect();
    workspace.ended_index().append(Day::of(ids[0]), &jobs).unwrap();
    jobs.iter_mut().for_each(|job| job.caller = Some(CallerName::anonymous()));
    let newest_first: Vec<_> = ids.iter().rev().copied().collect();
    assert_eq!(found(&workspace, JobFilter::default()), newest_first);
    assert_eq!(found(&workspace, state(JobState::Cancelled)), [ids[7]]);
    assert_eq!(workspace.ended_jobs(|_| true).unwrap(), jobs);
    workspace.forget_ended(&ids[10..]).unwrap();
    assert_eq!(workspace.ended_jobs(|_| true).unwrap(), jobs[..10]);
    workspace.forget_ended(&ids[..10]).unwrap();
    assert!(!workspace.ended_index().path().join("1970-01-02").exists());
    assert_eq!(fs::read_dir(workspace.temporary()).unwrap().count(), 0);
}

#[test]
fn a_line_that_was_cut_short_hides_no_job() {
    let (_dir, workspace) = workspace();
    let parent = create(&workspace, id(DAY * 2, 1), None).id();
    let jobs = [1, 2].map(|n| create(&workspace, id(DAY, n), Some(parent)));
    end(&jobs[0], Code::Internal);
    workspace.index_ended().unwrap();
    let day = workspace.ended_index().path().join("1970-01-02");
    let whole = fs::read_to_string(&day).unwrap();
    end(&jobs[1], Code::Internal);
    workspace.index_ended().unwrap();
    let both = fs::read_to_string(&day).unwrap();
    // A crash at any moment of the second move: the entry is still there, and the line is there in part.
    for length in whole.len()..both.len() {
        fs::write(&day, &both[..length]).unwrap();
        workspace.note_open(jobs[1].id()).unwrap();
        let all = [jobs[1].id(), jobs[0].id()];
        assert_eq!(found(&workspace, state(JobState::Failed)), all, "{length}");
        assert_eq!(workspace.index_ended().unwrap(), 1);
        assert_eq!(entries(&workspace), [parent]);
        assert_eq!(found(&workspace, state(JobState::Failed)), all, "{length}");
        let parents = workspace.ended_jobs(|_| true).unwrap();
        assert!(parents.iter().all(|job| job.parent == Some(parent)), "{parents:?}");
    }
}

/// The states in which a crash can leave the creation and the end of a job.
#[test]
fn a_crash_at_any_point_loses_no_job() {
    let (dir, workspace) = workspace();
    let day = workspace.ended_index().path().join("1970-01-02");
    let created = id(DAY, 1);
    // The entry, but no job yet: it may be about to be created.
    workspace.note_open(created).unwrap();
    workspace.index_ended().unwrap();
    assert_eq!(entries(&workspace), [created]);
    let job = create(&workspace, created, None);
    assert_eq!(workspace.open_jobs().unwrap(), [created]);
    // The outcome, but no line.
    end(&job, Code::Internal);
    assert_eq!(found(&workspace, state(JobState::Failed)), [created]);
    workspace.index_ended().unwrap();
    // The line and the entry.
    workspace.note_open(created).unwrap();
    assert_eq!(found(&workspace, state(JobState::Failed)), [created], "once");
    workspace.index_ended().unwrap();
    assert!(entries(&workspace).is_empty());
    assert_eq!(fs::read_to_string(&day).unwrap().lines().count(), 2, "harmless");
    assert_eq!(found(&workspace, JobFilter::default()), [created], "once");
    // An entry whose job was never created goes away after a while.
    let never = id(DAY, 2);
    workspace.note_open(never).unwrap();
    let path = dir.path().join(".stack/open").join(never.to_string());
    let old = std::time::SystemTime::now() - LONGEST_CREATION * 2;
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    workspace.index_ended().unwrap();
    assert!(!path.exists());
}

/// Its creator may have been suspended for hours between the entry and the job.
#[test]
fn a_job_whose_entry_was_removed_before_it_was_created_gets_another() {
    let (dir, workspace) = workspace();
    let job = create(&workspace, id(DAY, 1), None);
    let entry = dir.path().join(".stack/open").join(job.id().to_string());
    fs::remove_file(&entry).unwrap();
    workspace.confirm_open(&job).unwrap();
    assert!(entry.exists());
    end(&job, Code::Internal);
    fs::remove_file(&entry).unwrap();
    workspace.confirm_open(&job).unwrap();
    assert!(!entry.exists(), "it has ended");
}

#[test]
fn a_lost_index_or_that_of_an_earlier_version_is_built_from_the_jobs() {
    let (dir, workspace) = workspace();
    let ended = create(&workspace, id(DAY, 1), None);
    let open = create(&workspace, id(DAY * 3, 2), None);
    let broken = create(&workspace, id(DAY * 3, 3), None);
    end(&ended, Code::Internal);
    let outcome = broken.directory().join("outcome");
    std::os::unix::fs::symlink(&outcome, &outcome).unwrap();
    workspace.index_ended().unwrap();
    let stack = dir.path().join(".stack");
    for lost in ["open", "ended", "open/.complete", "ended/.complete", "both"] {
        for name in ["open", "ended"] {
            if lost == "both" || lost == name {
                fs::remove_dir_all(stack.join(name)).unwrap();
            }
        }
        if lost.contains('/') {
            fs::remove_file(stack.join(lost)).unwrap();
            fs::write(stack.join("ended/2001-01-01"), "jobs that were removed by hand\n").unwrap();
        }
        let all = [broken.id(), open.id(), ended.id()];
        assert_eq!(found(&workspace, JobFilter::default()), all, "{lost}");
        assert_eq!(entries(&workspace), [open.id(), broken.id()], "{lost}");
        assert!(!stack.join("ended/2001-01-01").exists());
    }
    // A process that creates a job may be the first to notice.
    fs::remove_dir_all(stack.join("open")).unwrap();
    let next = create(&workspace, id(DAY * 3, 4), None);
    assert_eq!(workspace.open_jobs().unwrap(), [open.id(), broken.id(), next.id()]);
}

#[test]
fn the_jobs_of_a_gateway_of_an_earlier_version_are_indexed_when_it_is_gone() {
    let (dir, workspace) = workspace();
    assert!(workspace.open_jobs().unwrap().is_empty());
    let job = create(&workspace, id(DAY, 1), None);
    let entry = dir.path().join(".stack/open").join(job.id().to_string());
    fs::remove_file(&entry).unwrap();
    drop(workspace.announce_gateway(contract::GatewayId::new()).unwrap());
    workspace.adopt_gateways(&[]).unwrap();
    assert!(!entry.exists(), "those of this version index their jobs themselves");
    let earlier = contract::GatewayId::new();
    fs::write(dir.path().join(".stack/gateways").join(earlier.to_string()), "").unwrap();
    workspace.adopt_gateways(&[]).unwrap();
    assert!(entry.exists());
}

#[test]
fn an_unreadable_index_is_not_an_empty_one() {
    let (dir, workspace) = workspace();
    create(&workspace, id(DAY, 1), None);
    workspace.open_jobs().unwrap();
    for name in ["open", "ended"] {
        let (path, aside) = (dir.path().join(".stack").join(name), dir.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(NewestFirst::look(&workspace, JobFilter::default()).is_err(), "{name}");
        assert!(workspace.open_jobs().is_err() && workspace.index_ended().is_err(), "{name}");
        assert!(workspace.ended_jobs(|_| true).is_err());
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    let day = dir.path().join(".stack/ended/1970-01-02");
    std::os::unix::fs::symlink(&day, &day).unwrap();
    let mut found = NewestFirst::look(&workspace, JobFilter::default()).unwrap();
    assert!(found.any(|id| id.is_err()));
}

#[test]
fn only_one_process_moves_at_a_time() {
    let (_dir, workspace) = workspace();
    let job = create(&workspace, id(DAY, 1), None);
    end(&job, Code::Internal);
    workspace.open_jobs().unwrap();
    let other = workspace.lock_index(LONGEST_WRITE).unwrap();
    assert_eq!(workspace.index_ended().unwrap(), 0);
    assert_eq!(found(&workspace, state(JobState::Failed)), [job.id()], "it is found all the same");
    drop(other);
    assert_eq!(workspace.index_ended().unwrap(), 1);
}

/// Ends a job of `service` and of `a`, which cost so much.
fn spend(
    workspace: &Workspace,
    job_id: JobId,
    service: Service,
    parent: Option<JobId>,
    cost: serde_json::Value,
) -> Job {
    let record = fixtures::record(parent, &json!({"prompt": "x"}));
    let caller = "a".parse().unwrap();
    let job = fixtures::create(workspace, &JobRecord { job_id, service, caller, ..record });
    let ending = Ending::failure(service, job_id, Code::AgentFailed, "x");
    let event = EventLine::encode(&json!({"type": "error", "costUsd": cost}));
    job.end_unclaimed("test", Ending { event, ..ending }).unwrap().unwrap();
    job
}

/// What a caller had spent on the day of that time, in micros.
fn spent(spending: &mut Spending, workspace: &Workspace, caller: &str, at: Timestamp) -> u64 {
    spending.look(workspace, at).unwrap();
    spending.of(&caller.parse().unwrap()).micros()
}

#[test]
fn a_cost_is_what_the_terminal_event_says() {
    let (_dir, workspace) = workspace();
    let amounts = [json!(0.25), json!(1e-7), json!(-1), json!("1"), json!(null), json!(1e300)];
    let costs = amounts.into_iter().zip(0..).map(|(cost, tail)| {
        let job = spend(&workspace, id(DAY, tail), Service::Claude, None, cost);
        EndedJob::of(&job).unwrap().unwrap().cost.micros()
    });
    assert_eq!(costs.collect::<Vec<_>>(), [250_000, 0, 0, 0, 0, 0]);
    let workflow = spend(&workspace, id(DAY, 10), Service::Workflow, None, json!(9));
    let cost = EndedJob::of(&workflow).unwrap().unwrap().cost;
    assert_eq!(cost, Usd::default(), "its jobs have their own");
}

#[test]
fn what_ended_today_is_added_up_once() {
    let (_dir, workspace) = workspace();
    let now = Timestamp::now();
    let later = |days: i64| {
        let day = i64::try_from(DAY).unwrap();
        Timestamp::from_millisecond(now.as_millisecond() + days * day)
    };
    let today = u64::try_from(now.as_millisecond()).unwrap();
    let costs = |id, caller: &str, ended, micros| EndedJob {
        id,
        state: JobState::Failed,
        ended,
        parent: None,
        caller: Some(caller.parse().unwrap()),
        cost: Usd::from_micros(micros),
        discards: false,
    };
    let mut spending = Spending::default();
    let mut both = |workspace: &Workspace, at| {
        ["a", "b"].map(|caller| {
            let sum = spent(&mut spending, workspace, caller, at);
            assert_eq!(spent(&mut Spending::default(), workspace, caller, at), sum);
            sum
        })
    };
    assert_eq!(both(&workspace, now), [0, 0]);
    let ledger = workspace.ledger();
    let old = ledger.file(&"2001-01-31".parse().unwrap());
    fs::create_dir(old.parent().unwrap()).unwrap();
    fs::write(&old, "").unwrap();
    // Whenever they were created: callers choose the IDs of their jobs.
    let first = costs(id(today + DAY, 1), "a", now, 1);
    let jobs = [
        first.clone(),
        costs(id(today - 9 * DAY, 2), "a", now, 20),
        costs(id(today, 3), "b", now, 5),
        costs(id(today, 4), "a", later(-1), 300),
        costs(id(today, 5), "a", later(-3), 4000),
        costs(id(today, 6), "b", now, 0),
    ];
    ledger.add(&jobs).unwrap();
    assert_eq!(both(&workspace, now), [21, 5]);
    assert!(!old.exists(), "nobody asks for it any more");
    ledger.add(&[costs(id(today, 7), "b", now, 7), first]).unwrap();
    assert_eq!(both(&workspace, now), [21, 12]);
    // A line that is still being written.
    let file = ledger.file(&Day::at(now));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}{} {} b 10", id(today, 8), now.as_millisecond())).unwrap();
    assert_eq!(both(&workspace, now), [21, 12]);
    // It was cut short.
    ledger.add(&[costs(id(today, 9), "b", now, 30)]).unwrap();
    assert_eq!(both(&workspace, now), [21, 42]);
    assert_eq!(both(&workspace, later(1)), [0, 0], "tomorrow begins with nothing");
}

#[test]
fn a_job_that_is_deleted_has_cost_what_it_cost() {
    let (_dir, workspace) = workspace();
    let today = u64::try_from(Timestamp::now().as_millisecond()).unwrap();
    for (number, is_indexed) in [(1, false), (2, true)] {
        let parent = create(&workspace, id(today, number * 10), None);
        // The same in both: it may be used again when its job is deleted.
        let child = id(today + DAY / 2, 1);
        let child = spend(&workspace, child, Service::Claude, Some(parent.id()), json!(0.5));
        end(&parent, Code::Internal);
        let ended = child.outcome().unwrap().unwrap().ended;
        let before = spent(&mut Spending::default(), &workspace, "a", ended);
        if is_indexed {
            workspace.index_ended().unwrap();
        }
        assert_eq!(parent.delete().unwrap(), crate::DeletedJob::Done);
        assert!(Job::open(&workspace, child.id()).unwrap().is_none());
        assert_eq!(workspace.ended_jobs(|_| true).unwrap(), [], "its line goes");
        let after = spent(&mut Spending::default(), &workspace, "a", ended);
        assert_eq!(after, before + 500_000, "indexed: {is_indexed}");
    }
}

#[test]
fn a_job_is_not_deleted_before_its_cost_is_known() {
    let (dir, workspace) = workspace();
    workspace.open_jobs().unwrap();
    let job = spend(&workspace, JobId::new(), Service::Claude, None, json!(0.5));
    let ended = job.outcome().unwrap().unwrap().ended;
    let checkout = workspace.job_directory(job.id());
    fs::create_dir_all(checkout.join("app")).unwrap();
    // As on a full volume.
    let file = workspace.ledger().file(&Day::at(ended));
    fs::create_dir(file.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let error = job.delete().unwrap_err();
    assert!(error.is_disk_full() && !checkout.exists(), "its checkout makes room: {error:?}");
    assert!(Job::open(&workspace, job.id()).unwrap().is_some());
    // The index cannot be written either, and yet what is old is deleted.
    let other = create(&workspace, JobId::new(), None);
    end(&other, Code::Internal);
    fs::create_dir_all(workspace.job_directory(other.id())).unwrap();
    let nothing = crate::Retention {
        checkouts: Some(Duration::ZERO),
        jobs: None,
        sessions: None,
        mirrors: None,
        limit: None,
    };
    let collected = workspace.collect(&nothing, Timestamp::now(), crate::Collect::Delete);
    assert_eq!(collected.unwrap().unwrap().len(), 1);
    fs::remove_file(&file).unwrap();
    // The entry is lost with its directory, which the next job has made again.
    fs::remove_dir_all(dir.path().join(".stack/open")).unwrap();
    create(&workspace, JobId::new(), None);
    workspace.note_cost(&job).unwrap();
    assert_eq!(spent(&mut Spending::default(), &workspace, "a", ended), 500_000);
    assert_eq!(job.delete().unwrap(), crate::DeletedJob::Done);
}

#[test]
fn a_deletion_waits_for_others_that_write_to_the_index() {
    let (_dir, workspace) = workspace();
    let job = create(&workspace, JobId::new(), None);
    end(&job, Code::Internal);
    workspace.index_ended().unwrap();
    let lock = workspace.lock_index(LONGEST_WRITE).unwrap();
    thread::scope(|threads| {
        let deletion = threads.spawn(|| job.delete().unwrap());
        while Job::open(&workspace, job.id()).unwrap().is_some() {
            assert!(!deletion.is_finished());
            thread::sleep(Duration::from_millis(1));
        }
        drop(lock);
        assert_eq!(deletion.join().unwrap(), crate::DeletedJob::Done);
    });
    assert_eq!(workspace.ended_jobs(|_| true).unwrap(), [], "its line went");
}
