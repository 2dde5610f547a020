//! Misbehaving agents, as real processes.

use std::{
    fs,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use claude_code_api::TimeLimits;
use contract::SessionId;
use futures_util::StreamExt as _;
use oneshot::Step;
use serde_json::json;
use testkit::{PATIENCE, is_alive, wait_for};

use crate::bench::{Bench, SECRET};

/// The number in a file that the agent may not have written yet.
fn number(bench: &Bench, file: &str) -> Option<u32> {
    fs::read_to_string(bench.app().join(file)).ok()?.trim().parse().ok()
}

/// Waits without letting go of the thread.
fn block_until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "it did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the CLI does in a successful run.
pub(crate) const GOOD: &str = "prompt; init; result; idle; closed";

#[tokio::test]
async fn a_good_agent_succeeds() {
    let bench =
        Bench::new("prompt; init; echo \"$PROMPT\" > prompt; result; idle; closed; echo >closed")
            .await;
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), None, "{}", outcome.error());
    assert_eq!(
        outcome.kinds(),
        ["session_state_changed", "init", "success", "session_state_changed"]
    );
    let end = &outcome.ending;
    assert_eq!(
        (&end["result"], &end["costUsd"], &end["numTurns"], &end["durationMs"], &end["usage"]),
        (&json!("done"), &json!(0.5), &json!(1), &json!(7), &json!({"output_tokens": 5}))
    );
    let app = bench.app();
    assert_eq!(outcome.connected["workspace"], app.to_str().unwrap());
    assert_eq!(
        (&outcome.connected["resuming"], &outcome.connected["resumedFrom"]),
        (&json!(false), &json!(null))
    );
    let prompt: serde_json::Value = serde_json::from_str(&bench.read("prompt")).unwrap();
    assert_eq!(prompt["message"]["content"], "do it");
    assert!(app.join("closed").exists(), "it was not allowed to exit by itself");
    assert!(
        outcome.took < Duration::from_secs(4),
        "the run waited for something: {:?}",
        outcome.took
    );
}

#[tokio::test]
async fn without_a_workspace_it_gets_a_new_one() {
    let mut bench = Bench::new("").await;
    bench.workspace = None;
    let outcome = bench.run().await;
    let workspace = outcome.connected["workspace"].as_str().unwrap();
    let expected = format!("/jobs/{}/work", outcome.connected["jobId"].as_str().unwrap());
    assert!(workspace.ends_with(&expected) && fs::metadata(workspace).unwrap().is_dir());
    // The new directory contains no script.
    assert_eq!(outcome.code(), Some("agent_failed"));
    assert!(outcome.error().contains("script: No such file"), "{}", outcome.error());
}

#[tokio::test]
async fn a_prompt_with_a_slash_is_not_a_command_and_a_long_one_arrives_whole() {
    let mut bench = Bench::new(&format!("{GOOD}; echo \"$PROMPT\" > prompt")).await;
    for (prompt, content) in
        [("/clear", "\n/clear".to_owned()), (&"x".repeat(1_000_000), "x".repeat(1_000_000))]
    {
        bench.prompt = prompt.to_owned();
        assert_eq!(bench.run().await.code(), None);
        let line: serde_json::Value = serde_json::from_str(&bench.read("prompt")).unwrap();
        assert_eq!(line["message"]["content"], content);
    }
}

#[tokio::test]
async fn arguments_and_environment_are_exact() {
    let bench = Bench::new(&format!(
        "printf '%s\\n' \"$@\" > args; tr '\\0' '\\n' < /proc/$$/environ | sort > env; \
         cat /proc/self/fd/$CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR > key; stat -c %a $HOME/.. > mode; \
         ls -d $HOME $CLAUDE_CONFIG_DIR $TMPDIR > /dev/null && {GOOD}"
    ))
    .await;
    fs::write(bench.app().join("CLAUDE.md"), "use tabs").unwrap();
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), None, "{}", outcome.error());
    let session = outcome.session().to_string();
    let args = bench.read("args").replace(&session, "<session>");
    insta::assert_snapshot!(args, @r"
    -p
    --input-format
    stream-json
    --output-format
    stream-json
    --permission-mode
    bypassPermissions
    --setting-sources

    --append-system-prompt
    # Instructions of this repository (CLAUDE.md)

    use tabs

    --session-id
    <session>
    --verbose
    --strict-mcp-config
    ");
    let env = bench.read("env");
    let names: Vec<_> = env.lines().map(|line| line.split('=').next().unwrap()).collect();
    insta::assert_snapshot!(names.join(" "), @"ANTHROPIC_BASE_URL CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR CLAUDE_CODE_DISABLE_ATTACHMENTS CLAUDE_CODE_DISABLE_AUTO_MEMORY CLAUDE_CODE_DISABLE_BACKGROUND_TASKS CLAUDE_CODE_DISABLE_CRON CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS CLAUDE_CODE_MAX_RETRIES CLAUDE_CODE_TMPDIR CLAUDE_CONFIG_DIR DISABLE_AUTOUPDATER DISABLE_ERROR_REPORTING DISABLE_TELEMETRY HOME IS_SANDBOX LANG PATH TMPDIR");
    assert!(env.contains("ANTHROPIC_BASE_URL=http://127.0.0.1:"));
    assert!(!env.contains(SECRET));
    assert!(bench.read("key").starts_with("job-"));
    assert_eq!(bench.read("mode"), "700");
}

