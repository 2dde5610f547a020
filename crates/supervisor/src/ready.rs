//! Waits until a stack is ready, and prints how to use it.

use std::time::Duration;

use contract::Service;
use serde::Deserialize;

use crate::{Plan, output::Output, roster::Roster};

/// The poll interval. Nothing announces that a gateway answers, and a replica that gets a recovered job is idle for
/// less time than a watch needs to notice.
const LOOK: Duration = Duration::from_millis(50);
/// How long the gateway may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// The longest response that is read, in bytes.
const ANSWER: usize = 64 << 10;

/// Waits until the stack can accept jobs: its gateway answers, and as many replicas as planned are idle or busy. Jobs
/// from the queue of an earlier stack may occupy all of them, so they need not be idle at the same time.
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

/// The number of replicas that the gateway knows, idle or busy; `None` if it does not answer.
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

/// Prints how to use a stack that is ready.
pub(crate) fn announce(plan: &Plan, output: &Output) {
    output.note(&format!(
        "ready. Try:\n  curl -N {}{} -H 'Content-Type: application/json' \\\n    \
         -d '{{\"prompt\": \"Add a README\", \"repoUrl\": \"https://github.com/user/repo.git\"}}'",
        plan.public_url(Service::Workflow),
        Service::Workflow.job_path(),
    ));
}

#[cfg(test)]
mod tests {
    use contract::PerService;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::watch,
        task::JoinSet,
    };
    use workspace::Workspace;

    use super::*;

    /// Answers every request with the status of `[idle, busy]` replicas.
    async fn gateway(listener: TcpListener, replicas: watch::Receiver<[usize; 2]>) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let read = stream.read(&mut [0; 1000]).await.unwrap();
            assert!(read > 0);
            let [idle, busy] = *replicas.borrow();
            let body = format!(r#"{{"replicas":{{"idle":{idle},"busy":{busy}}}}}"#);
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length";
            let answer = format!("{head}: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    /// Jobs of an earlier stack may take every replica at once, so that they are never idle at the same time.
    #[tokio::test]
    async fn a_stack_is_ready_when_its_replicas_are_busy() {
        let directory = tempfile::tempdir().unwrap();
        let roster = Roster::new(&Workspace::open(directory.path()).unwrap());
        let (replicas, seen) = watch::channel([0, 2]);
        let mut tasks = JoinSet::new();
        let mut ports = PerService::from_fn(|_| 0);
        for (_, port) in ports.iter_mut() {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            *port = listener.local_addr().unwrap().port();
            tasks.spawn(gateway(listener, seen.clone()));
        }
        let plan = Plan {
            program: "/bin/true".into(),
            workspace: directory.path().into(),
            bind: "127.0.0.1".parse().unwrap(),
            ports,
            replicas: PerService::from_fn(|_| 3),
            read_settings: |_, _| {},
            tls: None,
        };
        let early = tokio::time::timeout(Duration::from_millis(300), ready(&plan, &roster)).await;
        assert!(early.is_err(), "only two of three replicas are available");
        replicas.send_replace([0, 3]);
        let all = tokio::time::timeout(Duration::from_secs(10), ready(&plan, &roster)).await;
        assert!(all.is_ok(), "all three replicas are available, and busy");
    }
}
