//! Stopping agents that resist, and everything they started.

use std::{
    fs,
    time::{Duration, Instant},
};

use claude_code_api::TimeLimits;
use futures_util::StreamExt as _;
use oneshot::StopReason;
use testkit::{descendants, wait_for};

use crate::bench::{Bench, Outcome};

fn short() -> TimeLimits {
    let short = Duration::from_millis(100);
    TimeLimits { interrupt: short, leave: short, terminate: short, ..TimeLimits::default() }
}

/// Requests a stop once the agent has started.
async fn stopped(bench: &Bench, reason: StopReason) -> (Outcome, Duration) {
    let asked = std::cell::Cell::new(None);
    let outcome = bench
        .run_with(|message| {
            if message["type"] == "go" {
                asked.set(Some(Instant::now()));
                bench.stop.request(reason);
            }
        })
        .await;
    (outcome, asked.get().expect("the agent started").elapsed())
}

#[tokio::test]
async fn on_a_stop_it_may_finish_its_output() {
    let bench = Bench::new(
        r#"prompt; init; echo '{"type":"go"}'; IFS= read -r LINE; echo "$LINE" > control
        echo '{"type":"control_response"}'
        echo '{"type":"result","subtype":"error_during_execution","is_error":true,"total_cost_usd":0.25}'
        closed; echo > closed; exit 1"#,
    )
    .await;
    let (outcome, took) = stopped(&bench, StopReason::Cancelled).await;
    assert_eq!(outcome.code(), Some("cancelled"));
    assert_eq!(outcome.error(), StopReason::Cancelled.sentence());
    assert_eq!(outcome.ending["costUsd"], 0.25);
    assert_eq!(outcome.kinds()[3..], ["control_response", "error_during_execution"]);
    let control: serde_json::Value = serde_json::from_str(&bench.read("control")).unwrap();
    assert_eq!(control["request"]["subtype"], "interrupt");
    assert!(bench.app().join("closed").exists());
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_stop_ends_everything_within_five_seconds() {
    for script in [
        "trap '' TERM INT HUP; setsid bash -c \"trap '' TERM; sleep 300\" & (setsid sleep 300 &)\n\
         prompt; init; echo '{\"type\":\"go\"}'; while :; do sleep 300; done",
        // Floods its output and reads nothing.
        "trap '' TERM; prompt; echo '{\"type\":\"go\"}'; while :; do echo '{\"type\":\"flood\"}'; done",
        // Does not read its prompt.
        "trap '' TERM; echo '{\"type\":\"go\"}'; sleep 300; sleep 300; sleep 300",
        // Closes all its standard streams.
        "trap '' TERM; echo '{\"type\":\"go\"}'; exec <&- >&- 2>&-; while :; do sleep 300; done",
    ] {
        let mut bench = Bench::new(script).await;
        bench.prompt = "x".repeat(500_000);
        let (outcome, took) = stopped(&bench, StopReason::Deadline).await;
        assert_eq!(outcome.code(), Some("deadline"), "{script}");
        assert!(took < Duration::from_secs(5), "{took:?}: {script}");
    }
}

#[tokio::test]
async fn the_strongest_reason_is_reported() {
    let mut bench = Bench::new("trap '' TERM; prompt; echo '{\"type\":\"go\"}'; sleep 300").await;
    bench.config.time_limits = short();
    let stop = bench.stop.clone();
    let outcome = bench
        .run_with(|_| {
            stop.request(StopReason::Cancelled);
            stop.request(StopReason::Terminated);
        })
        .await;
    assert_eq!(outcome.code(), Some("terminated"));
}

#[tokio::test]
async fn a_stop_after_the_result_does_not_undo_it() {
    let mut bench =
        Bench::new("trap '' TERM; prompt; init; result; echo '{\"type\":\"go\"}'; sleep 300").await;
    bench.config.time_limits = short();
    let (outcome, took) = stopped(&bench, StopReason::Cancelled).await;
    assert_eq!(outcome.code(), None, "{}", outcome.error());
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_stop_before_the_start_also_ends_it() {
    let bench = Bench::new("prompt; init; sleep 300").await;
    bench.stop.request(StopReason::Cancelled);
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), Some("cancelled"));
    assert!(outcome.took < Duration::from_secs(5));
}

#[tokio::test]
async fn dropping_the_stream_kills_everything() {
    let bench = Bench::new(
        "trap '' TERM; prompt; (setsid sleep 300 &); echo \"$HOME\" > home; init; sleep 300",
    )
    .await;
    let mut steps = bench.start();
    for _ in 0..3 {
        assert!(steps.next().await.is_some());
    }
    let home = bench.read("home");
    assert!(fs::metadata(&home).is_ok());
    let all_there = || async { (descendants(std::process::id()).len() >= 3).then_some(()) };
    wait_for("the agent and both sleepers", Duration::from_secs(5), all_there).await;
    drop(steps);
    let living = || descendants(std::process::id()).iter().filter(|p| p.state != 'Z').count();
    assert_eq!(living(), 0, "the drop did not wait for them to die");
    let is_gone = || async { fs::metadata(&home).is_err().then_some(()) };
    wait_for("the home to be removed", Duration::from_secs(5), is_gone).await;
    // Tokio reaps the agent itself.
    let none_left = || async { descendants(std::process::id()).is_empty().then_some(()) };
    wait_for("the zombie to be reaped", Duration::from_secs(5), none_left).await;
}
