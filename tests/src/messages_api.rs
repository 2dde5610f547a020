//! Answers of the Messages API, as JSON and as an event stream. See
//! <https://docs.anthropic.com/en/api/messages-streaming>.

use serde_json::{Value, json};

/// The content of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Text(String),
    ToolUse { name: String, input: Value },
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) number: usize,
    pub(crate) model: String,
    pub(crate) content: Content,
}

impl Message {
    fn id(&self) -> String {
        format!("msg_mock{:05}", self.number)
    }

    fn tool_id(&self) -> String {
        format!("toolu_mock{:05}", self.number)
    }

    fn stop_reason(&self) -> &'static str {
        match self.content {
            Content::Text(_) => "end_turn",
            Content::ToolUse { .. } => "tool_use",
        }
    }

    fn envelope(&self, content: Value, stop_reason: Value, output_tokens: u32) -> Value {
        json!({
            "id": self.id(),
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": null,
            "usage": {
                "input_tokens": 1000,
                "cache_creation_input_tokens": 200,
                "cache_read_input_tokens": 300,
                "output_tokens": output_tokens,
                "service_tier": "standard",
            },
        })
    }

    /// The answer as one JSON body.
    pub(crate) fn whole(&self) -> Value {
        let block = match &self.content {
            Content::Text(text) => json!({"type": "text", "text": text}),
            Content::ToolUse { name, input } => {
                json!({"type": "tool_use", "id": self.tool_id(), "name": name, "input": input})
            }
        };
        self.envelope(json!([block]), json!(self.stop_reason()), 50)
    }

    /// The events of the answer up to the first delta of its only block, and the rest.
    pub(crate) fn events(&self) -> (Vec<u8>, Vec<u8>) {
        let (empty, delta) = match &self.content {
            Content::Text(text) => {
                (json!({"type": "text", "text": ""}), json!({"type": "text_delta", "text": text}))
            }
            Content::ToolUse { name, input } => (
                json!({"type": "tool_use", "id": self.tool_id(), "name": name, "input": {}}),
                json!({"type": "input_json_delta", "partial_json": input.to_string()}),
            ),
        };
        let begin = [
            json!({"type": "message_start", "message": self.envelope(json!([]), Value::Null, 1)}),
            json!({"type": "content_block_start", "index": 0, "content_block": empty}),
            json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        ];
        let end = [
            json!({"type": "content_block_stop", "index": 0}),
            json!({
                "type": "message_delta",
                "delta": {"stop_reason": self.stop_reason(), "stop_sequence": null},
                "usage": {"output_tokens": 50},
            }),
            json!({"type": "message_stop"}),
        ];
        (encode(&begin), encode(&end))
    }
}

fn encode(events: &[Value]) -> Vec<u8> {
    let block = |event: &Value| {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
    };
    events.iter().map(block).collect::<String>().into_bytes()
}

/// The body of an error.
pub(crate) fn error(kind: &str, number: usize) -> Value {
    json!({
        "type": "error",
        "error": {"type": kind, "message": format!("mock: {kind}")},
        "request_id": format!("req_mock{number:05}"),
    })
}

/// The default error type for a status.
pub(crate) fn error_kind(status: u16) -> &'static str {
    match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    }
}
