use std::collections::BTreeMap;

use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestCaseError};
use serde_json::json;

use super::*;
use crate::{BranchName, Limits, UnknownFields};

fn workflow(body: &serde_json::Value) -> Result<WorkflowRequest, RequestError> {
    WorkflowRequest::parse(body.to_string().as_bytes(), "/w", &Policy::default())
}

#[test]
fn the_minimal_and_the_maximal_request() {
    let smallest = workflow(&json!({"prompt": "x", "repoUrl": "https://h/r.git"})).unwrap();
    assert_eq!((smallest.pull.branch, smallest.pull.directory), (None, None));
    assert!(!smallest.update);
    assert_eq!(smallest.execute_options, ExecuteOptions::default());
    assert_eq!(smallest.pull.options, PullOptions::default());
    let largest = workflow(&json!({
        "prompt": "x", "repoUrl": "https://h/r.git", "branch": "main", "directory": "app", "unknown": [1],
        "dangerouslySkipPermissions": false, "resumeSessionId": "0b1f8a0e-5a3e-4bd5-8ba5-5e8be7c7a1d6",
        "model": "sonnet", "maxTurns": 5, "maxBudgetUsd": 1.5, "appendSystemPrompt": "be kind",
        "allowedTools": ["Bash", "Read"], "timeoutSeconds": 60, "workspace": null,
        "verify": {"run": ["cargo test", "cargo clippy"], "attempts": 0},
        "update": true, "reset": true, "submodules": true, "lfs": true, "depth": 7, "filter": "blob:none", "retain": "none",
        "labels": {"team": "payments"}, "callbackUrl": "https://hooks.example/x",
        "deliver": {"mode": "pull_request", "branch": "a/b", "base": "main", "title": " Fix it ", "body": "Why", "draft": false,
            "allowProtected": true, "commits": "keep"},
    }))
    .unwrap();
    let policy = Policy { unknown_fields: UnknownFields::Refused, ..Policy::default() };
    let again = WorkflowRequest::parse(&largest.to_body(Secrets::Exposed), "/w", &policy).unwrap();
    assert_eq!(again, largest);
    let options = largest.pull.options.clone();
    assert_eq!(
        (options.depth.map(u32::from), options.filter),
        (Some(7), Some(CloneFilter::BlobNone))
    );
    let pull = PullRequest {
        directory: None,
        workspace: WorkspacePath::parse("jobs/x/r", "/w").ok(),
        ..largest.pull
    };
    let again = PullRequest::parse(&pull.to_body(Secrets::Exposed), "/w", &policy).unwrap();
    assert_eq!(again, pull);
    let execute = ExecuteRequest {
        prompt: largest.prompt,
        workspace: None,
        options: largest.execute_options,
        retain: largest.retain,
        common: largest.common,
    };
    let again = ExecuteRequest::parse(&execute.to_body(Secrets::Exposed), "/w", &Policy::default())
        .unwrap();
    assert_eq!(again, execute);
}

#[test]
fn commands_that_check() {
    let verify = |verify: serde_json::Value| {
        let body = json!({"prompt": "x", "repoUrl": "https://h/r", "verify": verify});
        let policy = Policy { unknown_fields: UnknownFields::Refused, ..Policy::default() };
        let request = WorkflowRequest::parse(body.to_string().as_bytes(), "/w", &policy);
        request.map(|it| it.execute_options.verify)
    };
    assert_eq!(verify(json!(null)).unwrap(), None);
    let expected = Verify { run: vec!["make check".into()], attempts: 3 };
    assert_eq!(verify(json!({"run": ["make check"]})).unwrap(), Some(expected));
    for (bad, field) in [
        (json!({}), "verify.run"),
        (json!({"run": []}), "verify.run"),
        (json!({"run": [" "]}), "verify.run"),
        (json!({"run": ["a\0"]}), "verify.run"),
        (json!({"run": "make"}), "verify.run"),
        (json!({"run": vec!["x"; 11]}), "verify.run"),
        (json!({"run": ["x".repeat(4097)]}), "verify.run"),
        (json!({"run": ["x"], "attempts": 11}), "verify.attempts"),
        (json!({"run": ["x"], "tries": 1}), "verify.tries"),
    ] {
        let error = verify(bad.clone()).unwrap_err();
        assert_eq!(error.field.as_deref(), Some(field), "{bad}: {error}");
    }
}

