use std::{fs, path::PathBuf};

use serde_json::Value;

use super::*;
use crate::{
    dialect::{Kind, Message},
    runner::{Lines, MAX_LINE},
};

fn recordings() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/claude-cli")
}

/// The evidence of a recorded run.
fn recorded(case: &str) -> Evidence {
    let meta = fs::read(recordings().join(format!("{case}.meta.json"))).unwrap();
    let meta: Value = serde_json::from_slice(&meta).unwrap();
    let code = meta["exit_code"].as_i64().and_then(|code| i32::try_from(code).ok()).unwrap();
    // Encoded as for wait(2): a signal in the low bits, or an exit code above them.
    let status = ExitStatus::from_raw(if code < 0 { -code } else { code << 8 });
    let mut lines = Lines::new(MAX_LINE);
    *lines.buffer() = fs::read(recordings().join(format!("{case}.ndjson"))).unwrap();
    let mut evidence = Evidence {
        session: SessionId::new(),
        result: None,
        began: false,
        api_usage: ApiUsage::new(),
        exit: AgentExit::Own(status),
        stderr: meta["stderr"].as_str().unwrap_or_default().to_owned(),
    };
    for kind in kinds(lines) {
        match kind {
            Kind::Begun => evidence.began = true,
            Kind::Report(result) => evidence.result = Some(*result),
            _ => {}
        }
    }
    evidence
}

/// What the messages mean, an unterminated last one included.
fn kinds(mut lines: Lines) -> Vec<Kind<RunResult>> {
    let mut kinds = Vec::new();
    while let Some(line) = lines.next() {
        kinds.extend(Message::read(line).map(|message| message.kind));
    }
    kinds.extend(lines.last().and_then(Message::read).map(|message| message.kind));
    kinds
}

/// The verdict on every recording that is not a plain success.
const VERDICTS: &[(&str, Code, &str)] = &[
    ("auth-bare-oauth-env", Code::AgentApiError, "no valid credential"),
    ("auth-file-badjson", Code::AgentApiError, "no valid credential"),
    ("auth-file-noscopes", Code::AgentApiError, "no valid credential"),
    ("auth-none", Code::AgentApiError, "no valid credential"),
    ("auth-oauth-env-401", Code::AgentApiError, "answered 401: check the credential"),
    ("auth-oauth-env-429u", Code::AgentApiError, "answered 429: the account's limit"),
    ("auth-oauth-file-401", Code::AgentApiError, "answered 401: check the credential"),
    ("badjson", Code::AgentApiError, "did not give a usable answer"),
    ("close", Code::AgentApiError, "cannot be reached"),
    ("close-retries2", Code::AgentApiError, "cannot be reached"),
    ("error-400", Code::AgentApiError, "answered 400"),
    ("error-401", Code::AgentApiError, "answered 401: check the credential"),
    ("error-401-retries0", Code::AgentApiError, "answered 401: check the credential"),
    ("error-401-retries2", Code::AgentApiError, "answered 401: check the credential"),
    ("error-401-x-should-retry-false", Code::AgentApiError, "answered 401"),
    ("error-403", Code::AgentApiError, "answered 403"),
    ("error-404", Code::AgentApiError, "answered 404: check the model's name"),
    ("error-413", Code::AgentApiError, "answered 413"),
    ("error-429", Code::AgentApiError, "answered 429"),
    ("error-429-unified", Code::AgentApiError, "answered 429"),
    ("error-500", Code::AgentApiError, "answered 500"),
    ("error-500-retries2", Code::AgentApiError, "answered 500"),
    ("error-529", Code::AgentApiError, "answered 529: it is overloaded"),
    ("error-credit", Code::AgentApiError, "Credit balance is too low"),
    ("error-toolong", Code::AgentApiError, "Prompt is too long"),
    ("hang-60s-killed", Code::AgentFailed, "killed by signal 9"),
    ("hang-apitimeout5s", Code::AgentApiError, "did not answer in time"),
    ("max-budget", Code::BudgetExceeded, "maxBudgetUsd"),
    ("max-tokens", Code::AgentApiError, "exceeded the 64000 output token maximum"),
    ("max-turns", Code::MaxTurns, "maxTurns"),
    ("no-output-exit0-bad-tmpdir", Code::AgentNoResult, "without a result"),
    ("refusal", Code::AgentApiError, "unable to respond to this request"),
    ("resume-not-found", Code::SessionNotFound, "there is no session"),
    ("root-dangerously-skip-refused", Code::AgentRefusesRoot, "IS_SANDBOX=1"),
    ("session-id-in-use", Code::AgentFailed, "is already in use"),
    ("sigint-during-bash", Code::AgentFailed, "the agent failed"),
    ("sigint-during-stream", Code::AgentFailed, "the agent failed"),
    ("sigint-hang-exit0-no-result", Code::AgentNoResult, "without a result"),
    ("sigkill-during-bash", Code::AgentFailed, "killed by signal 9"),
    ("sigterm-during-bash", Code::AgentFailed, "code 143"),
    ("sigterm-during-stream", Code::AgentFailed, "code 143"),
    ("sjin-interrupt", Code::AgentFailed, "the agent failed"),
    ("sjin-interrupt-bash", Code::AgentFailed, "the agent failed"),
    ("sjin-interrupt-hang", Code::AgentFailed, "the agent failed"),
    ("sjin-interrupt-stream", Code::AgentFailed, "the agent failed"),
    ("stall-idle5s", Code::AgentFailed, "killed by signal 9"),
];

