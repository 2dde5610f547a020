//! The lines of the Claude CLI's `stream-json` output, in the shapes of the recordings under
//! `tests/fixtures/claude-cli`.

use std::path::Path;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::agent_script::ResultStep;

/// Makes the lines of one session.
#[derive(Clone, Debug)]
pub struct AgentMessages {
    session: String,
    model: String,
    messages: usize,
}

impl AgentMessages {
    /// The lines of this session, spoken by this model.
    #[must_use]
    pub fn new(session: &str, model: &str) -> Self {
        Self { session: session.to_owned(), model: model.to_owned(), messages: 0 }
    }

    /// `system/init`.
    #[must_use]
    pub fn init(&self, cwd: &Path, tools: &[&str], permission_mode: &str) -> Value {
        json!({
            "type": "system",
            "subtype": "init",
            "cwd": cwd,
            "session_id": self.session,
            "tools": tools,
            "mcp_servers": [],
            "model": self.model,
            "permissionMode": permission_mode,
            "slash_commands": ["clear", "compact", "context", "init", "review"],
            "apiKeySource": "ANTHROPIC_API_KEY",
            "claude_code_version": "2.1.197",
            "output_style": "default",
            "agents": ["claude", "Explore", "general-purpose", "Plan", "statusline-setup"],
            "skills": [],
            "plugins": [],
            "analytics_disabled": true,
            "product_feedback_disabled": true,
            "uuid": uuid(),
            "fast_mode_state": "off",
        })
    }

    /// `system/session_state_changed`.
    #[must_use]
    pub fn state(&self, state: &str) -> Value {
        json!({
            "type": "system",
            "subtype": "session_state_changed",
            "state": state,
            "uuid": uuid(),
            "session_id": self.session,
        })
    }

    /// The lines of one assistant message: with partial messages, its events stand around it.
    pub fn assistant(&mut self, text: &str, partial: Partial) -> Vec<Value> {
        self.messages += 1;
        let id = format!("msg_mock{:05}", self.messages);
        let usage = json!({
            "input_tokens": 1000,
            "cache_creation_input_tokens": 200,
            "cache_read_input_tokens": 300,
            "output_tokens": 1,
            "service_tier": "standard",
        });
        let whole = json!({
            "type": "assistant",
            "message": {
                "id": id,
                "type": "message",
                "role": "assistant",
                "model": self.model,
                "content": [{"type": "text", "text": text}],
                "stop_reason": null,
                "stop_sequence": null,
                "usage": usage,
                "context_management": null,
            },
            "parent_tool_use_id": null,
            "session_id": self.session,
            "uuid": uuid(),
            "request_id": format!("req_mock{:05}", self.messages),
        });
        if partial == Partial::Omitted {
            return vec![whole];
        }
        let start = json!({
            "id": id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": usage,
        });
        let block = json!({"type": "text", "text": ""});
        let delta = json!({"type": "text_delta", "text": text});
        let end = json!({"stop_reason": "end_turn", "stop_sequence": null});
        vec![
            self.event(json!({"type": "message_start", "message": start})),
            self.event(json!({"type": "content_block_start", "index": 0, "content_block": block})),
            self.event(json!({"type": "content_block_delta", "index": 0, "delta": delta})),
            whole,
            self.event(json!({"type": "content_block_stop", "index": 0})),
            self.event(json!({
                "type": "message_delta",
                "delta": end,
                "usage": {"output_tokens": 50},
            })),
            self.event(json!({"type": "message_stop"})),
        ]
    }

    fn event(&self, event: Value) -> Value {
        json!({
            "type": "stream_event",
            "event": event,
            "session_id": self.session,
            "parent_tool_use_id": null,
            "uuid": uuid(),
        })
    }

    /// The `result`. As with the CLI, an API error is a `success` that `is_error`, and the
    /// other subtypes carry `errors` and no `result`.
    #[must_use]
    pub fn result(&self, result: &ResultStep) -> Value {
        let subtype = result.subtype.as_deref().unwrap_or("success");
        let mut line = json!({
            "type": "result",
            "subtype": subtype,
            "is_error": result.is_error,
            "duration_ms": 134,
            "duration_api_ms": 65,
            "num_turns": self.messages.max(1),
            "stop_reason": "end_turn",
            "session_id": self.session,
            "total_cost_usd": 0.00765,
            "usage": {
                "input_tokens": 1000,
                "cache_creation_input_tokens": 200,
                "cache_read_input_tokens": 300,
                "output_tokens": 50,
                "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
                "service_tier": "standard",
                "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
                "inference_geo": "",
                "iterations": [],
                "speed": "standard",
            },
            "modelUsage": {
                &self.model: {
                    "inputTokens": 1000,
                    "outputTokens": 50,
                    "cacheReadInputTokens": 300,
                    "cacheCreationInputTokens": 200,
                    "webSearchRequests": 0,
                    "costUSD": 0.00765,
                    "contextWindow": 200_000,
                    "maxOutputTokens": 64_000,
                },
            },
            "permission_denials": [],
            "terminal_reason": "completed",
            "fast_mode_state": "off",
            "uuid": uuid(),
        });
        if subtype == "success" {
            line["api_error_status"] = json!(result.api_error_status);
            line["result"] = json!(result.text);
        } else {
            line["errors"] = json!([result.text]);
        }
        line
    }

    /// The answer to a control request.
    #[must_use]
    pub fn control_response(&self, request_id: &Value) -> Value {
        let response = json!({"subtype": "success", "request_id": request_id});
        json!({"type": "control_response", "response": response})
    }

    /// What the CLI says of an interrupted turn before its `result`.
    #[must_use]
    pub fn interrupted(&self) -> Value {
        let text = "[Request interrupted by user for tool use]";
        json!({
            "type": "user",
            "message": {"role": "user", "content": [{"type": "text", "text": text}]},
            "parent_tool_use_id": null,
            "session_id": self.session,
            "uuid": uuid(),
        })
    }
}

/// Whether `stream_event` lines are wanted (`--include-partial-messages`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partial {
    /// They are.
    Included,
    /// They are not.
    Omitted,
}

fn uuid() -> String {
    Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every field of ours is one of the recorded line's; the few that vary may be missing.
    fn assert_shape(ours: &Value, kind: &str, subtype: Option<&str>, missing: &[&str]) {
        let recording = include_str!("../fixtures/claude-cli/recommended-first.ndjson");
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
        let mut messages = AgentMessages::new("s", "claude-sonnet-5");
        let init = messages.init(Path::new("/w"), &["Bash"], "bypassPermissions");
        assert_shape(&init, "system", Some("init"), &[]);
        assert_shape(&messages.state("idle"), "system", Some("session_state_changed"), &[]);
        let lines = messages.assistant("hello", Partial::Included);
        assert_shape(&lines[0], "stream_event", None, &["ttft_ms"]);
        assert_shape(&lines[3], "assistant", None, &[]);
        let result = messages.result(&ResultStep::default());
        let timings = ["time_to_request_ms", "ttft_ms", "ttft_stream_ms"];
        assert_shape(&result, "result", Some("success"), &timings);
    }
}
