//! A volume with many jobs that have ended: what is looked at costs what is asked for, not what ever was.

use std::{
    fs,
    time::{Duration, Instant},
};

use contract::{Code, Ending, JobId, JobState, Service, Timestamp};
use gateway::Gateway;
use serde_json::{Value, json};

use crate::support::{Volume, get};

const DAY: i64 = 86_400_000;

/// Copies an ended job `count` times, as if such jobs had been created over the last `days` days. Every hundredth has
/// been cancelled; the others have failed.
fn age(volume: &Volume, count: i64, days: i64) -> Vec<JobId> {
    let workspace = &volume.workspace;
    let now = Timestamp::now().as_millisecond();
    let [failed, cancelled] = [Code::Internal, Code::Cancelled].map(|code| {
        let job = volume.pull(None, Duration::ZERO);
        let ending = Ending::failure(Service::Pull, job.id(), code, "x");
        job.end_unclaimed("test", ending).unwrap().unwrap();
        job.directory()
    });
    let jobs = workspace.root().join(".stack/jobs");
    // Nobody has built the index yet, as on a volume of an earlier version.
    (0..count)
        .map(|n| {
            let time = format!("{:012x}", now - days * DAY + n * days * DAY / count);
            let (high, low) = time.split_at(8);
            let id = format!("{high}-{low}-7000-8000-{n:06x}{:06x}", n * 7919 % 0x100_0000);
            fs::create_dir(jobs.join(&id)).unwrap();
            for name in ["job.json", "claim", "outcome"] {
                // Nothing in them depends on the ID, and links are made quickly.
                let model = if n % 100 == 0 { &cancelled } else { &failed }.join(name);
                fs::hard_link(model, jobs.join(&id).join(name)).unwrap();
            }
            id.parse().unwrap()
        })
        .collect()
}

/// The shortest of several times, because something else may run on this machine.
async fn time(gateway: &Gateway, target: &str) -> (Duration, Value) {
    let mut best = (Duration::MAX, Value::Null);
    for _ in 0..12 {
        let begun = Instant::now();
        let (status, answer) = get(gateway, Service::Pull, target).await;
        assert_eq!(status, 200, "{target}: {answer}");
        best = (best.0.min(begun.elapsed()), answer);
    }
    best
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_costs_what_it_shows_however_many_jobs_have_ended() {
    let (few, many) = (Volume::new(), Volume::new());
    age(&few, 100, 1);
    let ids = age(&many, 20_000, 30);
    let gateways = [few.gateway(|_| {}).await, many.gateway(|_| {}).await];
    let running = [few.running_workflow("app"), many.running_workflow("app")];
    let [few, many] = &gateways;
    for target in ["/api/jobs", "/api/jobs?state=failed", "/api/jobs?state=running"] {
        let ((quick, few), (slow, many)) = (time(few, target).await, time(many, target).await);
        assert_eq!(few["count"], many["count"], "{target}");
        // A busy machine takes its share; a look at every job would take a hundred times as long.
        assert!(slow <= quick * 6, "{target}: {slow:?} with 20,000 jobs, {quick:?} with 100");
    }
    let (page, largest) = time(many, "/api/jobs?limit=1000").await;
    assert_eq!(largest["count"], 1000);
    let (rare, cancelled) = time(many, "/api/jobs?state=cancelled&limit=1000").await;
    assert_eq!(cancelled["count"], 201);
    let (found, one) = time(many, &format!("/api/jobs?id={}", &ids[777].to_string()[24..])).await;
    assert_eq!((&one["count"], &one["jobs"][0]["jobId"]), (&json!(1), &json!(ids[777])));
    for (what, took) in [("a rare state", rare), ("an ID", found)] {
        assert!(took <= page * 3, "{what}: {took:?}, a page of 1000: {page:?}");
    }
    drop(running);
}

/// All pages together are all jobs, newest first, whichever of them are in the index of open jobs.
#[tokio::test]
async fn pages_leave_nothing_out() {
    let volume = Volume::new();
    let ids = age(&volume, 500, 3);
    let gateway = volume.gateway(|_| {}).await;
    let queued = volume.pull(None, Duration::ZERO).id();
    for (state, count) in [(None, 503), (Some(JobState::Cancelled), 6), (Some(JobState::Queued), 1)]
    {
        let (mut seen, mut cursor): (Vec<JobId>, _) = (Vec::new(), String::new());
        loop {
            let state = state.map(|state| format!("&state={}", state.as_str()));
            let target = format!("/api/jobs?limit=7{}{cursor}", state.unwrap_or_default());
            let (_, page) = get(&gateway, Service::Pull, &target).await;
            let jobs = page["jobs"].as_array().unwrap();
            seen.extend(
                jobs.iter().map(|job| job["jobId"].as_str().unwrap().parse::<JobId>().unwrap()),
            );
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen.len(), count, "{state:?}");
        assert!(seen.is_sorted_by(|a, b| a > b));
        match state {
            None => assert!(seen[0] == queued && seen.ends_with(&[ids[1], ids[0]])),
            Some(JobState::Queued) => assert_eq!(seen, [queued]),
            Some(_) => assert!(seen.contains(&ids[0]) && !seen.contains(&ids[1])),
        }
    }
    // A job that was removed by hand is in the index, and in no listing.
    fs::remove_dir_all(volume.workspace.root().join(".stack/jobs").join(ids[499].to_string()))
        .unwrap();
    let (_, page) = get(&gateway, Service::Pull, &format!("/api/jobs?id={}", ids[499])).await;
    assert_eq!(page["count"], 0);
}