#[test]
fn every_recording_gets_its_verdict() {
    let mut seen = 0;
    for entry in fs::read_dir(recordings()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(case) = name.strip_suffix(".meta.json") else { continue };
        if case == "truncated-slow-reader" {
            continue; // // has its own test: its recording does not say how it exited
        }
        seen += 1;
        let ending = recorded(case).verdict(None).ending();
        let verdict = VERDICTS.iter().find(|(name, ..)| *name == case);
        assert_eq!(ending.code, verdict.map(|(_, code, _)| *code), "{case}: {:?}", ending.error);
        if let (Some((.., part)), Some(error)) = (verdict, &ending.error) {
            assert!(error.contains(part), "{case}: {error}");
            assert!(!error.contains('\n') && error.chars().count() < 800, "{case}: {error}");
        }
    }
    assert!(seen >= 20, "only {seen} recordings found");
}

#[test]
fn a_success_reports_all_that_is_known() {
    let evidence = recorded("recommended-first");
    let session = evidence.session;
    let ending = evidence.verdict(None).ending();
    let event: Value = ending.event.peek().unwrap();
    assert_eq!(ending.code, None);
    assert_eq!(event["type"], "completed");
    assert_eq!(event["result"], "Done: wrote hello.txt.");
    assert_eq!((&event["numTurns"], &event["durationMs"]), (&2.into(), &134.into()));
    assert!(event["costUsd"].as_f64().unwrap() > 0.009);
    assert_eq!(event["usage"]["output_tokens"], 100);
    assert_eq!(event["sessionId"], session.to_string(), "the session it was given");
}

#[test]
fn a_failure_reports_it_too() {
    let event: Value = recorded("max-turns").verdict(None).ending().event.peek().unwrap();
    assert_eq!((&event["type"], &event["code"]), (&"error".into(), &"max_turns".into()));
    assert_eq!((&event["numTurns"], event["costUsd"].is_number()), (&4.into(), true));
}

#[test]
fn of_several_results_the_last_counts() {
    let event: Value = recorded("sjin-background").verdict(None).ending().event.peek().unwrap();
    assert_eq!(event["result"], "turn 2");
}

#[test]
fn a_truncated_line_is_not_a_result() {
    let mut evidence = recorded("recommended-first");
    let recording = fs::read(recordings().join("recommended-first.ndjson")).unwrap();
    let at = memchr::memmem::find(&recording, br#"{"type":"result""#).unwrap();
    let mut lines = Lines::new(MAX_LINE);
    lines.buffer().extend_from_slice(&recording[..at + 200]);
    assert!(!kinds(lines).iter().any(|kind| matches!(kind, Kind::Report(_))));
    evidence.result = None;
    assert_eq!(evidence.verdict(None).ending().code, Some(Code::AgentNoResult));
}

#[test]
fn success_requires_both_exit_and_result() {
    let with = |exit, is_error| {
        let mut evidence = recorded("recommended-first");
        evidence.exit = exit;
        evidence.result.as_mut().unwrap().is_error = is_error;
        evidence.verdict(None).ending().code
    };
    let exited = |code: i32| AgentExit::Own(ExitStatus::from_raw(code << 8));
    assert_eq!(with(exited(0), Some(false)), None);
    assert_eq!(with(AgentExit::Forced, Some(false)), None);
    assert_eq!(with(exited(1), Some(false)), Some(Code::AgentFailed));
    assert_eq!(with(exited(0), Some(true)), Some(Code::AgentFailed));
    assert_eq!(with(AgentExit::Forced, Some(true)), Some(Code::AgentFailed));
    assert_eq!(with(exited(0), None), Some(Code::AgentFailed));
}

#[test]
fn another_subtype_is_not_a_success_whatever_is_error_says() {
    for (subtype, code, part) in [
        ("error_max_turns", Code::MaxTurns, "maxTurns"),
        ("error_max_budget_usd", Code::BudgetExceeded, "maxBudgetUsd"),
        ("error_during_execution", Code::AgentFailed, "(error_during_execution)"),
        ("error_of_a_kind_to_come", Code::AgentFailed, "(error_of_a_kind_to_come)"),
        ("", Code::AgentFailed, "does not say that it succeeded"),
    ] {
        for is_error in [Some(false), Some(true), None] {
            let mut evidence = recorded("recommended-first");
            let result = evidence.result.as_mut().unwrap();
            (result.is_error, result.subtype) = (is_error, subtype.to_owned());
            let ending = evidence.verdict(None).ending();
            assert_eq!(ending.code, Some(code), "{subtype} {is_error:?}");
            assert!(ending.error.as_ref().unwrap().contains(part), "{:?}", ending.error);
        }
    }
}

#[test]
fn a_missing_interpreter_is_reported_as_a_missing_agent() {
    let evidence = Evidence {
        session: SessionId::new(),
        result: None,
        began: false,
        api_usage: ApiUsage::new(),
        exit: AgentExit::Own(ExitStatus::from_raw(127 << 8)),
        stderr: "/usr/bin/env: 'node': No such file or directory\n".into(),
    };
    let ending = evidence.verdict(None).ending();
    assert_eq!(ending.code, Some(Code::AgentNotFound));
    let error = ending.error.unwrap();
    assert!(error.contains("'node'") && error.contains("npm install"), "{error}");
}

#[test]
fn a_stopped_run_reports_why_and_what_was_known() {
    let stopped = Stopped { code: Code::Cancelled, sentence: "the job was cancelled".into() };
    let ending = recorded("sjin-interrupt-bash").verdict(Some(&stopped)).ending();
    let event: Value = ending.event.peek().unwrap();
    assert_eq!((&event["code"], &event["error"]), (&"cancelled".into(), &stopped.sentence.into()));
    assert!(event["costUsd"].is_number());
}
