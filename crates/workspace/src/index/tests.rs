use std::fs;

use contract::{CallerName, Code, Ending, EventLine, JobState, Service, Timestamp, Usd};
use serde_json::json;

use super::*;
use crate::{
    JobRecord,
    fixtures::{self, workspace},
};

/// An ID of this time, in milliseconds.
fn id(created: u64, tail: u64) -> JobId {
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
    let other = workspace.lock_index().unwrap();
    assert_eq!(workspace.index_ended().unwrap(), 0);
    assert_eq!(found(&workspace, state(JobState::Failed)), [job.id()], "it is found all the same");
    drop(other);
    assert_eq!(workspace.index_ended().unwrap(), 1);
}

/// Ends a job of `service` and of `caller`, which cost so much.
fn spend(
    workspace: &Workspace,
    job_id: JobId,
    service: Service,
    caller: &str,
    cost: serde_json::Value,
) {
    let record = fixtures::record(None, &json!({"prompt": "x"}));
    let caller = caller.parse().unwrap();
    let job = fixtures::create(workspace, &JobRecord { job_id, service, caller, ..record });
    let ending = Ending::failure(service, job_id, Code::AgentFailed, "x");
    let event = EventLine::encode(&json!({"type": "error", "costUsd": cost}));
    job.end_unclaimed("test", Ending { event, ..ending }).unwrap().unwrap();
}

#[test]
fn what_ended_today_is_added_up_once() {
    let (_dir, workspace) = workspace();
    let now = Timestamp::now();
    let day = i64::try_from(DAY).unwrap();
    let later = |days: i64| Timestamp::from_millisecond(now.as_millisecond() + days * day);
    let today = u64::try_from(now.as_millisecond()).unwrap();
    let spent =
        |spending: &Spending| ["a", "b"].map(|name| spending.of(&name.parse().unwrap()).micros());
    let mut spending = Spending::default();
    spending.look(&workspace, now).unwrap();
    assert_eq!(spent(&spending), [0, 0]);
    // One was created yesterday. A workflow's cost is that of its jobs.
    spend(&workspace, id(today, 1), Service::Claude, "a", json!(0.25));
    spend(&workspace, id(today - DAY, 2), Service::Claude, "a", json!(0.5));
    spend(&workspace, id(today, 3), Service::Claude, "b", json!(1e-6));
    spend(&workspace, id(today, 4), Service::Workflow, "b", json!(9));
    for (tail, nonsense) in
        [json!(-1), json!("1"), json!(null), json!(1e300)].into_iter().enumerate()
    {
        spend(&workspace, id(today, 10 + tail as u64), Service::Claude, "b", nonsense);
    }
    assert_eq!(workspace.index_ended().unwrap(), 8);
    for _ in 0..2 {
        spending.look(&workspace, now).unwrap();
        assert_eq!(spent(&spending), [750_000, 1]);
    }
    spend(&workspace, id(today, 20), Service::Claude, "a", json!(1));
    workspace.index_ended().unwrap();
    spending.look(&workspace, now).unwrap();
    assert_eq!(spent(&spending), [1_750_000, 1]);
    // Deleting a job does not give its cost back, whether it was looked at before or not.
    workspace.forget_ended(&[id(today, 1), id(today, 4), id(today - DAY, 2)]).unwrap();
    let left = workspace.ended_jobs(|_| true).unwrap();
    assert!(left.iter().all(|job| job.id != id(today, 4)), "a line without a cost goes");
    let mut another = Spending::default();
    for spending in [&mut spending, &mut another] {
        spending.look(&workspace, now).unwrap();
        assert_eq!(spent(spending), [1_750_000, 1]);
    }
    // A file that has a job twice, and then a line that is still being written.
    let file = workspace.ended_index().file(&Day::at(now));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}{}", &text[..text.len() - 1])).unwrap();
    for spending in [&mut spending, &mut Spending::default()] {
        spending.look(&workspace, now).unwrap();
        assert_eq!(spent(spending), [1_750_000, 1]);
    }
    // Tomorrow begins with nothing.
    spending.look(&workspace, later(1)).unwrap();
    assert_eq!(spent(&spending), [0, 0]);
}
