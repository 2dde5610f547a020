use contract::Service;
use serde_json::{Value, json};

use super::*;

/// Messages of the real CLI, as it printed them.
macro_rules! recorded {
    ($case:literal) => {
        include_str!(concat!("../../../tests/fixtures/claude-cli/", $case, ".ndjson"))
    };
}

const ID: &str = "019aa001-0000-7000-8000-0123456789ab";
const TARGET: &str = "/workspace/jobs/019aa001-0000-7000-8000-0123456789ab/app";

/// The transcript of these events, an item on each line, with its role.
fn read(service: Service, events: &[Value]) -> String {
    let mut transcript = Transcript::new(service);
    let mut text = String::new();
    for item in events.iter().flat_map(|event| transcript.event(event)) {
        text.push_str(&match item {
            Item::Line(line) => {
                let indent = "  ".repeat(line.indent);
                format!("{:8}|{indent}{}\n", format!("{:?}", line.role), line.text)
            }
            Item::Activity(activity) => format!("{:8}|{activity:?}\n", "~"),
        });
    }
    text
}

fn at(seconds: u8) -> String {
    format!("2026-01-31T12:00:{seconds:02}.000Z")
}

fn pull(data: Value) -> Value {
    json!({"type": "pull_progress", "data": data, "timestamp": at(1)})
}

/// The first step, when it goes well.
fn pulled() -> Vec<Value> {
    let url = "https://github.com/user/app.git";
    let progress = |stage: &str, received: u64| {
        pull(
            json!({"type": "progress", "stage": stage, "received": received, "total": 10, "bytes": 100 * received, "timestamp": at(1)}),
        )
    };
    vec![
        json!({"type": "queued", "service": "workflow-api", "position": 2, "timestamp": at(0)}),
        json!({"type": "workflow_started", "workflowId": ID, "step": 1, "stepName": "pull_repository", "prompt": "p", "repoUrl": url, "timestamp": at(0)}),
        json!({"type": "message", "message": format!("Pulling {url}"), "timestamp": at(0)}),
        pull(
            json!({"type": "queued", "service": "github-pull-api", "position": 1, "waitingFor": "job 7 to be done in directory 'app'", "timestamp": at(0)}),
        ),
        pull(json!({"type": "connected", "jobId": ID, "repoUrl": url, "targetPath": TARGET})),
        pull(json!({"type": "message", "message": format!("Cloning {url}"), "timestamp": at(1)})),
        progress("receiving", 3),
        progress("receiving", 10),
        pull(
            json!({"type": "message", "message": "Checking out main at 0123456789", "timestamp": at(1)}),
        ),
        progress("checkout", 10),
        pull(
            json!({"type": "completed", "jobId": ID, "targetPath": TARGET, "branch": "main", "timestamp": at(1)}),
        ),
        json!({"type": "workflow_step_complete", "step": 1, "stepName": "pull_repository", "targetPath": TARGET, "timestamp": at(2)}),
        json!({"type": "workflow_started", "workflowId": ID, "step": 2, "stepName": "execute_claude_code", "prompt": "p", "workspace": TARGET, "timestamp": at(2)}),
        json!({"type": "message", "message": "Running Claude Code", "timestamp": at(2)}),
        json!({"type": "connected", "sessionId": ID, "resuming": false, "jobId": ID, "workspace": TARGET}),
    ]
}

/// What the agent said, as the service passes it on.
fn said(recording: &str) -> Vec<Value> {
    let content = recording.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    content
        .map(|content| json!({"type": "message", "content": content, "timestamp": at(3)}))
        .collect()
}

fn completed(result: &str) -> Value {
    json!({"type": "completed", "timestamp": at(42), "sessionId": ID, "result": result,
        "costUsd": 0.0153, "numTurns": 2, "durationMs": 39_000})
}

fn workflow_complete() -> Value {
    json!({"type": "workflow_complete", "workflowId": ID, "timestamp": at(43)})
}

#[test]
fn a_workflow_that_goes_well() {
    let mut events = pulled();
    events.extend(said(recorded!("write-file-partial")));
    events.extend([completed("Done: wrote hello.txt."), workflow_complete()]);
    insta::assert_snapshot!(read(Service::Workflow, &events));
}