#[tokio::test]
async fn instructions_outside_the_workspace_are_not_read() {
    let bench = Bench::new(&format!("printf '%s\\n' \"$@\" > args; {GOOD}")).await;
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "out-of-bounds").unwrap();
    symlink(outside.path().join("file"), bench.app().join("CLAUDE.md")).unwrap();
    assert_eq!(bench.run().await.code(), None);
    let args = bench.read("args");
    assert!(!args.contains("out-of-bounds") && !args.contains("--append-system-prompt"), "{args}");
}

#[tokio::test]
async fn an_agent_that_does_not_exit_after_its_result_is_killed() {
    let mut bench =
        Bench::new("trap '' TERM; prompt; init; result; idle; while :; do sleep 1; done").await;
    bench.config.time_limits.exit = Duration::from_millis(300);
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), None, "{}", outcome.error());
    assert!(
        outcome.took > Duration::from_millis(1300),
        "SIGKILL came too early: {:?}",
        outcome.took
    );
    assert!(outcome.took < Duration::from_secs(4), "{:?}", outcome.took);
}

#[tokio::test]
async fn an_agent_that_does_not_report_idle_is_ended() {
    let mut bench = Bench::new("prompt; init; result; closed; echo > closed").await;
    bench.config.time_limits.idle = Duration::from_millis(200);
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), None);
    assert!(bench.app().join("closed").exists());
    assert!(outcome.took > Duration::from_millis(200));
}

#[tokio::test]
async fn an_agent_may_continue_after_a_result_and_the_last_one_counts() {
    let second =
        r#"echo '{"type":"result","subtype":"success","is_error":false,"result":"second"}'"#;
    let busy = r#"echo '{"type":"system","subtype":"session_state_changed","state":"running"}'"#;
    // The agent exits when its standard input is closed: `read` returns 1 then, and more on a timeout.
    let mut bench = Bench::new(&format!(
        "prompt; init; result; {busy}; IFS= read -r -t 0.4; [ $? -gt 1 ] || exit; \
         {second}; idle; closed; echo '{{\"type\":\"late\"}}'"
    ))
    .await;
    bench.config.time_limits.idle = Duration::from_millis(100);
    let outcome = bench.run().await;
    assert_eq!(outcome.ending["result"], "second");
    assert_eq!(outcome.kinds().last(), Some(&"late"), "{:?}", outcome.kinds());
}

#[tokio::test]
async fn an_agent_that_closes_its_output_and_stays_is_ended() {
    for (script, code) in [
        ("prompt; init; exec >&-; sleep 300", Some("agent_no_result")),
        ("prompt; init; result; exec >&-; sleep 300", None),
    ] {
        let mut bench = Bench::new(script).await;
        bench.config.time_limits.exit = Duration::from_millis(200);
        let outcome = bench.run().await;
        assert_eq!(outcome.code(), code, "{}", outcome.error());
        assert!(outcome.took < Duration::from_secs(4), "{:?}", outcome.took);
    }
}

