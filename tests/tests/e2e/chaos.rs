//! Everything that can die dies again and again, and still each job has one end that its caller reads.

use std::{collections::BTreeMap, time::Duration};

use contract::Service;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use testkit::{AgentScript, GitServer, SseClient, SseEvent, Stack, wait_for};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet};

use crate::support::{Marks, agents, all_jobs, events_of, execute, registry, terminal, workflow};

const CALLERS: usize = 24;
/// How long all of them may take; it matters only when the test fails.
const PATIENCE: Duration = Duration::from_secs(200);

/// A caller who comes back until it has read the end: with the same job's id as long as it has heard
/// nothing, with the last event's afterwards.
#[derive(Clone)]
struct Caller {
    base: String,
    body: Value,
    id: String,
}

impl Caller {
    fn new(stack: &Stack, body: Value) -> Self {
        Self { base: stack.workflow_url(), body, id: uuid::Uuid::now_v7().to_string() }
    }

    async fn read(self) -> (String, Vec<SseEvent>) {
        let mut seen: Vec<SseEvent> = Vec::new();
        loop {
            let request = match seen.last().and_then(|event| event.id.as_deref()) {
                None => SseClient::post(&format!("{}/api/workflow", self.base), &self.body)
                    .header("x-job-id", &self.id)
                    .accept_event_stream(),
                Some(last) => {
                    let events = format!("{}/api/jobs/{}/events", self.base, self.id);
                    SseClient::get(&events).service(Service::Workflow).last_event_id(last)
                }
            };
            let Ok(mut response) = request.allow_cut().patience(PATIENCE).try_send().await else {
                // As any caller would, it leaves the gateway a moment.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            assert_eq!(response.status, 200, "{} was refused", self.id);
            // What has no id is in no journal: its own waits, not those of its jobs.
            let mut events = response.collect_all().await;
            events.retain(|event| event.id.is_some());
            seen.extend(events);
            if !response.ended_without_terminal() {
                return (self.id, seen);
            }
        }
    }
}

/// How every job has ended, and that every journal is what its caller has read.
async fn settle(stack: &Stack, mut callers: JoinSet<(String, Vec<SseEvent>)>) -> Vec<Value> {
    let mut ends = Vec::new();
    let mut all = Vec::new();
    while let Some(read) = callers.join_next().await {
        all.push(read.unwrap());
    }
    stack.wait_until_idle().await;
    for (id, seen) in all {
        let whole = events_of(stack, &id, Service::Workflow).send().await.collect_all().await;
        let same = seen.iter().zip(&whole).take_while(|(seen, whole)| seen == whole).count();
        let differ = (seen.get(same), whole.get(same));
        assert_eq!(differ, (None, None), "{id}: events were lost or repeated, from number {same}");
        ends.push(terminal(&whole).clone());
    }
    let jobs = all_jobs(stack).await;
    let open: Vec<_> = jobs.iter().filter(|job| job["ended"].is_null()).collect();
    assert!(open.is_empty(), "jobs without an end: {open:#?}");
    assert!(agents(stack).is_empty(), "{:#?}", agents(stack));
    ends
}

#[tokio::test]
async fn a_gateway_that_dies_again_and_again_loses_no_job_and_runs_none_twice() {
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().replicas(3, 2, 2).start().await;
    let marks = Marks::new();
    let script = AgentScript::new().log_run(marks.path("runs")).flood(20, 1000).sleep_ms(200);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(Caller::new(&stack, workflow(&git.url("app"), &script)).read());
    }
    for deaths in 1..=4 {
        // Each time a few more jobs are done, so that it is never the same moment.
        wait_for("more agents to have run", PATIENCE, || async {
            (marks.lines("runs").len() >= 4 * deaths).then_some(())
        })
        .await;
        let gateway = wait_for("a gateway", PATIENCE, || async {
            stack.processes_of("gateway").first().copied()
        })
        .await;
        crate::support::send_signal(gateway, Signal::SIGKILL);
    }
    let ends = settle(&stack, callers).await;
    let failed: Vec<_> = ends.iter().filter(|end| end["type"] != "workflow_complete").collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!((ends.len(), marks.lines("runs").len()), (CALLERS, CALLERS));
    assert_eq!(stack.stop().await, 0);
}

