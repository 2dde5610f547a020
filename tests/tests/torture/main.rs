//! The campaigns of `torture` in small sizes. They run one after the other, because they measure
//! time and memory and need the machine for themselves.

use std::time::Duration;

use contract::PerService;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::{
    processes_of_directory, target_binary,
    torture::{
        Deliveries, Flooded, Kill, Leaks, Readers, Report, SideBySide, Stops, Storms, Sweep,
        Target, Victim,
    },
    wait_for,
};
use tokio::sync::Mutex;

/// Held by the campaign that is running.
static MACHINE: Mutex<()> = Mutex::const_new(());

async fn alone(campaign: impl Future<Output = Report>) -> Report {
    let _machine = MACHINE.lock().await;
    let report = campaign.await;
    report.assert_whole();
    report
}

fn killing(jobs: usize, every: u64, target: Target) -> Kill {
    Kill {
        jobs,
        callers: 16,
        every: Duration::from_millis(every),
        target,
        replicas: PerService::new([5, 3, 3]),
        seed: 1,
        workspace: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_killed_continuously() {
    let report = alone(killing(300, 100, Target::Replicas).run()).await;
    let killed = report.get("of these, with a job").and_then(serde_json::Value::as_u64);
    assert!(killed > Some(10), "too few of the killed replicas had a job: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_is_killed_too() {
    alone(killing(60, 300, Target::All).run()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_are_killed_continuously() {
    for pull_requests in [false, true] {
        let every = Duration::from_millis(700);
        let deliveries =
            Deliveries { results: 30, callers: 6, every, pulls: 4, pull_requests, seed: 1 };
        let report = alone(deliveries.run()).await;
        let killed = report.get("killed while delivering").and_then(serde_json::Value::as_u64);
        assert!(killed > Some(1), "too few replicas were killed while they delivered: {report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_kill_during_each_job() {
    let time = Duration::from_millis;
    let sweep = Sweep { victims: Victim::ALL.to_vec(), step: time(400), until: time(400) };
    alone(sweep.run()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_readers_are_cut_off_at_once() {
    alone(Readers { readers: 100, cuts: 3 }.run()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_jobs_side_by_side() {
    alone(SideBySide { jobs: 16, time: Duration::from_secs(5) }.run()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_fork_without_end() {
    if !Storms::is_safe_here() {
        return testkit::skip("agents_that_fork_without_end", "nothing limits a job's processes");
    }
    alone(Storms { processes: 100 }.run()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_without_readers() {
    alone(Flooded { messages: 10_000, readers: 50 }.run()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_leak_nothing() {
    alone(Leaks { jobs: 42, callers: 8 }.run()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_refuse_to_exit() {
    alone(Stops.run()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_campaign_leaves_no_stack_behind() {
    let _machine = MACHINE.lock().await;
    let workspace = tempfile::TempDir::new().unwrap();
    let mut torture = tokio::process::Command::new(target_binary("torture"))
        .args(["kill", "--callers", "2", "--replicas", "1,1,1", "--workspace"])
        .arg(workspace.path())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let jobs = workspace.path().join(".stack/jobs");
    wait_for("the first jobs", Duration::from_secs(60), || async {
        (std::fs::read_dir(&jobs).ok()?.count() > 2).then_some(())
    })
    .await;
    let pid = Pid::from_raw(torture.id().unwrap().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(torture.wait().await.unwrap().code(), Some(130));
    let left = processes_of_directory(&workspace.path().canonicalize().unwrap());
    assert!(left.is_empty(), "{left:#?}");
}