#[test]
fn where_a_result_goes() {
    let deliver = |deliver: serde_json::Value| {
        let body = json!({"prompt": "x", "repoUrl": "https://h/r", "deliver": deliver});
        let policy = Policy { unknown_fields: UnknownFields::Refused, ..Policy::default() };
        WorkflowRequest::parse(body.to_string().as_bytes(), "/w", &policy).map(|it| it.deliver)
    };
    assert_eq!(deliver(json!(null)).unwrap(), None);
    assert_eq!(deliver(json!({"mode": "none"})).unwrap(), None);
    let branch = deliver(json!({"mode": "branch"})).unwrap();
    assert_eq!(branch, Some(Deliver::new(DeliverMode::Branch)));
    for (bad, field, word) in [
        (json!({}), "deliver.mode", "missing"),
        (json!({"mode": "push"}), "deliver.mode", "pull_request"),
        (json!({"mode": "branch", "branch": "refs/heads/x"}), "deliver.branch", "without"),
        (json!({"mode": "branch", "branch": "-f"}), "deliver.branch", "valid name"),
        (json!({"mode": "branch", "branch": "a", "base": "a"}), "deliver.branch", "based on"),
        (json!({"mode": "branch", "title": "a\nb"}), "deliver.title", "one line"),
        (json!({"mode": "branch", "title": "x".repeat(256)}), "deliver.title", "at most"),
        (json!({"mode": "branch", "body": "x".repeat(60_001)}), "deliver.body", "at most"),
        (json!({"mode": "branch", "commits": "all"}), "deliver.commits", "squash"),
        (json!({"mode": "branch", "draft": "no"}), "deliver.draft", "true or false"),
        (json!({"mode": "branch", "brnach": "x"}), "deliver.brnach", "did you mean 'branch'"),
        (json!("branch"), "deliver", "an object"),
    ] {
        let error = deliver(bad.clone()).unwrap_err();
        assert_eq!(error.field.as_deref(), Some(field), "{bad}: {error}");
        assert!(error.message.contains(word) && error.message.contains(field), "{bad}: {error}");
    }
}

#[test]
fn the_request_of_a_delivery() {
    let id = "019b0000-0000-7000-8000-000000000001";
    let policy = Policy { unknown_fields: UnknownFields::Refused, ..Policy::default() };
    let parse = |body: &serde_json::Value, job: Option<&str>| {
        let body = body.to_string();
        let job = job.map(|id| id.parse().unwrap());
        let path = DeliverRequest::PATH;
        let raw = RawRequest {
            body: body.as_bytes(),
            root: "/w",
            policy: &policy,
            path,
            session: None,
            job,
        };
        PullJob::parse_raw(&raw)
    };
    let full =
        json!({"jobId": id, "mode": "branch", "repoUrl": "https://me:pw@h/r", "branch": "x"});
    let request = parse(&full, None).unwrap();
    assert_eq!(parse(&full, Some(id)).unwrap(), request);
    assert_eq!(request.place(Requester::Caller), Place::OfJob(id.parse().unwrap()));
    assert_eq!(request.path(), DeliverRequest::PATH);
    let body = request.to_body(Secrets::Exposed);
    let again: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(parse(&again, None).unwrap(), request);
    let withheld = String::from_utf8(request.to_body(Secrets::Withheld)).unwrap();
    assert!(!withheld.contains("pw@"), "{withheld}");
    let elsewhere = "019b0000-0000-7000-8000-000000000002";
    for (body, job, field) in [
        (json!({"mode": "branch"}), None, "jobId"),
        (json!({"mode": "branch", "jobId": "x"}), None, "jobId"),
        (full, Some(elsewhere), "jobId"),
        (json!({"mode": "none"}), Some(id), "mode"),
    ] {
        assert_eq!(parse(&body, job).unwrap_err().field.as_deref(), Some(field), "{body}");
    }
}

