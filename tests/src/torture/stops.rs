//! Agents that refuse to exit, and every reason to stop them.

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::task::JoinSet;

use super::{
    caller::Caller,
    kill::sentence,
    report::Report,
    strike::{SOON, has_lease_of},
    volume::JobDirectory,
};
use crate::{AgentScript, Stack, descendants, http_json, is_alive, wait_for};

/// The deadline and the silence timeout in this campaign.
const LIMIT: Duration = Duration::from_secs(2);

/// How long an agent may take to start. It matters only if a guarantee is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a job is stopped early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Cancel,
    Deadline,
    Silence,
    /// SIGTERM to its replica, twice: the first one would let the job finish.
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

/// How the agent reacts. Each agent has a process in a session of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    /// It obeys.
    Obedient,
    /// It ignores interrupts and signals, and prints nothing.
    Ignoring,
    /// It ignores them too, and keeps printing.
    IgnoringAndPrinting,
}

/// The campaign; it has only one size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stops;

impl Stops {
    /// Runs the campaign.
    ///
    /// # Panics
    /// If a stack cannot be started.
    pub async fn run(self) -> Report {
        let mut report = Report::new("stops", None);
        let reasons = [Reason::Cancel, Reason::Deadline, Reason::Silence, Reason::Terminate];
        let reactions = [Reaction::Obedient, Reaction::Ignoring, Reaction::IgnoringAndPrinting];
        let pairs =
            reasons.into_iter().flat_map(|reason| reactions.map(|reaction| (reason, reaction)));
        // An agent that keeps printing is never silent.
        let pairs: Vec<_> = pairs
            .filter(|pair| *pair != (Reason::Silence, Reaction::IgnoringAndPrinting))
            .collect();
        let stack = Stack::builder()
            .replicas(1, 1, pairs.len())
            .env("LOG_LEVEL", "warn")
            .env("SILENCE_TIMEOUT_SECONDS", LIMIT.as_secs().to_string())
            .start()
            .await;
        let stack = std::sync::Arc::new(stack);
        let mut stops = JoinSet::new();
        for (reason, reaction) in pairs {
            let stack = std::sync::Arc::clone(&stack);
            stops.spawn(async move { stop(&stack, reason, reaction).await });
        }
        let mut times = Vec::new();
        while let Some(one) = stops.join_next().await {
            match one.map_err(sentence) {
                Ok((what, time, left)) => {
                    report.check(time < SOON && left.is_empty(), || {
                        format!("{what}: processes left after {time:?}: {left:?}")
                    });
                    report.figure(what, format!("all gone after {:.1} s", time.as_secs_f64()));
                    times.push(time);
                }
                Err(broken) => report.violate(broken),
            }
        }
        report.times("until all processes are gone", &mut times);
        stack.wait_until_idle().await;
        let left = stack.agents();
        report.check(left.is_empty(), || format!("processes left: {left:?}"));
        report
    }
}

/// Stops one job. Returns what it was, how long it took until all of its processes were gone, and
/// what is left.
async fn stop(stack: &Stack, reason: Reason, reaction: Reaction) -> (String, Duration, Vec<u32>) {
    let what = format!("{reason:?}, {reaction:?}");
    let marks = crate::scratch();
    let began = marks.path().join("began");
    let script = AgentScript::new().spawn_in_new_session(&["sleep", "300"]);
    // The silence timeout starts when the agent does, so there is nothing to wait for.
    let script = match reaction {
        Reaction::Obedient => keep_talking(script.touch(&began), reason).hang(),
        Reaction::Ignoring => {
            let script = script.ignore_signals().ignore_interrupt().touch(&began);
            keep_talking(script, reason).hang()
        }
        Reaction::IgnoringAndPrinting => {
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
    assert!(all.len() >= 2, "{what}: the agent or its child is missing: {all:?}");
    all.push(replica);

    let mut asked = Instant::now();
    match reason {
        Reason::Cancel => {
            let (status, _, body) = http_json("POST", &cancel, None, &[]).await;
            assert_eq!(status, 202, "{what}: {body}");
        }
        // The limit counts from the agent's start, which is now at the latest.
        Reason::Deadline | Reason::Silence => asked += LIMIT,
        Reason::Terminate => {
            let replica = Pid::from_raw(replica.cast_signed());
            kill(replica, Signal::SIGTERM).unwrap();
            // Wait until the first signal has been delivered: two pending signals of the same kind
            // count as one.
            wait_for("the first SIGTERM to be delivered", PATIENCE, || async {
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

/// How long the agent keeps printing, so that the reason is not its silence.
fn keep_talking(mut script: AgentScript, reason: Reason) -> AgentScript {
    if reason != Reason::Silence {
        for _ in 0..100 {
            script = script.flood(1, 10).sleep_ms(100);
        }
    }
    script
}

/// Whether a signal to the process is still pending.
fn is_pending(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let mask = pending.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << (signal as i32 - 1)) != 0
}
