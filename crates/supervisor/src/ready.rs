//! When a stack is ready, and what to do with it then.

use std::time::Duration;

use contract::Service;
use serde::Deserialize;

use crate::{Plan, output::Output, roster::Roster};

/// Between two looks. Nothing announces that a gateway answers, and replicas that are recovered jobs' right away are
/// idle for less time than a watch takes to notice.
const LOOK: Duration = Duration::from_millis(50);
/// How long the gateway may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// The longest answer that is read, in bytes.
const ANSWER: usize = 64 << 10;

/// Waits until the stack can take jobs: its gateway answers, and as many replicas as planned work, idle or busy. Jobs
/// that waited in the queue of a stack before may keep all of them busy, so they need not be idle together.
pub(crate) async fn ready(plan: &Plan, roster: &Roster) {
    for (service, count) in plan.replicas.iter() {
        let count = usize::from(*count);
        loop {
            if let Some(at_work) = at_work(plan, service).await
                && at_work.max(roster.proven(service)) >= count
            {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// How many replicas the gateway knows of, idle or busy; `None` as long as it does not answer.
async fn at_work(plan: &Plan, service: Service) -> Option<usize> {
    #[derive(Deserialize)]
    struct Status {
        replicas: Replicas,
    }
    #[derive(Deserialize)]
    struct Replicas {
        idle: usize,
        busy: usize,
    }
    let url = plan.base_url(service);
    let body = bytes::Bytes::new();
    let answer =
        web::ask(&url, http::Method::GET, "/status", &[], body, CONNECT_TIME).await.ok()?;
    let status: Status = serde_json::from_slice(&answer.bytes(ANSWER).await.ok()?).ok()?;
    Some(status.replicas.idle + status.replicas.busy)
}

/// Says what to do with a stack that is ready.
pub(crate) fn announce(plan: &Plan, output: &Output) {
    output.note(&format!(
        "ready. Try:\n  curl -N {}{} -H 'Content-Type: application/json' \\\n    \
         -d '{{\"prompt\": \"Add a README\", \"repoUrl\": \"https://github.com/user/repo.git\"}}'",
        plan.url(Service::Workflow),
        Service::Workflow.job_path(),
    ));
}
