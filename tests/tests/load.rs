//! Two hundred concurrent callers on 5, 3 and 3 replicas. Each caller gets its workflow, and no replica gets a second
//! job. This is a separate test binary, so that its duration is meaningful.

use std::{collections::BTreeMap, fs, io::Write as _, path::Path, sync::Arc, time::Duration};

use contract::Service;
use serde_json::{Value, json};
use stack_client::{
    Api, StackUrl,
    load::{Load, OutcomeCount, RunningLoad},
};
use testkit::{AgentScript, GitServer, Stack};

const CALLERS: usize = 200;
/// The deadline for everything in this test. It matters only when the test fails.
const PATIENCE: Duration = Duration::from_secs(400);

#[tokio::test]
async fn two_hundred_callers_at_once() {
    let git = GitServer::start().await;
    git.create_repo("hello-world.git", &[("README.md", "hello\n")]);
    let stack = Stack::builder().replicas(5, 3, 3).start().await;
    let times = unequal_times();
    let work: u64 = times.iter().sum();
    let repo = git.url("hello-world.git");
    let url: StackUrl = stack.workflow_url().parse().unwrap();
    let load = Load {
        api: Api::new(url).unwrap(),
        service: Service::Workflow,
        jobs: u32::try_from(CALLERS).unwrap(),
        concurrency: u32::try_from(CALLERS).unwrap(),
        jitter: Duration::ZERO,
        patience: PATIENCE,
        request: Arc::new(move |number| {
            let script = AgentScript::new().sleep_ms(times[usize::try_from(number).unwrap() - 1]);
            json!({"repoUrl": repo, "prompt": script.prompt()})
        }),
    };
    let results = tokio::time::timeout(PATIENCE, RunningLoad::start(&load).finish()).await.unwrap();
    let complete =
        OutcomeCount { label: "workflow_complete".into(), complete: true, count: CALLERS };
    assert_eq!((&results.outcomes, &results.problems), (&vec![complete], &vec![]));
    assert_eq!((results.lost, results.refused, results.faults, results.breaks), (0, 0, 0, 0));
    stack.wait_until_idle().await;

    let claims = claims(stack.workspace());
    assert_eq!(claims.len(), 3 * CALLERS, "every job was claimed once");
    for (replica, jobs) in claims {
        assert_eq!(jobs.len(), 1, "the replica {replica} took the jobs {jobs:?}");
    }
    let ends = || results.kept.iter().map(|kept| u64::from(kept.start) + u64::from(kept.total));
    let first = Duration::from_millis(ends().min().unwrap());
    let took = Duration::from_millis(ends().max().unwrap());
    writeln!(
        std::io::stderr(),
        "{CALLERS} callers at once, {:.1} s of agents' work: the first was done after {first:.1?}, \
         the last after {took:.1?}",
        Duration::from_millis(work).as_secs_f64(),
    )
    .unwrap();
    assert_eq!(stack.stop().await, 0);
}

/// The duration of each agent's work, in milliseconds: from 0 to 5 s, one second on average, the same in every run.
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
