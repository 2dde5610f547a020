//! An agent that prints a million messages, and readers that do not read them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use contract::Service;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use super::{
    report::{Report, seconds},
    volume::JobDirectory,
};
use crate::{AgentScript, SseClient, Stack, procfs::peak_kb, wait_for};

/// How much more memory a process may use than for a small job.
const GROWTH_KB: u64 = 64 * 1024;

/// How long the long message is, in bytes.
const LONG: usize = 10 << 20;

/// How much memory of the gateway a reader may take, whatever it does not read.
const READER_KB: u64 = 128;

/// How much memory its threads may take that read for all of them.
const READING_KB: u64 = 8 * 1024;

/// How many messages the small job has.
const FEW: usize = 1000;

/// Bytes of text in each message.
const BYTES: usize = 100;

/// How much longer a job may take if its readers do not read. It should take the same time, except
/// for what else the machine does.
const SLOWER: f64 = 1.5;
const SLOWER_BY: Duration = Duration::from_secs(3);

/// How long one job may take. It matters only if a guarantee is broken.
const PATIENCE: Duration = Duration::from_secs(1200);

/// The size of the campaign.
#[derive(Clone, Copy, Debug)]
pub struct Flooded {
    /// How many messages the agent prints.
    pub messages: usize,
    /// How many readers do not read a long message.
    pub readers: usize,
}

/// The peak memory of each part, in kB.
type Peaks = BTreeMap<String, u64>;

/// The readers of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// One reader that reads everything at once.
    Eager,
    /// One that reads a byte per second, and two that read nothing.
    Stalled,
}

impl Flooded {
    /// Runs the campaign.
    ///
    /// # Panics
    /// If a stack cannot be started, or if a job does not end.
    pub async fn run(self) -> Report {
        let mut report = Report::new("flood", None);
        let stack = Stack::builder().replicas(1, 1, 1).env("LOG_LEVEL", "warn").start().await;
        let (few, _) = job(&stack, FEW, Audience::Eager).await;
        let (eager, fast) = job(&stack, self.messages, Audience::Eager).await;
        let (stalled, slow) = job(&stack, self.messages, Audience::Stalled).await;
        report.figure("messages", self.messages);
        report.figure("seconds with a reader", seconds(fast));
        report.figure("seconds with readers that do not read", seconds(slow));
        report.check(slow < fast.mul_f64(SLOWER) + SLOWER_BY, || {
            format!("readers that do not read slow the job down: {slow:?} instead of {fast:?}")
        });
        for (part, few) in &few {
            for (audience, peaks) in [("read", &eager), ("not read", &stalled)] {
                let Some(peak) = peaks.get(part) else {
                    report.violate(format!("{part} is gone"));
                    continue;
                };
                let grown = peak.saturating_sub(*few);
                report.figure(format!("{part}, {audience}: peak memory (kB)"), *peak);
                report.figure(
                    format!("{part}, {audience}: above the peak for {FEW} messages (kB)"),
                    grown,
                );
                report.check(grown < GROWTH_KB, || format!("{part} needs {grown} kB more"));
            }
        }
        self.crowd(&stack, &mut report).await;
        report
    }

