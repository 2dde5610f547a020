//! The stack on a real Docker engine, deployed with the real script.
//!
//! This is one test, because its setup takes minutes: an engine in a network namespace of its own
//! (so that it interferes with neither a running engine nor its ports), base images if no registry
//! answers, the four images, and a swarm. The cases run one after the other on the same stack, and
//! a case that fails does not stop the others.
//!
//! It runs as root with `SWARM_TESTS=1` or `FORBID_SKIPS=1`. The engine's images are kept in the
//! build directory for the next run; set `SWARM_TEST_DATA` to keep them somewhere else.

mod bench;
mod cases;
mod command;
mod engine;
mod events;
mod forward;
mod images;
mod load;
mod network;

use std::{sync::Arc, time::Instant};

use bench::Bench;
use command::say;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stack_on_a_real_engine() {
    if let Some(why) = engine::why_not() {
        testkit::skip("the_stack_on_a_real_engine", &why);
        return;
    }
    let bench = Arc::new(Bench::set_up().await);
    let mut failed = Vec::new();
    // Each case starts with the stack in its default state: 5, 3 and 3 replicas, idle, with the
    // scripted agent.
    macro_rules! run {
        ($($case:ident)*) => {$(
            let name = stringify!($case);
            if is_selected(name) {
                let started = Instant::now();
                // In a task, so that a case that panics does not stop the others.
                let done = tokio::spawn(cases::$case(Arc::clone(&bench))).await;
                let took = started.elapsed();
                match done {
                    Ok(()) => say(&format!("{name}: ok after {took:.1?}")),
                    Err(error) => {
                        say(&format!("{name}: FAILED after {took:.1?}: {}", panic_message(error)));
                        bench.show_state();
                        failed.push(name);
                    }
                }
            }
        )*};
    }
    run! {
        images_are_small_and_labelled
        deploying_again_changes_nothing
        ten_at_once
        sixty_unequal_ones
        secrets_are_where_they_belong
        an_agent_does_not_reach_the_stack
        what_a_killed_container_has_left_is_used_again
        health_checks_stay_green_through_a_busy_minute
        operators_commands
        scaled_up_and_down_under_load
        containers_and_the_gateway_killed_at_random
        updated_under_load
        the_real_cli
        a_credential_is_rotated
        taken_away
        the_agent_service_alone
        one_engine_without_swarm
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// Why a case failed. Its own output is held back until all cases are done.
fn panic_message(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "it was stopped".into() };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no text").to_owned()
}

/// Whether to run a case: all of them, or those in `SWARM_TEST_CASES`.
fn is_selected(case: &str) -> bool {
    std::env::var("SWARM_TEST_CASES")
        .map_or(true, |cases| cases.split(',').any(|name| name == case))
}