#[test]
fn null_means_absent() {
    let error = workflow(&json!({"prompt": null, "repoUrl": "https://h/r.git"})).unwrap_err();
    assert_eq!(error.field.as_deref(), Some("prompt"));
    assert!(workflow(&json!({"prompt": "x", "repoUrl": "https://h/r", "branch": null})).is_ok());
}

#[test]
fn each_invalid_field_is_named() {
    let good = json!({"prompt": "x", "repoUrl": "https://h/r.git"});
    for (field, value) in [
        ("prompt", json!("")),
        ("prompt", json!(" \n")),
        ("prompt", json!(7)),
        ("prompt", json!(["x"])),
        ("repoUrl", json!("file:///etc")),
        ("repoUrl", json!(1)),
        ("repoUrl", json!("ext::sh -c id")),
        ("repoUrl", json!("--upload-pack=x")),
        ("branch", json!("--x")),
        ("branch", json!(true)),
        ("directory", json!("../x")),
        ("directory", json!("/etc")),
        ("directory", json!("a\0")),
        ("directory", json!("x".repeat(5000))),
        ("directory", json!({})),
        ("dangerouslySkipPermissions", json!("yes")),
        ("resumeSessionId", json!("../x")),
        ("model", json!("--x")),
        ("model", json!("a b")),
        ("maxTurns", json!(0)),
        ("maxTurns", json!(-1)),
        ("maxTurns", json!(1.5)),
        ("maxTurns", json!(5_000_000_000_u64)),
        ("maxBudgetUsd", json!(0)),
        ("maxBudgetUsd", json!(-1)),
        ("maxBudgetUsd", json!("1")),
        ("appendSystemPrompt", json!("\0")),
        ("appendSystemPrompt", json!("x".repeat(30_000))),
        ("allowedTools", json!([])),
        ("allowedTools", json!(["--x"])),
        ("allowedTools", json!(["Bash", 1])),
        ("allowedTools", json!("Bash")),
        ("timeoutSeconds", json!(0)),
        ("timeoutSeconds", json!(3601)),
        ("update", json!("yes")),
        ("reset", json!(1)),
        ("submodules", json!("true")),
        ("lfs", json!([])),
        ("depth", json!(0)),
        ("depth", json!(-1)),
        ("depth", json!(2_147_483_648_u64)),
        ("filter", json!("tree:0")),
        ("filter", json!("--x")),
        ("retain", json!("all")),
        ("retain", json!(true)),
    ] {
        let mut body = good.clone();
        body[field] = value.clone();
        let error = workflow(&body).expect_err(&format!("{field}: {value}"));
        assert_eq!(error.field.as_deref(), Some(field), "{value}");
        assert!(error.message.starts_with(&format!("'{field}': ")), "{}", error.message);
    }
}

#[test]
fn unknown_fields_of_callers_are_refused() {
    let strict = Policy { unknown_fields: UnknownFields::Refused, ..Policy::default() };
    let refuse = |field: &str| {
        let body = json!({"prompt": "x", "repoUrl": "https://h/r.git", field: "y"}).to_string();
        assert!(WorkflowRequest::parse(body.as_bytes(), "/w", &Policy::default()).is_ok());
        WorkflowRequest::parse(body.as_bytes(), "/w", &strict).unwrap_err()
    };
    for (wrong, right) in [
        ("brnach", "branch"),
        ("max_turns", "maxTurns"),
        ("resumeSessionID", "resumeSessionId"),
        ("modle", "model"),
    ] {
        let error = refuse(wrong);
        assert_eq!((error.code, error.field.as_deref()), (Code::UnknownField, Some(wrong)));
        assert!(error.message.contains(&format!("'{right}'")), "{}", error.message);
    }
    for far in ["priority", &"x".repeat(100_000)] {
        let error = refuse(far);
        assert!(!error.message.contains("did you mean") && error.message.len() < 1000);
    }
    let null = br#"{"prompt": "x", "repoUrl": "https://h/r.git", "brnach": null}"#;
    assert!(WorkflowRequest::parse(null, "/w", &strict).is_ok(), "null means absent");
}

