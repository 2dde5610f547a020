//! The messages of the CLI's `stream-json` output, shaped like recordings of the real CLI.

use std::{path::Path, time::Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// What a stand-in reports about itself.
#[derive(Clone, Debug)]
pub struct Persona {
    /// The name of its model.
    pub model: String,
    /// What `--version` prints; the first word is the version.
    pub version: &'static str,
    /// The source of its credential, in the CLI's terms.
    pub api_key_source: &'static str,
    /// Its tools, unless `--tools` names others.
    pub tools: &'static [&'static str],
    /// The usage that it reports for a run.
    pub usage: Usage,
}

/// Tokens and money.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Input tokens.
    pub input: u64,
    /// Tokens written to the cache.
    pub cache_write: u64,
    /// Tokens read from the cache.
    pub cache_read: u64,
    /// Output tokens.
    pub output: u64,
    /// The cost in US dollars.
    pub cost_usd: f64,
}

/// The end of a run, for its `result` line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ending {
    /// Whether the run failed; the agent then exits with 1.
    pub is_error: bool,
    /// The API's status, if an API error was the cause.
    pub api_error_status: Option<u16>,
    /// The result's text, or the error's.
    pub text: String,
    /// The subtype, such as `error_max_turns`; `success` if `None`.
    pub subtype: Option<String>,
    /// Tool calls that the permissions did not allow.
    #[serde(skip)]
    pub denials: Vec<Value>,
}

impl Ending {
    /// The end of a run that the CLI abandons: after an interrupt, or if the session does not exist.
    pub(crate) fn gave_up(text: String) -> Self {
        let subtype = Some("error_during_execution".to_owned());
        Self { is_error: true, text, subtype, ..Self::default() }
    }
}

/// Whether `stream_event` lines surround each message (`--include-partial-messages`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partial {
    /// Yes.
    Included,
    /// No.
    Omitted,
}

/// Builds the messages of one session.
#[derive(Clone, Debug)]
pub struct Messages {
    session: String,
    persona: Persona,
    began: Instant,
    /// The number of assistant messages so far.
    count: usize,
}

impl Messages {
    /// The messages of this session.
    #[must_use]
    pub fn new(session: &str, persona: Persona) -> Self {
        Self { session: session.to_owned(), persona, began: Instant::now(), count: 0 }
    }

    /// `system`/`init`.
    #[must_use]
    pub fn init(&self, cwd: &Path, tools: &[String], permission_mode: &str) -> Value {
        self.line(json!({
            "type": "system",
            "subtype": "init",
            "cwd": cwd.to_string_lossy(),
            "tools": tools,
            "mcp_servers": [],
            "model": self.persona.model,
            "permissionMode": permission_mode,
            "slash_commands": ["clear", "compact", "context", "init", "review"],
            "apiKeySource": self.persona.api_key_source,
            "claude_code_version": self.persona.version.split(' ').next(),
            "output_style": "default",
            "agents": ["claude", "Explore", "general-purpose", "Plan", "statusline-setup"],
            "skills": [],
            "plugins": [],
            "analytics_disabled": true,
            "product_feedback_disabled": true,
            "fast_mode_state": "off",
        }))
    }

    /// `system`/`session_state_changed`.
    #[must_use]
    pub fn state(&self, state: &str) -> Value {
        self.line(json!({"type": "system", "subtype": "session_state_changed", "state": state}))
    }

    /// An assistant message that consists of text.
    pub fn text(&mut self, text: &str, partial: Partial) -> Vec<Value> {
        let empty = json!({"type": "text", "text": ""});
        let delta = json!({"type": "text_delta", "text": text});
        self.assistant(&json!({"type": "text", "text": text}), &empty, &delta, partial)
    }

    /// An assistant message that consists of one tool call, and the call's ID.
    pub fn tool_use(
        &mut self,
        name: &str,
        input: &Value,
        partial: Partial,
    ) -> (Vec<Value>, String) {
        let id = format!("toolu_{:05}", self.count + 1);
        let block = json!({"type": "tool_use", "id": id, "name": name, "input": input});
        let empty = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
        let delta = json!({"type": "input_json_delta", "partial_json": input.to_string()});
        (self.assistant(&block, &empty, &delta, partial), id)
    }