#[tokio::test]
async fn replicas_that_die_again_and_again_cost_only_their_own_jobs() {
    const DEATHS: usize = 12;
    let git = GitServer::start().await;
    git.create_repo("app", &[("a", "a")]);
    let stack = Stack::builder().replicas(3, 2, 2).start().await;
    let marks = Marks::new();
    let script = AgentScript::new()
        .log_run(marks.path("runs"))
        .spawn_in_new_session(&["sleep", "300"])
        .sleep_ms(150);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(Caller::new(&stack, workflow(&git.url("app"), &script)).read());
    }
    let parts = ["workflow-api", "github-pull-api", "claude-code-api"];
    for death in 0..DEATHS {
        wait_for("more agents to have run", PATIENCE, || async {
            let enough = marks.lines("runs").len() > death;
            (enough || callers.len() < CALLERS / 2).then_some(())
        })
        .await;
        for pid in stack.processes_of(parts[death % 3]).into_iter().take(1) {
            // It may have left by itself in this moment.
            let _gone = kill(nix::unistd::Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
    let ends = settle(&stack, callers).await;
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for end in &ends {
        let kind = end["code"].as_str().unwrap_or("complete");
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    let complete = kinds.remove("complete").unwrap_or_default();
    assert_eq!(ends.len(), CALLERS);
    assert!(complete >= CALLERS - DEATHS, "{complete} of {CALLERS} went well: {kinds:?}");
    kinds.remove("replica_lost");
    assert!(kinds.is_empty(), "other ends than a lost replica's: {kinds:?}");
    assert!(marks.lines("runs").len() <= CALLERS, "an agent was run twice");
    assert_eq!(stack.stop().await, 0);
}

/// A job whose caller hangs up, at whatever moment, is run or is cancelled: it is never taken by a
/// replica that then does nothing about it, and never left in nobody's queue.
#[tokio::test]
async fn callers_who_hang_up_at_any_moment() {
    let stack = Stack::builder().replicas(1, 1, 2).start().await;
    let body = execute(&AgentScript::new()).to_string();
    let head =
        "POST /api/execute HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    // A job is named and taken within a millisecond or so, if the machine has nothing else to do.
    let moments = (0..4).flat_map(|_| (0..40).map(|step| step * 50));
    for (number, moment) in moments.enumerate() {
        let mut stream = wait_for("somebody who takes jobs", PATIENCE, || async {
            let idle = registry(&stack, "claude-code-api");
            let replica = idle.values().next()?["address"].as_str()?.to_owned();
            let gateway = stack.claude_url().strip_prefix("http://")?.to_owned();
            TcpStream::connect(if number % 2 == 0 { gateway } else { replica }).await.ok()
        })
        .await;
        stream.write_all(request.as_bytes()).await.unwrap();
        // Not to wait for anything: to hang up at another moment each time.
        std::thread::sleep(Duration::from_micros(moment));
        drop(stream);
    }
    let jobs = wait_for("the end of all jobs", PATIENCE, || async {
        let jobs = all_jobs(&stack).await;
        jobs.iter().all(|job| job["ended"].is_string()).then_some(jobs)
    })
    .await;
    let odd = |job: &&Value| !["succeeded", "cancelled"].contains(&job["state"].as_str().unwrap());
    let odd: Vec<_> = jobs.iter().filter(odd).collect();
    assert!(odd.is_empty(), "{} of {}: {odd:#?}", odd.len(), jobs.len());
    assert!(jobs.len() > 10, "too few have come far enough: {}", jobs.len());
    stack.wait_until_idle().await;
}