#[test]
fn a_resumed_workflow_without_a_directory_uses_that_of_its_session() {
    let session = "0b1f8a0e-5a3e-4bd5-8ba5-5e8be7c7a1d6";
    let place = |extra: serde_json::Value| {
        let mut body = json!({"prompt": "x", "repoUrl": "https://h/r.git"});
        body.as_object_mut().unwrap().append(&mut extra.as_object().unwrap().clone());
        workflow(&body).unwrap().place(Requester::Caller)
    };
    let app = Place::Checkout(DirectoryName::parse("app").unwrap());
    assert_eq!(place(json!({})), Place::Own);
    assert_eq!(place(json!({"resumeSessionId": session})), Place::OfSession);
    assert_eq!(place(json!({"resumeSessionId": session, "directory": "app"})), app);
}

#[test]
fn a_pull_goes_to_one_place() {
    let parse = |extra: &str| {
        let body = format!(r#"{{"repoUrl": "https://h/r.git"{extra}}}"#);
        PullRequest::parse(body.as_bytes(), "/w", &Policy::default())
    };
    let error = parse(r#", "directory": "app", "workspace": "jobs/x/r""#).unwrap_err();
    assert_eq!(error.field.as_deref(), Some("workspace"));
    let there = parse(r#", "workspace": "/w/jobs/x/r""#).unwrap().place(Requester::Workflow);
    assert_eq!(there, Place::At(WorkspacePath::parse("jobs/x/r", "/w").unwrap()));
}

#[test]
fn a_byte_order_mark_is_skipped_and_utf_16_is_named() {
    let body = "\u{feff}{\"prompt\": \"x\"}";
    assert!(ExecuteRequest::parse(body.as_bytes(), "/w", &Policy::default()).is_ok());
    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        let body: Vec<u8> = body.encode_utf16().flat_map(order).collect();
        let error = ExecuteRequest::parse(&body, "/w", &Policy::default()).unwrap_err();
        assert!(error.message.contains("UTF-16"), "{}", error.message);
    }
}

#[test]
fn bodies_that_are_not_objects() {
    for body in ["", "  ", "x", "[]", "\"x\"", "{", "null", "{\"prompt\":\"\u{0}\"}"] {
        let error = WorkflowRequest::parse(body.as_bytes(), "/w", &Policy::default()).unwrap_err();
        assert_eq!(error.code, Code::InvalidJson, "{body}");
    }
}

#[test]
fn the_configuration_limits_the_options() {
    let policy = Policy {
        limits: Limits {
            max_turns: Some(3),
            max_budget_usd: Some(2.0),
            models: Some(vec!["sonnet".into()]),
            tools: Some(vec!["Read".into()]),
            ..Limits::default()
        },
        ..Policy::default()
    };
    for (field, value) in [
        ("maxTurns", json!(4)),
        ("maxBudgetUsd", json!(2.5)),
        ("model", json!("opus")),
        ("allowedTools", json!(["Bash"])),
    ] {
        let body = json!({"prompt": "x", field: value}).to_string();
        let error = ExecuteRequest::parse(body.as_bytes(), "/w", &policy).unwrap_err();
        assert_eq!(error.field.as_deref(), Some(field));
    }
    let body = json!({"prompt": "x", "maxTurns": 3, "model": "sonnet", "allowedTools": ["Read"]})
        .to_string();
    assert!(ExecuteRequest::parse(body.as_bytes(), "/w", &policy).is_ok());
}

#[test]
fn a_pull_keeps_its_credentials_only_in_its_body() {
    let body = br#"{"repoUrl": "https://user:secret@h/r.git"}"#;
    let pull = PullRequest::parse(body, "/w", &Policy::default()).unwrap();
    assert!(!format!("{pull:?}").contains("secret"));
    assert_eq!(
        PullRequest::parse(&pull.to_body(Secrets::Exposed), "/w", &Policy::default()).unwrap(),
        pull
    );
    let error =
        PullRequest::parse(br#"{"repoUrl": "https://user:secret@h"}"#, "/w", &Policy::default())
            .unwrap_err();
    assert!(!error.message.contains("secret"), "{}", error.message);
}

/// The last digit of some was once another one for the replica.
#[test]
fn a_number_says_the_same_to_the_replica() {
    let parse = |body: &[u8]| ExecuteRequest::parse(body, "/w", &Policy::default()).unwrap();
    let request = parse(br#"{"prompt": "x", "maxBudgetUsd": 5.503236525461245e-167}"#);
    assert_eq!(parse(&request.to_body(Secrets::Exposed)), request);
}

properties::fuzz! {
    #[test]
    fn no_body_crashes_the_parser(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let policy = Policy::default();
        let _ = WorkflowRequest::parse(&body, "/w", &policy);
        let _ = ExecuteRequest::parse(&body, "/w", &policy);
        let _ = crate::TokenRequest::parse(&body, policy.unknown_fields);
    }

    /// Whatever a request says, it says the same to the replica that gets its body.
    #[test]
    fn what_is_accepted_round_trips(fields in fields()) {
        let mut fields = fields;
        fields.entry("prompt").or_insert_with(|| "x".into());
        round_trips::<ExecuteRequest>(&fields)?;
        fields.entry("repoUrl").or_insert_with(|| "https://h/r".into());
        round_trips::<WorkflowRequest>(&fields)?;
        fields.remove("prompt");
        round_trips::<PullRequest>(&fields)?;
        if let Some(Value::Object(deliver)) = fields.get("deliver") {
            let mut deliver: BTreeMap<&str, Value> = deliver.iter().map(|(name, value)| (&**name, value.clone())).collect();
            deliver.insert("jobId", JOB.into());
            deliver.extend(fields.get("repoUrl").map(|url| ("repoUrl", url.clone())));
            round_trips::<DeliverRequest>(&deliver)?;
            round_trips::<PullJob>(&deliver)?;
            round_trips::<ChangesRequest>(&deliver)?;
        }
    }

    #[test]
    fn accepted_strings_are_safe(
        url in hostile(), branch in hostile(), directory in hostile(), workspace in hostile(),
    ) {
        let policy = Policy::default();
        if let Ok(url) = RepoUrl::parse(&url, &policy) {
            prop_assert!(!url.address().starts_with('-') && !url.host().starts_with('-'));
            prop_assert!(!url.address().contains(|c: char| c.is_control() || c == ' '));
            prop_assert!(!url.host().is_empty());
            let again = RepoUrl::parse(&url.expose(), &policy);
            prop_assert_eq!(again.map(|again| again == url), Ok(true));
            prop_assert!(DirectoryName::parse(url.directory_name().as_str()).is_ok());
        }
        if let Ok(name) = BranchName::parse(&branch) {
            prop_assert!(!name.as_str().starts_with('-') && !name.as_str().contains(".."));
        }
        if let Ok(name) = DirectoryName::parse(&directory) {
            prop_assert!(!name.as_str().contains('/') && !name.as_str().starts_with(['.', '-']));
        }
        if let Ok(path) = WorkspacePath::parse(&workspace, "/w") {
            let safe = |part: &str| !matches!(part, "" | "." | ".." | ".git" | ".stack");
            prop_assert!(path.as_str().split('/').all(safe), "{path}");
        }
    }
}

const JOB: &str = "0199f3a0-0000-7000-8000-000000000000";

/// Whether what is accepted is the same after it was passed on, and the body is not much longer: each part limits what it
/// reads.
fn round_trips<R: JobRequest + PartialEq + std::fmt::Debug>(
    fields: &BTreeMap<&str, Value>,
) -> Result<bool, TestCaseError> {
    let policy = Policy::default();
    let body = serde_json::to_vec(fields).unwrap();
    let Ok(request) = R::parse(&body, "/w", &policy) else { return Ok(false) };
    let passed = request.to_body(Secrets::Exposed);
    prop_assert!(
        passed.len() < body.len() + 16 * 1024,
        "{} bytes from {}",
        passed.len(),
        body.len()
    );
    match R::parse(&passed, "/w", &policy) {
        Ok(again) => prop_assert_eq!(again, request),
        Err(error) => prop_assert!(false, "{}: {}", error, String::from_utf8_lossy(&passed)),
    }
    Ok(true)
}

/// What a test of random requests is worth, if most of them are refused.
#[test]
fn random_requests_are_often_accepted() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut accepted: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..3000 {
        let mut fields = fields().new_tree(&mut runner).unwrap().current();
        fields.entry("prompt").or_insert_with(|| "x".into());
        fields.entry("repoUrl").or_insert_with(|| "https://h/r".into());
        if round_trips::<WorkflowRequest>(&fields).unwrap() {
            let deliver = fields.get("deliver").and_then(Value::as_object);
            let inner = deliver.into_iter().flatten().map(|(name, _)| name.as_str());
            for name in fields.keys().copied().chain(inner) {
                *accepted
                    .entry(NAMES.iter().find(|known| **known == name).unwrap())
                    .or_default() += 1;
            }
        }
    }
    for name in NAMES {
        assert!(accepted.get(name).is_some_and(|count| *count >= 10), "{name}: {accepted:?}");
    }
}

/// The fields of a workflow and those of its delivery.
const NAMES: [&str; 32] = [
    "prompt",
    "repoUrl",
    "branch",
    "directory",
    "workspace",
    "model",
    "maxTurns",
    "maxBudgetUsd",
    "appendSystemPrompt",
    "allowedTools",
    "timeoutSeconds",
    "resumeSessionId",
    "dangerouslySkipPermissions",
    "reset",
    "submodules",
    "lfs",
    "depth",
    "filter",
    "retain",
    "update",
    "brnach",
    "verify",
    "deliver",
    "labels",
    "callbackUrl",
    "mode",
    "base",
    "title",
    "body",
    "draft",
    "allowProtected",
    "commits",
];

/// Some fields of requests, most of them nearly as they should be.
fn fields() -> impl Strategy<Value = BTreeMap<&'static str, Value>> {
    let top = prop::sample::select(NAMES[..25].to_vec());
    let field =
        top.prop_flat_map(|name| (Just(name), prop_oneof![4 => likely(name), 1 => anything()]));
    proptest::collection::vec(field, 0..6).prop_map(|fields| fields.into_iter().collect())
}

fn anything() -> BoxedStrategy<Value> {
    prop_oneof![
        2 => text(),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => proptest::collection::vec(text(), 0..3).prop_map(Value::from),
        1 => Just(Value::Null),
    ]
    .boxed()
}

/// Any text: from hostile pieces, of any characters, or longer than most limits.
fn text() -> BoxedStrategy<Value> {
    let long = (any::<char>(), prop::sample::select(vec![64, 255, 600, 1400, 2048, 4096, 20_000]));
    prop_oneof![
        hostile(),
        any::<String>(),
        long.prop_map(|(character, times)| character.to_string().repeat(times)),
    ]
    .prop_map(Value::from)
    .boxed()
}

/// A value that the field `name` might have.
fn likely(name: &'static str) -> BoxedStrategy<Value> {
    let one_of = |values: &[&'static str]| {
        prop::sample::select(values.to_vec()).prop_map(Value::from).boxed()
    };
    let object = |names: &[&'static str]| {
        let name = prop::sample::select(names.to_vec());
        let field = name.prop_flat_map(|name| (Just(name.to_owned()), likely(name)));
        proptest::collection::vec(field, 0..5)
            .prop_map(|fields| fields.into_iter().collect::<serde_json::Map<_, _>>())
    };
    match name {
        "dangerouslySkipPermissions"
        | "reset"
        | "submodules"
        | "lfs"
        | "update"
        | "draft"
        | "allowProtected" => any::<bool>().prop_map(Value::from).boxed(),
        "maxTurns" | "timeoutSeconds" | "depth" | "attempts" => {
            (0..20_u32).prop_map(Value::from).boxed()
        }
        "maxBudgetUsd" => prop_oneof![0.0..1e6_f64, any::<f64>()].prop_map(Value::from).boxed(),
        "repoUrl" | "callbackUrl" => prop_oneof![
            "(https?|ssh)://([a-z%:]{0,5}@)?[a-zA-Z0-9.:-]{1,9}/[ -~é]{1,24}".prop_map(Value::from),
            ("[é/a%]{1,2}", 0..2000_usize).prop_map(|(part, times)| format!(
                "https://h/{}",
                part.repeat(times)
            )
            .into()),
            ("[é/a%:@]{1,2}", 0..1500_usize).prop_map(|(part, times)| format!(
                "https://u:{}@h/r",
                part.repeat(times)
            )
            .into()),
        ]
        .boxed(),
        "branch" | "base" => prop_oneof![
            one_of(&["main", "a/b", "é", "refs/x"]),
            "[-a-z./@]{1,9}".prop_map(Value::from)
        ]
        .boxed(),
        "directory" | "workspace" => prop_oneof![
            one_of(&["app", "/w/app", "jobs/x", "a/./b"]),
            "[a-z./]{1,9}".prop_map(Value::from)
        ]
        .boxed(),
        "model" => "[a-z][a-z0-9.\\[\\]/@:-]{0,12}".prop_map(Value::from).boxed(),
        "allowedTools" => {
            proptest::collection::vec("[A-Z][a-z_]{0,8}", 1..4).prop_map(Value::from).boxed()
        }
        "resumeSessionId" => one_of(&[JOB, "0199F3A0-0000-7000-8000-00000000000F"]),
        "filter" => one_of(&["blob:none"]),
        "retain" => one_of(&["none", "all"]),
        "mode" => one_of(&["branch", "pull_request", "none"]),
        "commits" => one_of(&["squash", "keep"]),
        "labels" => proptest::collection::btree_map("[^:\\p{Cc}]{1,8}", "\\PC{0,70}", 0..4)
            .prop_map(|labels| json!(labels))
            .boxed(),
        "verify" => (proptest::collection::vec(text(), 1..3), proptest::option::of(0..12_u32))
            .prop_map(|(run, attempts)| json!({"run": run, "attempts": attempts}))
            .boxed(),
        "deliver" => {
            object(&["branch", "base", "title", "body", "draft", "allowProtected", "commits"])
                .prop_flat_map(|fields| (Just(fields), likely("mode")))
                .prop_map(|(mut fields, mode)| {
                    fields.insert("mode".into(), mode);
                    fields.into()
                })
                .boxed()
        }
        // Most of the rest are free text.
        _ => text(),
    }
}

/// Strings built from problematic pieces.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "repo",
        "/",
        "//",
        "..",
        ".",
        "-",
        "--upload-pack=x",
        ":",
        "::",
        "@",
        "https://",
        "http://",
        "ssh://",
        "git://",
        "file://",
        "ext::",
        "h",
        "h.example",
        "127.0.0.1",
        "[::1]",
        ":22",
        ".git",
        ".stack",
        "%2e%2e",
        "%00",
        "\0",
        "\n",
        " ",
        "~",
        "^",
        "?",
        "#",
        "*",
        "é",
        "user:pass@",
        "/w",
        "\\",
        "jobs",
        ".lock",
        "@{",
    ]);
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}