#[tokio::test]
async fn an_exit_without_a_result_is_a_failure() {
    for (script, code, part) in [
        ("prompt; init; echo hint >&2", "agent_no_result", "without a result: hint"),
        ("exit 0", "agent_no_result", "without a result"),
        ("prompt; init; echo one >&2; echo two >&2; exit 3", "agent_failed", "code 3: one | two"),
        ("prompt; init; kill -SEGV $$", "agent_failed", "signal 11"),
        (
            "echo \"bad key $(cat /proc/self/fd/$CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR)\" >&2; exit 1",
            "agent_failed",
            "bad key ***",
        ),
        (
            "prompt; init; printf '{\"type\":\"result\",\"is_error\":false'",
            "agent_no_result",
            "without",
        ),
        (
            "prompt; init; result; exit 1",
            "agent_failed",
            "finished its work, but it exited with code 1",
        ),
        ("echo 'node: No such file' >&2; exit 127", "agent_not_found", "npm install -g"),
        (
            "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo last >&2; exit 1",
            "agent_failed",
            "code 1",
        ),
    ] {
        let outcome = Bench::new(script).await.run().await;
        assert_eq!(outcome.code(), Some(code), "{script}: {}", outcome.error());
        assert!(outcome.error().contains(part), "{script}: {}", outcome.error());
        assert!(outcome.error().len() < 2000);
    }
}

#[tokio::test]
async fn an_unterminated_result_line_counts() {
    let outcome = Bench::new("prompt; init; printf %s \"$(result)\"").await.run().await;
    assert_eq!(outcome.code(), None, "{}", outcome.error());
}

#[tokio::test]
async fn an_agent_that_cannot_be_started_is_reported() {
    let mut bench = Bench::new(GOOD).await;
    let file = bench.root.path().join("not-executable");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    for bin in [None, Some("/nonexistent".into()), Some(file), Some(bench.app())] {
        bench.config.claude_bin = bin.clone();
        let outcome = bench.run().await;
        assert_eq!(outcome.code(), Some("agent_not_found"), "{bin:?}: {}", outcome.error());
        assert!(outcome.error().contains("npm install -g @anthropic-ai/claude-code"));
        assert!(outcome.error().contains("CLAUDE_BIN"));
    }
}

#[tokio::test]
async fn root_needs_a_sandbox_to_skip_permissions() {
    let mut bench = Bench::new(&format!("echo > ran; {GOOD}")).await;
    bench.config.isolation.is_sandbox = false;
    let outcome = bench.run().await;
    if nix::unistd::geteuid().is_root() {
        assert_eq!(outcome.code(), Some("agent_refuses_root"));
        assert!(outcome.error().contains("IS_SANDBOX=1"));
        assert!(!bench.app().join("ran").exists(), "it must not start");
    } else {
        assert_eq!(outcome.code(), None);
    }
    bench.options.dangerously_skip_permissions = false;
    assert_eq!(bench.run().await.code(), None);
}

#[tokio::test]
async fn a_missing_workspace_or_session_is_reported() {
    let mut bench = Bench::new(GOOD).await;
    bench.workspace = Some("gone");
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), Some("workspace_gone"), "{}", outcome.error());
    bench.workspace = Some("app");
    let session = SessionId::new();
    bench.options.resume_session_id = Some(session);
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), Some("session_not_found"), "{}", outcome.error());
    assert_eq!(outcome.session(), session);
    assert_eq!(outcome.connected["resuming"], true);
}

#[tokio::test]
async fn invalid_output_is_shown_and_does_no_harm() {
    let bench = Bench::new(
        "prompt; init; printf 'warning: \\xff\\xfe\\n[1]\\n\\n{\"type\":\"x\",\"s\":\"\u{85}\u{2028}\"}\\n'; \
         head -c 1000000000 /dev/zero | tr '\\0' x; echo; result; idle; closed",
    )
    .await;
    let before = resident();
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), None, "{}", outcome.error());
    let unparsed: Vec<_> =
        outcome.messages.iter().filter(|m| m["subtype"] == "unparsed_line").collect();
    assert_eq!(unparsed.len(), 3, "{:?}", outcome.kinds());
    assert_eq!(unparsed[0]["excerpt"], "warning: \u{fffd}\u{fffd}");
    assert_eq!(unparsed[1]["excerpt"], "[1]");
    assert_eq!(
        (&unparsed[2]["reason"], &unparsed[2]["bytes"]),
        (&json!("too long"), &json!(1_000_000_000))
    );
    assert!(outcome.messages.iter().any(|m| m["s"] == "\u{85}\u{2028}"));
    let grown = resident().saturating_sub(before);
    assert!(grown < 60_000, "a line of 1 GB costs {grown} kB");
}

#[tokio::test]
async fn a_million_lines_use_no_memory() {
    let bench = Bench::new(
        "prompt; init; yes '{\"type\":\"assistant\",\"n\":1}' | head -n 1000000; result; idle; closed",
    )
    .await;
    let mut steps = bench.start();
    let (mut lines, mut before, mut most) = (0_u32, 0, 0);
    let mut end = None;
    while let Some(step) = steps.next().await {
        match step {
            Step::Event(_) => lines += 1,
            Step::End(ending) => end = Some(ending),
        }
        if lines == 10_000 {
            before = resident();
        } else if lines % 100_000 == 0 {
            most = most.max(resident());
        }
    }
    assert!(end.unwrap().code.is_none());
    assert_eq!(lines, 1_000_005);
    assert!(most < before + 10_000, "from {before} kB to {most} kB");
}

