//! Agents that do not want to end, and every reason to end them.

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{
    caller::Caller,
    kill::sentence,
    outcomes::agents,
    report::Report,
    strike::{SOON, has_lease_of},
    volume::JobDirectory,
};
use crate::{AgentScript, Stack, descendants, http_json, is_alive, wait_for};

/// After which time a deadline or a silence ends a job here.
const LIMIT: Duration = Duration::from_secs(2);

/// How long an agent may take to begin. It matters only when a promise is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a job is ended before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Cancel,
    Deadline,
    Silence,
    /// SIGTERM to its replica, twice: once lets it finish.
    Terminate,
}

impl Reason {
    fn code(self) -> &'static str {
        match self {
            Self::Cancel => "cancelled",
            Self::Deadline => "deadline",
            Self::Silence => "silence",
            Self::Terminate => "terminated",
        }
    }
}

/// What the agent does about it. Each has a process in a session of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It does as it is told.
    Obedient,
    /// Neither an interrupt nor a signal moves it, and it says nothing.
    Deaf,
    /// Nor this one, and it talks on.
    DeafAndLoud,
}

/// The campaign; it has one size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stops;

impl Stops {
    /// Runs it.
    ///
    /// # Panics
    /// If a stack cannot be started.
    pub async fn run(self) -> Report {
        let mut report = Report::new("stops", None);
        let reasons = [Reason::Cancel, Reason::Deadline, Reason::Silence, Reason::Terminate];
        let manners = [Manner::Obedient, Manner::Deaf, Manner::DeafAndLoud];
        let pairs = reasons.into_iter().flat_map(|reason| manners.map(|manner| (reason, manner)));
        // Who talks is not silent.
        let pairs: Vec<_> =
            pairs.filter(|pair| *pair != (Reason::Silence, Manner::DeafAndLoud)).collect();
        let stack = Stack::builder()
            .replicas(1, 1, pairs.len())
            .env("LOG_LEVEL", "warn")
            .env("SILENCE_TIMEOUT_SECONDS", LIMIT.as_secs().to_string())
            .start()
            .await;
        let stack = std::sync::Arc::new(stack);
        let mut stops = JoinSet::new();
        for (reason, manner) in pairs {
            let stack = std::sync::Arc::clone(&stack);
            stops.spawn(async move { stop(&stack, reason, manner).await });
        }
        let mut times = Vec::new();
        while let Some(one) = stops.join_next().await {
            match one.map_err(sentence) {
                Ok((what, time, left)) => {
                    report.demand(time < SOON && left.is_empty(), || {
                        format!("{what}: {left:?} are left of it after {time:?}")
                    });
                    report.figure(what, format!("all gone after {:.1} s", time.as_secs_f64()));
                    times.push(time);
                }
                Err(broken) => report.break_promise(broken),
            }
        }
        report.times("from the reason until all is gone", &mut times);
        stack.wait_until_idle().await;
        let left = agents(&stack);
        report.demand(left.is_empty(), || format!("{left:?} are left"));
        report
    }
}

/// One job that is ended: what it was, how long it took until all of it was gone, and what is left.
async fn stop(stack: &Stack, reason: Reason, manner: Manner) -> (String, Duration, Vec<u32>) {
    let what = format!("{reason:?}, {manner:?}");
    let marks = TempDir::new().unwrap();
    let began = marks.path().join("began");
    let script = AgentScript::new().spawn_in_new_session(&["sleep", "300"]);
    // Who is silent is never silent before it has begun.
    let script = match manner {
        Manner::Obedient => keep_talking(script.touch(&began), reason).hang(),
        Manner::Deaf => {
            let script = script.ignore_signals().ignore_interrupt().touch(&began);
            keep_talking(script, reason).hang()
        }
        Manner::DeafAndLoud => {
            let mut script = script.ignore_signals().ignore_interrupt().touch(&began);
            for _ in 0..1500 {
                script = script.flood(5, 100).sleep_ms(10);
            }
            script
        }
    };
    let mut caller = Caller::execute(stack, &script);
    if reason == Reason::Deadline {
        caller = caller.with("timeoutSeconds", LIMIT.as_secs());
    }
    let job = JobDirectory::of(stack.workspace(), &caller.id);
    let cancel = format!("{}/api/jobs/{}/cancel", stack.claude_url(), caller.id);
    let reading = tokio::spawn(async move { caller.read().await });
    wait_for(&format!("{what}: the agent"), PATIENCE, || async { began.exists().then_some(()) })
        .await;
    let replica = stack
        .processes_of("claude-code-api")
        .into_iter()
        .find(|&pid| has_lease_of(stack.workspace(), pid, &job))
        .expect("a replica runs the job");
    let mut all: Vec<_> = descendants(replica).iter().map(|process| process.pid).collect();
    assert!(all.len() >= 2, "{what}: an agent and its child: {all:?}");
    all.push(replica);

    let mut asked = Instant::now();
    match reason {
        Reason::Cancel => {
            let (status, _, body) = http_json("POST", &cancel, None, &[]).await;
            assert_eq!(status, 202, "{what}: {body}");
        }
        // From now on at the latest.
        Reason::Deadline | Reason::Silence => asked += LIMIT,
        Reason::Terminate => {
            let replica = Pid::from_raw(replica.cast_signed());
            kill(replica, Signal::SIGTERM).unwrap();
            // One that is seen at all is seen apart from the next: signals of a kind that wait are one.
            wait_for("the first SIGTERM to be taken", PATIENCE, || async {
                (!is_pending(replica.as_raw(), Signal::SIGTERM)).then_some(())
            })
            .await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            asked = Instant::now();
            kill(replica, Signal::SIGTERM).unwrap();
        }
    }
    let read = reading.await.unwrap();
    assert_eq!(read.end, reason.code(), "{what}");
    while all.iter().any(|&pid| is_alive(pid)) && asked.elapsed() < 2 * SOON {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let time = asked.elapsed();
    all.retain(|&pid| is_alive(pid));
    (what, time, all)
}

/// For as long as another reason than silence is to be met.
fn keep_talking(mut script: AgentScript, reason: Reason) -> AgentScript {
    if reason != Reason::Silence {
        for _ in 0..100 {
            script = script.flood(1, 10).sleep_ms(100);
        }
    }
    script
}

/// Whether a signal to the process has not yet been delivered.
fn is_pending(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let mask = pending.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << (signal as i32 - 1)) != 0
}
