//! Two hundred callers at once on 5, 3 and 3 replicas. Each caller gets its workflow, and no
//! replica gets a second job. This is a test binary of its own, so that its duration is meaningful.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{AgentScript, GitServer, SseClient, Stack};
use tokio::task::JoinSet;

const CALLERS: usize = 200;
/// The deadline for everything in this test. It matters only when the test fails.
const PATIENCE: Duration = Duration::from_secs(400);

#[tokio::test]
async fn two_hundred_callers_at_once() {
    let git = GitServer::start().await;
    git.create_repo("hello-world.git", &[("README.md", "hello\n")]);
    let stack = Stack::builder().replicas(5, 3, 3).start().await;
    let url = format!("{}/api/workflow", stack.workflow_url());
    let times = unequal_times();
    let work: u64 = times.iter().sum();

    let started = Instant::now();
    let mut callers = JoinSet::new();
    for time in times {
        let script = AgentScript::new().sleep_ms(time);
        let body = json!({"repoUrl": git.url("hello-world.git"), "prompt": script.prompt()});
        let request = SseClient::post(&url, &body).patience(PATIENCE);
        callers.spawn(async move {
            let mut response = request.send().await;
            assert_eq!(response.status, 200, "a caller was refused");
            let events = response.collect_all().await;
            (events.last().unwrap().kind().to_owned(), started.elapsed())
        });
    }
    let ends = callers.join_all().await;
    let took = started.elapsed();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for (kind, _) in &ends {
        *kinds.entry(kind).or_default() += 1;
    }
    assert_eq!(kinds, BTreeMap::from([("workflow_complete", CALLERS)]));
    stack.wait_until_idle().await;

    let claims = claims(stack.workspace());
    assert_eq!(claims.len(), 3 * CALLERS, "every job was claimed once");
    for (replica, jobs) in claims {
        assert_eq!(jobs.len(), 1, "the replica {replica} took the jobs {jobs:?}");
    }
    let first = ends.iter().map(|(_, at)| *at).min().unwrap();
    writeln!(
        std::io::stderr(),
        "{CALLERS} callers at once, {:.1} s of agents' work: the first was done after {first:.1?}, \
         the last after {took:.1?}",
        Duration::from_millis(work).as_secs_f64(),
    )
    .unwrap();
    assert_eq!(stack.stop().await, 0);
}

/// How long each agent takes, in milliseconds: from 0 to 5 s, one second on average, the same in
/// every run.
fn unequal_times() -> Vec<u64> {
    let mut seed: u64 = 0x5eed;
    let mut next = || {
        // Knuth's MMIX generator; its upper bits are random enough for this.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 32
    };
    // The fourth power of a uniform distribution has a mean of one fifth.
    (0..CALLERS).map(|_| 5000 * (next() % 1001).pow(4) / 1000_u64.pow(4)).collect()
}

/// The jobs that each replica has claimed and run.
fn claims(workspace: &Path) -> BTreeMap<String, Vec<String>> {
    let mut claims: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for job in fs::read_dir(workspace.join(".stack/jobs")).unwrap() {
        let job = job.unwrap();
        let claim = fs::read(job.path().join("claim")).expect("every job has a claim");
        let claim: Value = serde_json::from_slice(&claim).unwrap();
        assert_eq!(claim["run"], true, "{claim}");
        let by = claim["by"].as_str().unwrap().to_owned();
        claims.entry(by).or_default().push(job.file_name().into_string().unwrap());
    }
    claims
}