#[tokio::test]
async fn a_slow_reader_loses_nothing_and_blocks_the_agent() {
    let bench = Bench::new(
        "prompt; init; for i in {1..20}; do head -c 100000 /dev/zero | tr '\\0' x | sed 's/.*/{\"x\":\"&\"}/'; \
         echo; echo $i > written; done; result; idle; closed",
    )
    .await;
    let written = || number(&bench, "written");
    let mut steps = bench.start();
    let mut events = 0;
    while let Some(step) = steps.next().await {
        events += 1;
        if events == 8 {
            wait_for("the agent's first line", PATIENCE, || async { written() }).await;
            // With no reader, the agent fills its pipe and then blocks. If it did not, it would have
            // written all 20 lines long before this ends.
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(written().is_some_and(|lines| lines <= 8), "{:?}", written());
        }
        if let Step::End(ending) = step {
            assert_eq!(ending.code, None);
        }
    }
    assert_eq!(events, 26);
    assert_eq!(written(), Some(20));
}

#[tokio::test]
async fn a_late_reader_of_an_exited_agent_loses_nothing() {
    // More than one read, and all of it in the pipe when the agent exits.
    let mut bench = Bench::new(
        "prompt; for i in {1..6}; do head -c 20000 /dev/zero | tr '\\0' x | sed 's/.*/{\"x\":\"&\"}/'; \
         echo; done; result",
    )
    .await;
    bench.config.time_limits.cleanup = Duration::from_millis(50);
    let mut steps = bench.start();
    let mut events = 0;
    while let Some(step) = steps.next().await {
        events += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let Step::End(ending) = step {
            assert_eq!(ending.code, None, "{:?}", ending.error);
        }
    }
    assert_eq!(events, 9);
}

#[tokio::test]
async fn a_starved_replica_loses_nothing_of_an_exited_agent() {
    // All its output, which is more than one read, is in the pipe when it exits (1031: F_SETPIPE_SZ).
    let lines = r#"fcntl(STDOUT, 1031, 1 << 20) or die; $| = 1;
        for (1..5000) { print q({"type":"assistant","x":"), q(x) x 80, qq("}\n) }"#;
    let mut bench = Bench::new(&format!(
        "prompt; init; echo $$ > pid; perl -e '{lines}'; result; printf '{{\"type\":\"last\"}}'; echo last words >&2"
        ))
    .await;
    // The deadline passes as soon as the exit is noticed, as if this process had not run for long.
    bench.config.time_limits.cleanup = Duration::ZERO;
    let mut steps = bench.start();
    let mut last = None;
    let mut events = 0;
    while let Some(step) = steps.next().await {
        events += 1;
        if events == 2 {
            // This blocks the only thread of the runtime, so nothing is read until the agent is gone.
            let agent = block_until(|| number(&bench, "pid"));
            block_until(|| (!is_alive(agent)).then_some(()));
        }
        match step {
            Step::Event(line) => last = Some(line.peek::<serde_json::Value>().unwrap()),
            Step::End(ending) => assert_eq!(ending.code, None, "{:?}", ending.error),
        }
    }
    assert_eq!(
        events, 5006,
        "connected, two first messages, 5000, the result, the last line, the end"
    );
    assert_eq!(last.unwrap()["content"]["type"], "last");
}