#[test]
fn a_result_that_is_checked() {
    let started = |attempt| json!({"type": "verification_started", "attempt": attempt, "command": "cargo test", "timestamp": at(3)});
    let result = |attempt, passed, code, output| {
        json!({"type": "verification_result", "attempt": attempt, "command": "cargo test", "passed": passed, "exitCode": code,
            "output": output, "timestamp": at(4)})
    };
    let output: String = (0..20).map(|n| format!("line {n} \u{1b}[31m\n")).collect();
    let end = |kind: &str, verified: bool| {
        let mut end = if kind == "completed" { completed("Done.") } else { workflow_complete() };
        end["verified"] = verified.into();
        end
    };
    let failed = [started(0), result(0, false, Some(101), output.as_str())];
    let passed = [started(1), result(1, true, Some(0), "ok")];
    let mut events = pulled();
    events.extend(failed.clone());
    events.extend(passed);
    events.extend([end("completed", true), end("workflow_complete", true)]);
    let shown = |events: &[Value]| {
        let text = read(Service::Workflow, events);
        let lines = text.lines().skip_while(|line| !line.contains("Checking:"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    insta::assert_snapshot!(shown(&events), @r#"
    Heading |Checking: cargo test
    ~       |Working("the check is running")
    ~       |None
    Failure |  failed (exit code 101)
    Detail  |  line 10
    Detail  |  line 11
    Detail  |  line 12
    Detail  |  line 13
    Detail  |  line 14
    Detail  |  line 15
    Detail  |  line 16
    Detail  |  line 17
    Detail  |  line 18
    Detail  |  line 19
    Heading |Checking: cargo test
    ~       |Working("the check is running")
    ~       |None
    Success |  passed
    ~       |None
    Words   |  Done.
    ~       |None
    Success |Done after 43.0 s (2 turns, $0.0153)
    "#);
    let mut facts = Facts::default();
    events.iter().for_each(|event| facts.add(Service::Workflow, event));
    assert_eq!(facts.verified, Some(true));
    let mut events = pulled();
    events.extend(failed);
    events.extend([end("completed", false), end("workflow_complete", false)]);
    let shown = shown(&events);
    let last = shown.lines().last().unwrap();
    assert_eq!(last, "Failure |Done, but not verified after 43.0 s (2 turns, $0.0153)");
}

#[test]
fn a_result_that_is_delivered() {
    let progress = |data| json!({"type": "delivery_progress", "data": data, "timestamp": at(41)});
    let (branch, commit) = ("agent/456789ab", "0123456789abcdef0123456789abcdef01234567");
    let url = "https://github.com/user/app/pull/7";
    let delivered = json!({"type": "completed", "jobId": ID, "branch": branch, "commit": commit, "url": url, "timestamp": at(42)});
    let connected = json!({"type": "connected", "jobId": ID, "resultOf": ID, "repoUrl": "https://github.com/user/app"});
    let message = json!({"type": "message", "message": "Pushing 0123456789 to agent/456789ab", "timestamp": at(41)});
    let step = json!({"type": "workflow_step_complete", "step": 3, "stepName": "deliver_result", "branch": branch, "commit": commit, "url": url, "timestamp": at(42)});
    let mut events = pulled();
    events.extend([
        completed("Done."),
        json!({"type": "workflow_started", "workflowId": ID, "step": 3, "stepName": "deliver_result", "mode": "pull_request", "timestamp": at(41)}),
        json!({"type": "message", "message": "Delivering the result", "timestamp": at(41)}),
        progress(connected.clone()),
        progress(message.clone()),
        progress(delivered.clone()),
        step,
        workflow_complete(),
    ]);
    let text = read(Service::Workflow, &events);
    let text: String = text
        .lines()
        .skip_while(|line| !line.contains("Delivering"))
        .map(|line| format!("{line}\n"))
        .collect();
    insta::assert_snapshot!(text, @r#"
    Heading |Delivering the result
    ~       |Working("git is working")
    Detail  |  Pushing 0123456789 to agent/456789ab
    ~       |Working("git is working")
    ~       |None
    ~       |None
    Detail  |  on the branch agent/456789ab at 0123456789
    Detail  |  https://github.com/user/app/pull/7
    ~       |None
    Success |Done after 43.0 s (2 turns, $0.0153)
    "#);
    let mut facts = Facts::default();
    events.iter().for_each(|event| facts.add(Service::Workflow, event));
    assert_eq!(facts.delivered.as_deref(), Some(url));
    assert_eq!((facts.branch.as_deref(), facts.commit), (Some("main"), None), "what was pulled");
    // A job of its own.
    let text = read(Service::Pull, &[connected, message, delivered]);
    insta::assert_snapshot!(text, @r#"
    Heading |Delivering to https://github.com/user/app
    Detail  |  Pushing 0123456789 to agent/456789ab
    ~       |Working("git is working")
    ~       |None
    Detail  |  on the branch agent/456789ab at 0123456789
    Detail  |  https://github.com/user/app/pull/7
    ~       |None
    Success |Done after 1.0 s
    "#);
}

#[test]
fn a_tool_that_fails_tools_in_parallel_and_a_result_that_was_not_said() {
    let mut events = said(recorded!("bash-fail"));
    events.extend(said(recorded!("parallel")));
    events.extend(said(recorded!("badtool")));
    events.push(completed("Something else."));
    insta::assert_snapshot!(read(Service::Workflow, &events));
}

#[test]
fn a_sub_agent_thoughts_and_an_api_that_is_tried_again() {
    let mut events = said(recorded!("subagent"));
    events.extend(said(recorded!("thinking")));
    events.extend(said(recorded!("error-500-then-ok")));
    insta::assert_snapshot!(read(Service::Claude, &events));
}

#[test]
fn ends_that_are_not_good() {
    let end = |code: &str, step: u8, error: &str| json!({"type": "workflow_error", "workflowId": ID, "error": error, "code": code, "step": step, "timestamp": at(50)});
    let mut text = String::new();
    for (code, step, error) in [
        ("repository_unreachable", 1, "no such repository: check the URL"),
        ("agent_failed", 2, "the agent exited with 1"),
        ("cancelled", 2, "somebody cancelled the job"),
    ] {
        text += &read(Service::Workflow, &[pulled()[1].clone(), end(code, step, error)]);
    }
    let error = json!({"type": "error", "error": "they have both moved on", "code": "diverged", "timestamp": at(1)});
    text += &read(Service::Pull, std::slice::from_ref(&error));
    text += &read(Service::Workflow, &[pull(error)]);
    insta::assert_snapshot!(text);
}

#[test]
fn jobs_of_the_other_two_services() {
    let pulled: Vec<_> = pulled()
        .into_iter()
        .filter_map(|mut event| event.get_mut("data").map(Value::take))
        .collect();
    let mut events = vec![
        json!({"type": "connected", "sessionId": ID, "resuming": false, "jobId": ID, "workspace": "/workspace/app"}),
    ];
    events.extend(said(recorded!("text-only")));
    events.push(completed(""));
    insta::assert_snapshot!(read(Service::Pull, &pulled) + "\n" + &read(Service::Claude, &events));
}

#[test]
fn hostile_strings_are_only_text() {
    let evil = "\u{1b}[2J\u{1b}]0;owned\u{7}a\rb\u{202e}c\u{9b}31m\nDone after 0.1 s";
    let block = |block: Value| json!({"type": "message", "content": {"type": "assistant", "message": {"content": [block]}}});
    let result = |content: Value| {
        json!({"type": "message", "content": {"type": "user", "message": {"content": [
            {"type": "tool_result", "tool_use_id": evil, "content": content, "is_error": true}]}}})
    };
    let events = [
        json!({"type": "queued", "service": evil, "position": 1, "waitingFor": evil}),
        json!({"type": "workflow_started", "step": 1, "repoUrl": evil}),
        json!({"type": "message", "message": evil}),
        pull(json!({"type": "message", "message": evil})),
        pull(json!({"type": "progress", "stage": evil, "received": 1, "total": u64::MAX})),
        json!({"type": "workflow_step_complete", "targetPath": evil}),
        json!({"type": "connected", "workspace": evil}),
        json!({"type": "message", "content": {"type": "system", "subtype": "init", "model": evil}}),
        block(json!({"type": "text", "text": evil})),
        block(json!({"type": "tool_use", "id": evil, "name": evil, "input": {"command": evil}})),
        result(json!(evil)),
        result(json!([{"type": "text", "text": evil}, {"type": evil}])),
        block(json!({"type": "tool_use", "id": evil, "name": evil, "input": {evil: evil}})),
        completed(evil),
        json!({"type": "workflow_error", "error": evil, "code": evil, "step": 2}),
    ];
    let text = read(Service::Workflow, &events);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(!text.contains('\u{202e}'), "{text:?}");
    // What is not by us is never at the beginning of a line.
    assert!(!text.lines().any(|line| line.contains("|Done")), "{text}");
}

#[test]
fn events_of_any_shape_are_read_or_passed_over() {
    let odd = [json!(null), json!([]), json!({}), json!(7), json!({"x": [null]}), json!("text")];
    for service in Service::ALL {
        for kind in [
            "queued",
            "workflow_started",
            "message",
            "pull_progress",
            "workflow_step_complete",
            "connected",
            "progress",
            "completed",
            "error",
            "workflow_error",
            "workflow_complete",
            "new",
        ] {
            for odd in &odd {
                let event = json!({"type": kind, "data": odd, "content": odd, "message": odd,
                    "timestamp": odd, "step": odd, "error": odd, "costUsd": odd, "position": odd});
                read(service, &[event, odd.clone()]);
                for inner in ["assistant", "user", "system", "result"] {
                    let content = json!({"type": inner, "message": {"content": [odd, {"type": "text", "text": odd},
                        {"type": "tool_use", "input": odd}, {"type": "tool_result", "content": odd}]}});
                    read(service, &[json!({"type": kind, "content": content})]);
                }
            }
        }
    }
}