    /// Many readers of one long message that read nothing of it.
    async fn crowd(self, stack: &Stack, report: &mut Report) {
        let marks = crate::scratch();
        let gate = marks.path().join("gate");
        let script = AgentScript::new().long_line(LONG).wait_file(&gate);
        let url = format!("{}/api/execute", stack.claude_url());
        let id = uuid::Uuid::now_v7().to_string();
        let body = json!({"prompt": script.prompt()});
        let mut reading = SseClient::post(&url, &body).header("x-job-id", &id).send().await;
        while reading.next_event().await.expect("the long message").raw.len() < LONG {}
        let gateway = *stack.processes_of("gateway").first().expect("a gateway");
        let memory = || peak_kb(gateway).expect("the gateway runs");
        let before = memory();
        let port = stack.ports()[Service::Claude];
        let mut crowd = Vec::new();
        for _ in 0..self.readers {
            let mut silent = connect(port).await;
            let events =
                format!("GET /api/jobs/{id}/events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
            silent.write_all(events.as_bytes()).await.unwrap();
            crowd.push(silent);
        }
        for silent in &crowd {
            silent.readable().await.unwrap();
        }
        // Until the gateway has filled every buffer that it has.
        let mut seen = (memory(), Instant::now());
        wait_for("the memory to stop growing", PATIENCE, || {
            let now = memory();
            if now > seen.0 {
                seen = (now, Instant::now());
            }
            let has_stopped = seen.1.elapsed() > Duration::from_secs(2);
            async move { has_stopped.then_some(()) }
        })
        .await;
        let grown = memory().saturating_sub(before);
        report.figure("readers that do not read a long message", self.readers);
        report.figure("bytes of that message", LONG);
        report.figure("gateway: memory for one such reader (kB)", grown / self.readers as u64);
        report.check(grown < self.readers as u64 * READER_KB + READING_KB, || {
            format!("{} readers take {grown} kB", self.readers)
        });
        drop(crowd);
        std::fs::write(&gate, "").unwrap();
        while reading.next_event().await.is_some() {}
        stack.wait_until_idle().await;
    }
}

/// Runs one flood. Returns the peak memory of each part at its end, and its duration.
async fn job(stack: &Stack, messages: usize, audience: Audience) -> (Peaks, Duration) {
    let marks = crate::scratch();
    let (done, gate) = (marks.path().join("done"), marks.path().join("gate"));
    let script = AgentScript::new().flood(messages, BYTES).touch(&done).wait_file(&gate);
    let body = json!({"prompt": script.prompt()});
    let id = uuid::Uuid::now_v7().to_string();
    let started = Instant::now();
    let seen = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    match audience {
        Audience::Eager => {
            let url = format!("{}/api/execute", stack.claude_url());
            let request = SseClient::post(&url, &body).header("x-job-id", &id);
            let seen = Arc::clone(&seen);
            readers.spawn(async move {
                let mut response = request.patience(PATIENCE).send().await;
                while let Some(event) = response.next_event().await {
                    seen.fetch_add(usize::from(event.kind() == "message"), Ordering::Relaxed);
                }
            });
        }
        Audience::Stalled => stall(stack, &id, &body.to_string(), &mut readers).await,
    }
    wait_for("the end of the flood", PATIENCE, || async { done.exists().then_some(()) }).await;
    let took = started.elapsed();
    if audience == Audience::Eager {
        // Data on its way to the reader also uses memory.
        wait_for("the last message", PATIENCE, || async {
            (seen.load(Ordering::Relaxed) >= messages).then_some(())
        })
        .await;
    }
    let peaks = peaks(stack);
    std::fs::write(&gate, "").unwrap();
    if audience == Audience::Eager {
        readers.join_next().await.unwrap().unwrap();
    }
    let job = JobDirectory::of(stack.workspace(), &id);
    wait_for("the end of the job", PATIENCE, || async { job.has("outcome").then_some(()) }).await;
    drop(readers);
    // The whole journal is there, no matter who has read it.
    let url = format!("{}/api/jobs/{id}/events", stack.claude_url());
    let mut replay = SseClient::get(&url).service(Service::Claude).patience(PATIENCE).send().await;
    let mut lines = 0;
    while let Some(event) = replay.next_event().await {
        lines += usize::from(event.kind() == "message");
    }
    assert!(lines >= messages, "{lines} of {messages} messages are in the journal");
    stack.wait_until_idle().await;
    (peaks, took)
}

/// Readers that hold a connection each and read almost nothing from it.
async fn stall(stack: &Stack, id: &str, body: &str, readers: &mut JoinSet<()>) {
    let port = stack.ports()[Service::Claude];
    let head = format!(
        "Host: localhost:{port}\r\nContent-Type: application/json\r\nX-Job-Id: {id}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut one = connect(port).await;
    one.write_all(format!("POST /api/execute HTTP/1.1\r\n{head}").as_bytes()).await.unwrap();
    let job = JobDirectory::of(stack.workspace(), id);
    wait_for("the job", Duration::from_secs(60), || async { job.has("claim").then_some(()) }).await;
    readers.spawn(async move {
        let mut byte = [0];
        while one.read_exact(&mut byte).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    for _ in 0..2 {
        let mut silent = connect(port).await;
        let events =
            format!("GET /api/jobs/{id}/events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
        silent.write_all(events.as_bytes()).await.unwrap();
        readers.spawn(async move {
            let _held = silent;
            std::future::pending::<()>().await;
        });
    }
}

/// With a small receive buffer, so that little fits into it.
async fn connect(port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(([127, 0, 0, 1], port).into()).await.unwrap()
}

fn peaks(stack: &Stack) -> Peaks {
    let mut peaks = Peaks::new();
    let up = ("stackctl up".to_owned(), peak_kb(stack.pid()));
    let parts = ["gateway", "claude-code-api"].into_iter().flat_map(|part| {
        stack.processes_of(part).into_iter().map(move |pid| (part.to_owned(), peak_kb(pid)))
    });
    for (part, peak) in parts.chain([up]) {
        let most = peaks.entry(part).or_default();
        *most = peak.unwrap_or_default().max(*most);
    }
    peaks
}