#[tokio::test]
async fn a_fork_bomb_is_limited_and_ended() {
    // The first process that cannot fork any more says so.
    let storm = "use POSIX; use Fcntl; $SIG{CHLD} = q(IGNORE); my $told; while (1) { my $pid = fork(); \
        if (!defined $pid) { $told++ or sysopen(my $full, q(full), O_WRONLY) && syswrite($full, qq(\n)) } \
        elsif (!$pid) { POSIX::setsid() } }";
    let mut bench = Bench::new(&format!(
        "prompt; init; mkfifo full; exec 3<>full; (setsid perl -e '{storm}' > /dev/null 2>&1 &); \
         read -t 5 -u 3; echo '{{\"type\":\"go\"}}'; exec sleep 300"
    ))
    .await;
    bench.config.processes = 200;
    let bounds = child_process::JobBounds::new(200);
    let is_bounded = matches!(
        bounds.limited_by(),
        child_process::LimitedBy::Cgroup | child_process::LimitedBy::UserLimit
    );
    drop(bounds);
    if !is_bounded {
        return testkit::skip(
            "a_job_that_forks_without_end",
            "nothing can limit a job's processes on this machine",
        );
    }
    let below = || testkit::descendants(std::process::id()).len();
    let most = std::cell::Cell::new(0);
    let asked = std::cell::Cell::new(None);
    let outcome = bench
        .run_with(|message| {
            if message["type"] == "go" {
                most.set(below());
                asked.set(Some(Instant::now()));
                bench.stop.request(oneshot::StopReason::Cancelled);
            }
        })
        .await;
    assert_eq!(outcome.code(), Some("cancelled"), "{}", outcome.error());
    assert!((100..=200).contains(&most.get()), "{} at once", most.get());
    let took = asked.get().expect("the agent started").elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(below(), 0, "processes or zombies remain");
}

#[tokio::test]
async fn a_lost_conversation_is_an_error() {
    // As the CLI does: one file per session, in the directory of its project.
    let said = "echo '{\"type\":\"assistant\"}'; D=$CLAUDE_CONFIG_DIR/projects/*; \
        for A; do [ \"$P\" = --session-id ] || [ \"$P\" = --resume ] && ID=$A; P=$A; done; \
        echo '{\"type\":\"user\"}' >> $(echo $D)/$ID.jsonl";
    let mut bench = Bench::new(&format!("prompt; init; {said}; result; idle; closed")).await;
    let first = bench.run().await;
    assert_eq!(first.code(), None, "{}", first.error());
    bench.options.resume_session_id = Some(first.session());
    assert_eq!(bench.run().await.code(), None, "it continues");
    let session = workspace::Session::open(&bench.volume(), first.session())
        .unwrap()
        .expect("the session exists");
    let transcript = session.project().join(format!("{}.jsonl", first.session()));
    assert_eq!(fs::read_to_string(&transcript).unwrap().lines().count(), 2);
    for (damaged, code) in [
        (Some(vec![]), "session_damaged"),
        (Some(vec![0; 4096]), "session_damaged"),
        (None, "session_not_found"),
    ] {
        match &damaged {
            Some(bytes) => fs::write(&transcript, bytes).unwrap(),
            None => fs::remove_file(&transcript).unwrap(),
        }
        let outcome = bench.run().await;
        assert_eq!(outcome.code(), Some(code), "{}", outcome.error());
        assert!(outcome.messages.is_empty(), "no agent ran");
        assert_eq!(fs::read(&transcript).ok(), damaged, "the file was changed");
    }
}

#[tokio::test]
async fn a_flooding_descendant_does_not_delay_the_end() {
    let flood = r#"while ! [ -e go ]; do sleep 0.01; done; exec yes "{\"type\":\"flood\"}""#;
    let bench = Bench::new(&format!(
        "(setsid bash -c '{flood}' &); prompt; init; result; idle; closed; touch go; sleep 0.2"
    ))
    .await;
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), None, "{}", outcome.error());
    assert!(outcome.kinds().contains(&"flood"));
    assert!(outcome.took < Duration::from_secs(3), "{:?}", outcome.took);
}

#[tokio::test]
async fn background_processes_are_killed_after_a_success() {
    let bench = Bench::new(&format!(
        "prompt; setsid nohup bash -c 'echo $$ > daemon; sleep 300' & (setsid sleep 300 &) ; \
         while ! [ -s daemon ]; do sleep 0.01; done; init; result; idle; closed; {}",
        "(exec sleep 300) &" // keeps the pipes open
    ))
    .await;
    // `run` checks that no process is left. The run must not have waited for them.
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), None, "{}", outcome.error());
    assert!(!is_alive(bench.read("daemon").parse().unwrap()));
    assert!(outcome.took < Duration::from_secs(3), "{:?}", outcome.took);
}

#[tokio::test]
async fn silence_ends_the_run() {
    let mut bench =
        Bench::new("prompt; init; for i in 1 2 3; do sleep 0.3; echo . >&2; done; sleep 300").await;
    bench.config.time_limits =
        TimeLimits { silence: Duration::from_millis(600), ..TimeLimits::default() };
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), Some("silence"));
    assert!(outcome.error().contains("SILENCE_TIMEOUT_SECONDS"), "{}", outcome.error());
    assert!(
        outcome.took > Duration::from_millis(1500),
        "output on stderr counts too: {:?}",
        outcome.took
    );
}

/// Resident memory of this process, in kB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
