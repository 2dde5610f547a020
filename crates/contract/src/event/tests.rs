//! The complete JSON of every event.

use super::*;
use crate::Policy;

fn json<T: Serialize>(event: &T) -> String {
    String::from_utf8(EventLine::encode(event).into_bytes()).unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_millisecond(1_769_860_800_120)
}

fn job() -> JobId {
    "019b0000-0000-7000-8000-000000000001".parse().unwrap()
}

fn session() -> SessionId {
    "5ccfa640-c6db-4838-93a9-c1d8e2383074".parse().unwrap()
}

#[test]
fn pull_events() {
    let repo_url = RepoUrl::parse("https://user:secret@h/r.git", &Policy::default()).unwrap();
    let branch = BranchName::parse("main").unwrap();
    let events = [
        json(&PullEvent::Connected {
            job_id: job(),
            repo_url: &repo_url,
            target_path: "/workspace/r",
        }),
        json(&PullEvent::Message { message: "Cloning", timestamp: now() }),
        json(&PullEvent::Progress {
            stage: "receiving",
            received: 1,
            total: 2,
            bytes: 3,
            timestamp: now(),
        }),
        json(&PullEvent::Completed {
            job_id: job(),
            target_path: "/workspace/r",
            timestamp: now(),
            branch: Some(&branch),
            commit: Some("abc"),
        }),
        json(&PullEvent::Error { error: "no", timestamp: now(), code: Code::BranchNotFound }),
    ];
    insta::assert_snapshot!(events.join("\n"), @r#"
    {"type":"connected","jobId":"019b0000-0000-7000-8000-000000000001","repoUrl":"https://h/r.git","targetPath":"/workspace/r"}
    {"type":"message","message":"Cloning","timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"progress","stage":"receiving","received":1,"total":2,"bytes":3,"timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"completed","jobId":"019b0000-0000-7000-8000-000000000001","targetPath":"/workspace/r","timestamp":"2026-01-31T12:00:00.120Z","branch":"main","commit":"abc"}
    {"type":"error","error":"no","timestamp":"2026-01-31T12:00:00.120Z","code":"branch_not_found"}
    "#);
}

#[test]
fn deliver_events() {
    let branch = DeliveryBranch::parse("agent/x").unwrap();
    let completed = |url| DeliverEvent::Completed {
        job_id: job(),
        branch: &branch,
        commit: "abc",
        url,
        timestamp: now(),
    };
    let events = [
        json(&DeliverEvent::Connected {
            job_id: job(),
            result_of: job(),
            repo_url: "https://h/r.git",
        }),
        json(&DeliverEvent::Message { message: "Pushing", timestamp: now() }),
        json(&completed(None)),
        json(&completed(Some("https://h/r/pull/1"))),
    ];
    insta::assert_snapshot!(events.join("\n"), @r#"
    {"type":"connected","jobId":"019b0000-0000-7000-8000-000000000001","resultOf":"019b0000-0000-7000-8000-000000000001","repoUrl":"https://h/r.git"}
    {"type":"message","message":"Pushing","timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"completed","jobId":"019b0000-0000-7000-8000-000000000001","branch":"agent/x","commit":"abc","timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"completed","jobId":"019b0000-0000-7000-8000-000000000001","branch":"agent/x","commit":"abc","url":"https://h/r/pull/1","timestamp":"2026-01-31T12:00:00.120Z"}
    "#);
}

#[test]
fn execute_events() {
    let content: Box<RawValue> =
        serde_json::from_str(r#"{"type":"assistant",  "kept": 1.0}"#).unwrap();
    let usage: Box<RawValue> = serde_json::from_str(r#"{"input_tokens":1}"#).unwrap();
    let events = [
        json(&ExecuteEvent::Connected {
            session_id: session(),
            resuming: true,
            resumed_from: Some(session()),
            job_id: job(),
            workspace: "/workspace/r",
            isolation: Some(Isolation { landlock: 7, scopes: true, seccomp: true, uid: false }),
        }),
        json(&ExecuteEvent::Message { content: &content, timestamp: now() }),
        json(&ExecuteEvent::VerificationStarted { attempt: 0, command: "make", timestamp: now() }),
        json(&ExecuteEvent::VerificationResult {
            attempt: 0,
            command: "make",
            passed: false,
            exit_code: Some(2),
            output: "no rule\n",
            timestamp: now(),
        }),
        json(&ExecuteEvent::Completed {
            timestamp: now(),
            session_id: Some(session()),
            result: Some("done"),
            cost_usd: Some(0.5),
            num_turns: Some(2),
            duration_ms: Some(3),
            usage: Some(&usage),
            api_usage: &ApiUsage::from([(
                "opus".to_owned(),
                ModelUsage {
                    requests: 1,
                    input_tokens: 2,
                    output_tokens: 3,
                    ..ModelUsage::default()
                },
            )]),
            verified: Some(true),
            verify_output: Some("ok"),
        }),
        json(&ExecuteEvent::Error {
            error: "no",
            timestamp: now(),
            code: Code::AgentApiError,
            session_id: None,
            result: None,
            cost_usd: None,
            num_turns: None,
            duration_ms: None,
            usage: None,
            api_usage: &ApiUsage::new(),
            verified: None,
            verify_output: None,
        }),
    ];
    insta::assert_snapshot!(events.join("\n"), @r#"
    {"type":"connected","sessionId":"5ccfa640-c6db-4838-93a9-c1d8e2383074","resuming":true,"resumedFrom":"5ccfa640-c6db-4838-93a9-c1d8e2383074","jobId":"019b0000-0000-7000-8000-000000000001","workspace":"/workspace/r","isolation":{"landlock":7,"scopes":true,"seccomp":true,"uid":false}}
    {"type":"message","content":{"type":"assistant",  "kept": 1.0},"timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"verification_started","attempt":0,"command":"make","timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"verification_result","attempt":0,"command":"make","passed":false,"exitCode":2,"output":"no rule\n","timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"completed","timestamp":"2026-01-31T12:00:00.120Z","sessionId":"5ccfa640-c6db-4838-93a9-c1d8e2383074","result":"done","costUsd":0.5,"numTurns":2,"durationMs":3,"usage":{"input_tokens":1},"apiUsage":{"opus":{"requests":1,"inputTokens":2,"outputTokens":3,"cacheReadTokens":0,"cacheWriteTokens":0}},"verified":true,"verifyOutput":"ok"}
    {"type":"error","error":"no","timestamp":"2026-01-31T12:00:00.120Z","code":"agent_api_error"}
    "#);
}

#[test]
fn workflow_events() {
    let prompt = Prompt::parse("Add a README").unwrap();
    let repo_url = RepoUrl::parse("https://h/r.git", &Policy::default()).unwrap();
    let data: Box<RawValue> = serde_json::from_str(r#"{"type":"completed"}"#).unwrap();
    let step_name = "pull_repository";
    let events = [
        json(&WorkflowEvent::PullStarted {
            workflow_id: job(),
            step: 1,
            step_name,
            prompt: &prompt,
            repo_url: &repo_url,
            timestamp: now(),
        }),
        json(&WorkflowEvent::Message { message: "Pulling", timestamp: now() }),
        json(&WorkflowEvent::PullProgress { data: &data, timestamp: now() }),
        json(&WorkflowEvent::WorkflowStepComplete {
            step: 1,
            step_name,
            target_path: "/workspace/r",
            timestamp: now(),
        }),
        json(&WorkflowEvent::ExecuteStarted {
            workflow_id: job(),
            step: 2,
            step_name: "execute_claude_code",
            prompt: &prompt,
            workspace: "/workspace/r",
            timestamp: now(),
        }),
        json(&WorkflowEvent::DeliverStarted {
            workflow_id: job(),
            step: 3,
            step_name: "deliver_result",
            prompt: &prompt,
            mode: DeliverMode::PullRequest,
            timestamp: now(),
        }),
        json(&WorkflowEvent::DeliveryProgress { data: &data, timestamp: now() }),
        json(&WorkflowEvent::DeliverComplete {
            step: 3,
            step_name: "deliver_result",
            branch: "agent/x",
            commit: "abc",
            url: Some("https://h/r/pull/1"),
            timestamp: now(),
        }),
        json(&WorkflowEvent::WorkflowComplete {
            workflow_id: job(),
            timestamp: now(),
            delivery: None,
            verified: Some(false),
            verify_output: Some("no"),
        }),
        json(&WorkflowEvent::WorkflowComplete {
            workflow_id: job(),
            timestamp: now(),
            delivery: Some(&DeliveryView {
                mode: DeliverMode::Branch,
                status: DeliveryStatus::Empty,
                branch: None,
                commit: None,
                url: None,
            }),
            verified: None,
            verify_output: None,
        }),
        json(&WorkflowEvent::WorkflowError {
            workflow_id: job(),
            error: "no",
            timestamp: now(),
            code: Code::Cancelled,
            step: Some(2),
        }),
        json(&QueuedEvent {
            service: Service::Workflow,
            position: 1,
            waiting_for: None,
            timestamp: now(),
        }),
        json(&QueuedEvent {
            service: Service::Pull,
            position: 2,
            waiting_for: Some("x".into()),
            timestamp: now(),
        }),
    ];
    insta::assert_snapshot!(events.join("\n"), @r#"
    {"type":"workflow_started","workflowId":"019b0000-0000-7000-8000-000000000001","step":1,"stepName":"pull_repository","prompt":"Add a README","repoUrl":"https://h/r.git","timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"message","message":"Pulling","timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"pull_progress","data":{"type":"completed"},"timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"workflow_step_complete","step":1,"stepName":"pull_repository","targetPath":"/workspace/r","timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"workflow_started","workflowId":"019b0000-0000-7000-8000-000000000001","step":2,"stepName":"execute_claude_code","prompt":"Add a README","workspace":"/workspace/r","timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"workflow_started","workflowId":"019b0000-0000-7000-8000-000000000001","step":3,"stepName":"deliver_result","prompt":"Add a README","mode":"pull_request","timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"delivery_progress","data":{"type":"completed"},"timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"workflow_step_complete","step":3,"stepName":"deliver_result","branch":"agent/x","commit":"abc","url":"https://h/r/pull/1","timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"workflow_complete","workflowId":"019b0000-0000-7000-8000-000000000001","timestamp":"2026-01-31T12:00:00.120Z","verified":false,"verifyOutput":"no"}
    {"type":"workflow_complete","workflowId":"019b0000-0000-7000-8000-000000000001","timestamp":"2026-01-31T12:00:00.120Z","delivery":{"mode":"branch","status":"empty"}}
    {"type":"workflow_error","workflowId":"019b0000-0000-7000-8000-000000000001","error":"no","timestamp":"2026-01-31T12:00:00.120Z","code":"cancelled","step":2}
    {"type":"queued","service":"workflow-api","position":1,"timestamp":"2026-01-31T12:00:00.120Z"}
    {"type":"queued","service":"github-pull-api","position":2,"waitingFor":"x","timestamp":"2026-01-31T12:00:00.120Z"}
    "#);
}

#[test]
fn a_failure_is_the_terminal_event_of_its_service() {
    for service in Service::ALL {
        let ending = Ending::failure(service, job(), Code::ReplicaLost, "lost");
        let kind =
            ending.event.peek::<serde_json::Value>().unwrap()["type"].as_str().unwrap().to_owned();
        assert!(service.is_terminal(&kind), "{service}: {kind}");
        assert_eq!((ending.state, ending.code), (JobState::Failed, Some(Code::ReplicaLost)));
        assert_eq!(
            Ending::failure(service, job(), Code::Cancelled, "x").state,
            JobState::Cancelled
        );
    }
}

#[test]
fn the_runs_of_one_job_are_added_up() {
    let usage = |text: &str| Some(RawValue::from_string(text.to_owned()).unwrap());
    let run = |usage, tokens| AgentSummary {
        cost_usd: Some(0.25),
        num_turns: Some(2),
        usage,
        api_usage: ApiUsage::from([(
            "opus".to_owned(),
            ModelUsage { requests: 1, input_tokens: tokens, ..ModelUsage::default() },
        )]),
        ..AgentSummary::default()
    };
    let mut last = run(usage(r#"{"input_tokens":5,"tier":"a"}"#), 5);
    last.add(&run(usage(r#"{"input_tokens":7,"tier":"b","more":1}"#), 7));
    last.add(&AgentSummary::default());
    assert_eq!((last.cost_usd, last.num_turns, last.duration_ms), (Some(0.5), Some(4), None));
    assert_eq!(last.usage.unwrap().get(), r#"{"input_tokens":12,"tier":"a"}"#);
    let tokens = last.api_usage["opus"];
    assert_eq!((tokens.requests, tokens.input_tokens), (2, 12));
}
