//! The lines of the Claude Code CLI's `stream-json` output, as far as the rehearsal agent speaks it.

use std::{path::Path, time::Instant};

use serde_json::{Value, json};
use uuid::Uuid;

/// What it says its model is.
pub(super) const MODEL: &str = "rehearsal";

/// Makes the lines of one session.
#[derive(Debug)]
pub(super) struct Messages {
    session: String,
    began: Instant,
    /// How many assistant messages there were.
    spoken: u32,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End<'a> {
    /// With these last words.
    Done(&'a str),
    /// The caller interrupted it.
    Interrupted,
    /// There is no such session to go on with.
    NoSession,
}

impl Messages {
    pub(super) fn new(session: &str) -> Self {
        Self { session: session.to_owned(), began: Instant::now(), spoken: 0 }
    }

    /// `system`/`init`.
    pub(super) fn init(&self, cwd: &Path, tools: &[String], permission_mode: &str) -> Value {
        self.line(json!({
            "type": "system",
            "subtype": "init",
            "cwd": cwd.to_string_lossy(),
            "tools": tools,
            "mcp_servers": [],
            "model": MODEL,
            "permissionMode": permission_mode,
            "slash_commands": [],
            "apiKeySource": "none",
            "claude_code_version": super::VERSION,
            "output_style": "default",
            "agents": [],
            "skills": [],
            "plugins": [],
        }))
    }

    /// `system`/`session_state_changed`.
    pub(super) fn state(&self, state: &str) -> Value {
        self.line(json!({"type": "system", "subtype": "session_state_changed", "state": state}))
    }

    /// An assistant message of one text.
    pub(super) fn text(&mut self, text: &str) -> Value {
        self.assistant(json!({"type": "text", "text": text}))
    }

    /// An assistant message of one use of a tool; its id too, for the answer.
    pub(super) fn tool_use(&mut self, name: &str, input: &Value) -> (Value, String) {
        let id = format!("toolu_rehearsal{:02}", self.spoken + 1);
        let block = json!({"type": "tool_use", "id": id, "name": name, "input": input});
        (self.assistant(block), id)
    }

    fn assistant(&mut self, block: Value) -> Value {
        self.spoken += 1;
        self.line(json!({
            "type": "assistant",
            "message": {
                "id": format!("msg_rehearsal{:02}", self.spoken),
                "type": "message",
                "role": "assistant",
                "model": MODEL,
                "content": [block],
                "stop_reason": null,
                "stop_sequence": null,
                "usage": {"input_tokens": 0, "output_tokens": 0},
            },
            "parent_tool_use_id": null,
        }))
    }

    /// What the tool said.
    pub(super) fn tool_result(&self, id: &str, said: &Result<String, String>) -> Value {
        let (Ok(text) | Err(text)) = said;
        let mut block = json!({"tool_use_id": id, "type": "tool_result", "content": text});
        if let (Err(_), Some(block)) = (said, block.as_object_mut()) {
            block.insert("is_error".into(), true.into());
        }
        self.user(block)
    }

    /// What the CLI says of an interrupted turn before its `result`.
    pub(super) fn interrupted(&self) -> Value {
        self.user(json!({"type": "text", "text": "[Request interrupted by user]"}))
    }

    fn user(&self, block: Value) -> Value {
        self.line(json!({
            "type": "user",
            "message": {"role": "user", "content": [block]},
            "parent_tool_use_id": null,
        }))
    }

    /// `result`. Nothing was paid for.
    pub(super) fn result(&self, end: End<'_>, denials: &[Value]) -> Value {
        let milliseconds = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut line = json!({
            "type": "result",
            "is_error": !matches!(end, End::Done(_)),
            "duration_ms": milliseconds,
            "duration_api_ms": 0,
            "num_turns": self.spoken.max(1),
            "stop_reason": "end_turn",
            "total_cost_usd": 0,
            "usage": {
                "input_tokens": 0,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 0,
            },
            "modelUsage": {},
            "permission_denials": denials,
        });
        let missing = format!("No conversation found with session ID: {}", self.session);
        let more = match end {
            End::Done(text) => json!({"subtype": "success", "result": text}),
            End::Interrupted => {
                json!({"subtype": "error_during_execution", "errors": ["interrupted"]})
            }
            End::NoSession => json!({"subtype": "error_during_execution", "errors": [missing]}),
        };
        merge(&mut line, more);
        self.line(line)
    }

    /// The answer to a control request.
    pub(super) fn control_response(request_id: &Value) -> Value {
        let response = json!({"subtype": "success", "request_id": request_id});
        json!({"type": "control_response", "response": response})
    }

    /// With what every line carries.
    fn line(&self, mut line: Value) -> Value {
        merge(&mut line, json!({"session_id": self.session, "uuid": Uuid::new_v4().to_string()}));
        line
    }
}

fn merge(line: &mut Value, more: Value) {
    if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
}
