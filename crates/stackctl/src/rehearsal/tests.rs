use std::{fs, io::Cursor};

use serde_json::json;

use super::*;

const SESSION: &str = "0b1f8a0e-5a3e-4bd5-8ba5-5e8be7c7a1d6";

/// Everything the agent says to these lines, and what it exits with.
fn run(cwd: &Path, flags: &[&str], lines: &[Value]) -> (Vec<Value>, u8) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let (sender, inputs) = mpsc::channel();
    read(Cursor::new(text), &sender);
    drop(sender);
    let mut output = Vec::new();
    let args = ["--session-id", SESSION].into_iter().chain(flags.iter().copied());
    let flags = Flags::parse(args.map(OsString::from));
    let messages = Messages::new(&flags.session);
    let (pace, states) = (Duration::ZERO, States::Told);
    let code = Agent { flags, messages, inputs, output: &mut output, cwd, pace, states }.run();
    let said = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    (said.map(|line| serde_json::from_slice(line).unwrap()).collect(), code)
}

fn user(text: &str) -> Value {
    json!({"type": "user", "message": {"role": "user", "content": text}})
}

/// What kind of line it is, and what it says.
fn told(line: &Value) -> String {
    let text = |pointer| line.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let block = "/message/content/0";
    [
        text("/type"),
        text("/subtype"),
        text("/state"),
        text(&format!("{block}/type")),
        text(&format!("{block}/name")),
        text("/response/request_id"),
    ]
    .into_iter()
    .filter(|part| !part.is_empty())
    .collect::<Vec<_>>()
    .join(" ")
}

const BYPASS: [&str; 2] = ["--permission-mode", "bypassPermissions"];

#[test]
fn a_turn() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a.txt"), "a\n").unwrap();
    let (said, code) = run(root.path(), &BYPASS, &[user("Look around")]);
    let kinds: Vec<_> = said.iter().map(told).collect();
    insta::assert_json_snapshot!(kinds, @r#"
    [
      "system session_state_changed running",
      "system init",
      "assistant text",
      "assistant tool_use Glob",
      "user tool_result",
      "assistant text",
      "assistant tool_use Write",
      "user tool_result",
      "assistant text",
      "result success",
      "system session_state_changed idle"
    ]
    "#);
    assert_eq!(code, 0);
    assert!(said.iter().all(|line| line["session_id"] == SESSION && line["uuid"].is_string()));
    assert_eq!(said[1]["model"], "rehearsal");
    let first = said[2]["message"]["content"][0]["text"].as_str().unwrap();
    assert!(first.contains("rehearsal") && first.contains("Look around"), "{first}");
    let written = &said[6]["message"]["content"][0]["input"];
    let path = root.path().join("REHEARSAL.md");
    assert_eq!(written["file_path"], *path.to_str().unwrap());
    assert_eq!(written["content"], fs::read_to_string(path).unwrap());
    let result = &said[9];
    assert_eq!((&result["is_error"], &result["total_cost_usd"]), (&json!(false), &json!(0)));
    assert_eq!(result["result"], said[8]["message"]["content"][0]["text"]);
}

#[test]
fn without_permission_it_says_what_it_would_have_done() {
    let root = tempfile::tempdir().unwrap();
    let (said, code) = run(root.path(), &[], &[user("x")]);
    assert_eq!(code, 0);
    let result = &said[9];
    assert_eq!(result["is_error"], false);
    assert_eq!(result["permission_denials"][0]["tool_name"], "Write");
    assert_eq!(said[7]["message"]["content"][0]["is_error"], true);
    assert!(!root.path().join("REHEARSAL.md").exists());
}

#[test]
fn a_link_in_the_way_is_not_written_through() {
    let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    std::os::unix::fs::symlink(outside.path(), root.path().join("REHEARSAL.md")).unwrap();
    let (said, code) = run(root.path(), &BYPASS, &[user("x")]);
    assert_eq!(code, 0);
    assert!(said[9]["result"].as_str().unwrap().starts_with("I have changed nothing"));
    assert_eq!(outside.path().metadata().unwrap().len(), 0);
}

#[test]
fn an_interrupt_ends_the_turn() {
    let root = tempfile::tempdir().unwrap();
    let interrupt = json!({
        "type": "control_request", "request_id": "stop", "request": {"subtype": "interrupt"},
    });
    let (said, code) = run(root.path(), &BYPASS, &[user("x"), interrupt.clone()]);
    let kinds: Vec<_> = said.iter().map(told).collect();
    insta::assert_json_snapshot!(kinds, @r#"
    [
      "system session_state_changed running",
      "system init",
      "control_response stop",
      "user text",
      "result error_during_execution",
      "system session_state_changed idle"
    ]
    "#);
    assert_eq!((code, &said[4]["is_error"]), (1, &json!(true)));
    assert!(!root.path().join("REHEARSAL.md").exists());
    let (said, code) = run(root.path(), &BYPASS, &[interrupt]);
    assert_eq!((said.len(), code), (1, 1));
}

#[test]
fn what_is_no_prompt() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(run(root.path(), &BYPASS, &[]), (vec![], 0));
    assert_eq!(run(root.path(), &BYPASS, &[json!({"type": "keep_alive"})]), (vec![], 0));
    let (sender, inputs) = mpsc::channel();
    read(Cursor::new("\n{\"type\":\n"), &sender);
    assert!(matches!(inputs.try_recv(), Ok(Input::Garbage(_))));
    let blocks = json!([{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}]);
    let message = json!({"type": "user", "message": {"content": blocks}});
    assert_eq!(input(&message), Some(Input::User("a\nb".into())));
}

#[test]
fn a_session_that_is_not_there() {
    let root = tempfile::tempdir().unwrap();
    let (said, code) = run(root.path(), &["--resume", SESSION], &[user("x")]);
    assert_eq!((said.len(), code), (1, 1));
    let error = said[0]["errors"][0].as_str().unwrap();
    assert!(error.contains("No conversation found with session ID"), "{error}");
}

#[test]
fn its_name() {
    for (program, called) in [
        (Some("/tmp/x/claude-rehearsal"), true),
        (Some("claude-rehearsal"), true),
        (Some("/usr/bin/stackctl"), false),
        (Some("/claude-rehearsal/stackctl"), false),
        (None, false),
    ] {
        assert_eq!(is_called(program.map(OsStr::new)), called, "{program:?}");
    }
}