    /// A message with one block. With partial messages, it is surrounded by its events, and the block is first sent
    /// as `empty` and then as one `delta`.
    fn assistant(
        &mut self,
        block: &Value,
        empty: &Value,
        delta: &Value,
        partial: Partial,
    ) -> Vec<Value> {
        self.count += 1;
        let Usage { input, cache_write, cache_read, output, .. } = self.persona.usage;
        let message = json!({
            "id": format!("msg_{:05}", self.count),
            "type": "message",
            "role": "assistant",
            "model": self.persona.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": {
                "input_tokens": input,
                "cache_creation_input_tokens": cache_write,
                "cache_read_input_tokens": cache_read,
                "output_tokens": output.min(1),
                "service_tier": "standard",
            },
        });
        let mut whole = message.clone();
        merge(&mut whole, json!({"content": [block], "context_management": null}));
        let whole = self.line(json!({
            "type": "assistant",
            "message": whole,
            "parent_tool_use_id": null,
            "request_id": format!("req_{:05}", self.count),
        }));
        if partial == Partial::Omitted {
            return vec![whole];
        }
        let event = |event: Value| {
            self.line(json!({"type": "stream_event", "event": event, "parent_tool_use_id": null}))
        };
        vec![
            event(json!({"type": "message_start", "message": message})),
            event(json!({"type": "content_block_start", "index": 0, "content_block": empty})),
            event(json!({"type": "content_block_delta", "index": 0, "delta": delta})),
            whole,
            event(json!({"type": "content_block_stop", "index": 0})),
            event(json!({
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": null},
                "usage": {"output_tokens": output},
            })),
            event(json!({"type": "message_stop"})),
        ]
    }

    /// The result of a tool call.
    #[must_use]
    pub fn tool_result(&self, id: &str, returned: &Result<String, String>) -> Value {
        let (Ok(text) | Err(text)) = returned;
        let mut block = json!({"tool_use_id": id, "type": "tool_result", "content": text});
        if returned.is_err() {
            merge(&mut block, json!({"is_error": true}));
        }
        self.user(&block)
    }

    /// The message that precedes the `result` of an interrupted turn.
    #[must_use]
    pub fn interrupted(&self) -> Value {
        self.user(&json!({"type": "text", "text": "[Request interrupted by user for tool use]"}))
    }

    fn user(&self, block: &Value) -> Value {
        self.line(json!({
            "type": "user",
            "message": {"role": "user", "content": [block]},
            "parent_tool_use_id": null,
        }))
    }

    /// The `result`. As in the CLI, an API error has the subtype `success` and `is_error`, and the other subtypes
    /// have `errors` instead of `result`.
    #[must_use]
    pub fn result(&self, ending: &Ending) -> Value {
        let Usage { input, cache_write, cache_read, output, cost_usd } = self.persona.usage;
        let subtype = ending.subtype.as_deref().unwrap_or("success");
        let mut line = json!({
            "type": "result",
            "subtype": subtype,
            "is_error": ending.is_error,
            "duration_ms": u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "duration_api_ms": 0,
            "num_turns": self.count.max(1),
            "stop_reason": "end_turn",
            "total_cost_usd": cost_usd,
            "usage": {
                "input_tokens": input,
                "cache_creation_input_tokens": cache_write,
                "cache_read_input_tokens": cache_read,
                "output_tokens": output,
                "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
                "service_tier": "standard",
                "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
                "inference_geo": "",
                "iterations": [],
                "speed": "standard",
            },
            "modelUsage": {
                &self.persona.model: {
                    "inputTokens": input,
                    "outputTokens": output,
                    "cacheReadInputTokens": cache_read,
                    "cacheCreationInputTokens": cache_write,
                    "webSearchRequests": 0,
                    "costUSD": cost_usd,
                    "contextWindow": 200_000,
                    "maxOutputTokens": 64_000,
                },
            },
            "permission_denials": ending.denials,
            "terminal_reason": "completed",
            "fast_mode_state": "off",
        });
        merge(
            &mut line,
            if subtype == "success" {
                json!({"api_error_status": ending.api_error_status, "result": ending.text})
            } else {
                json!({"errors": [ending.text]})
            },
        );
        self.line(line)
    }

    /// The answer to a control request.
    #[must_use]
    pub fn control_response(request_id: &Value) -> Value {
        let response = json!({"subtype": "success", "request_id": request_id});
        json!({"type": "control_response", "response": response})
    }

    /// Adds the fields that every line has.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Checks that a line has the fields of the recorded one, except for a few optional ones.
    fn assert_shape(ours: &Value, kind: &str, subtype: Option<&str>, missing: &[&str]) {
        let recording = include_str!("../../../tests/fixtures/claude-cli/recommended-first.ndjson");
        let recorded: Value = recording
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .find(|line| line["type"] == kind && line["subtype"].as_str() == subtype)
            .unwrap();
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect();
        let (ours, recorded): (BTreeSet<String>, BTreeSet<String>) = (keys(ours), keys(&recorded));
        let gone: Vec<_> = recorded.difference(&ours).map(String::as_str).collect();
        assert_eq!(gone, missing, "{kind} {subtype:?}");
        assert!(ours.is_subset(&recorded), "{:?}", ours.difference(&recorded));
    }

    #[test]
    fn lines_have_the_recorded_fields() {
        let persona = Persona {
            model: "claude-sonnet-5".into(),
            version: "2.1.197 (Claude Code)",
            api_key_source: "none",
            tools: &[],
            usage: Usage::default(),
        };
        let mut messages = Messages::new("s", persona);
        let init = messages.init(Path::new("/w"), &["Bash".to_owned()], "bypassPermissions");
        assert_shape(&init, "system", Some("init"), &[]);
        assert_eq!(init["claude_code_version"], "2.1.197");
        assert_shape(&messages.state("idle"), "system", Some("session_state_changed"), &[]);
        let lines = messages.text("hello", Partial::Included);
        assert_shape(&lines[0], "stream_event", None, &["ttft_ms"]);
        assert_shape(&lines[3], "assistant", None, &[]);
        let result = messages.result(&Ending::default());
        let timings = ["time_to_request_ms", "ttft_ms", "ttft_stream_ms"];
        assert_shape(&result, "result", Some("success"), &timings);
    }
}
