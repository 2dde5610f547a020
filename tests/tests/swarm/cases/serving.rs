//! Many jobs at once.

use std::{fs, sync::Arc, time::Duration};

use contract::Service;
use testkit::SseClient;

use crate::{
    bench::{Bench, url_of},
    command::say,
    events::Events,
    load::{Load, unequal},
};

/// The load test from the original documents.
pub(crate) async fn ten_at_once(bench: Arc<Bench>) {
    let ends = Load::start(&bench, unequal(10)).ends().await;
    ends.all_complete();
    assert!(ends.all.iter().all(|end| end.cuts == 0), "a stream was cut");
    say(&format!("ten at once: {:.1?}", ends.took));
    bench.wait_until_idle().await;
    bench.check_one_job_each();
}

pub(crate) async fn sixty_unequal_ones(bench: Arc<Bench>) {
    let jobs_before = bench.claims().len();
    let [gateway] = &bench.containers("gateway")[..] else { panic!("not exactly one gateway") };
    let gateway = bench.inspect(gateway)["State"]["Pid"].as_u64().unwrap();
    let gateway = [u32::try_from(gateway).unwrap()];
    let engine = bench.engine.pids();
    let (of_gateway, of_engine) = (cpu_time(&gateway), cpu_time(&engine));
    let events = Events::record(&bench.engine);
    let ends = Load::start(&bench, unequal(60)).ends().await;
    let (of_gateway, of_engine) = (
        cpu_time(&gateway).saturating_sub(of_gateway),
        cpu_time(&engine).saturating_sub(of_engine),
    );
    ends.all_complete();
    assert!(ends.all.iter().all(|end| end.cuts == 0), "a stream was cut");
    bench.wait_until_idle().await;
    assert_eq!(bench.claims().len() - jobs_before, 180, "three jobs a workflow, each taken once");
    bench.check_one_job_each();
    let dead = events.dead_times();
    say(&format!(
        "sixty at once: {:.1?}, {:.1} jobs per second; time between two containers of a slot: \
         p50 {:.2?}, p90 {:.2?}, max {:.2?} of {}; CPU time: gateway {of_gateway:.1?}, engine {of_engine:.1?}",
        ends.took,
        180.0 / ends.took.as_secs_f64(),
        dead.percentile(50),
        dead.percentile(90),
        dead.percentile(100),
        dead.count(),
    ));
    say(&format!(
        "from a request to its job's first event on an idle stack: {:.1?}",
        hand_over(&bench).await
    ));
}

/// The shortest of three: the time without any waiting.
async fn hand_over(bench: &Arc<Bench>) -> Duration {
    let mut shortest = Duration::MAX;
    for _ in 0..3 {
        bench.wait_until_idle().await;
        let body = serde_json::json!({"repoUrl": bench.repository()});
        let url = format!("{}/api/pull", url_of(Service::Pull));
        let started = std::time::Instant::now();
        let mut response = SseClient::post(&url, &body).send().await;
        response.next_of_kind("connected").await;
        shortest = shortest.min(started.elapsed());
        response.collect_all().await;
    }
    shortest
}

/// The CPU time that processes have used, in units of 10 ms. See proc_pid_stat(5).
fn cpu_time(pids: &[u32]) -> Duration {
    let ticks = |pid: &u32| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    };
    Duration::from_millis(10 * pids.iter().map(ticks).sum::<u64>())
}
