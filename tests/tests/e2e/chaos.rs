//! Callers that disconnect at any moment. (For processes that die at any moment, see the
//! campaigns.)

use std::time::Duration;

use serde_json::Value;
use testkit::{AgentScript, Stack, wait_for};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{all_jobs, execute, registry};

/// The deadline for all of them. It matters only when the test fails.
const PATIENCE: Duration = Duration::from_secs(200);

/// A job whose caller disconnects, at whatever moment, either runs or is cancelled. It is never
/// claimed by a replica that then does nothing, and never left without a queue.
#[tokio::test]
async fn callers_that_disconnect_at_any_moment() {
    let stack = Stack::builder().replicas(1, 1, 2).start().await;
    let body = execute(&AgentScript::new()).to_string();
    let head =
        "POST /api/execute HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    // On an idle machine, a job is created and claimed within about a millisecond.
    let moments = (0..4).flat_map(|_| (0..40).map(|step| step * 50));
    for (number, moment) in moments.enumerate() {
        let mut stream = wait_for("a gateway that accepts jobs", PATIENCE, || async {
            let idle = registry(&stack, "claude-code-api");
            let replica = idle.values().next()?["address"].as_str()?.to_owned();
            let gateway = stack.claude_url().strip_prefix("http://")?.to_owned();
            TcpStream::connect(if number % 2 == 0 { gateway } else { replica }).await.ok()
        })
        .await;
        stream.write_all(request.as_bytes()).await.unwrap();
        // This sleep does not wait for anything: it makes each caller disconnect at another moment.
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
    assert!(jobs.len() > 10, "too few jobs were created: {}", jobs.len());
    stack.wait_until_idle().await;
}
