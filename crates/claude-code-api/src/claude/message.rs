//! Parses the CLI's output lines.

use std::{borrow::Cow, collections::HashMap};

use contract::{AgentSummary, EventLine, LineError, SessionId};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{json, value::RawValue};

use crate::{
    dialect::{Kind, Message, State},
    runner::Line,
};

/// How many bytes of an unparsable line are shown.
const EXCERPT: usize = 200;

/// A `result` line.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunResult {
    /// If it is missing, the run was not a success.
    pub(crate) is_error: Option<bool>,
    pub(crate) subtype: String,
    pub(crate) api_error_status: Option<u16>,
    pub(crate) errors: Vec<String>,
    pub(crate) summary: AgentSummary,
}

impl Message<RunResult> {
    /// Parses a line. A line that is not a JSON object becomes a message that says so and shows its beginning.
    /// Returns `None` for an empty line.
    pub(crate) fn read(line: Line<'_>) -> Option<Self> {
        match line {
            Line::Whole(line) if line.trim_ascii().is_empty() => None,
            Line::Whole(line) => Some(
                Self::parse(line)
                    .unwrap_or_else(|_| Self::unparsed("not a JSON object", line, line.len())),
            ),
            Line::TooLong { begin, bytes } => Some(Self::unparsed("too long", begin, bytes)),
        }
    }

    fn parse(line: &[u8]) -> Result<Self, LineError> {
        // JSON allows a carriage return between tokens, but an event must not contain one. It cannot occur in a
        // string.
        if memchr::memchr(b'\r', line).is_some() {
            let spaced = |byte: &u8| if *byte == b'\r' { b' ' } else { *byte };
            return Self::parse(&line.iter().map(spaced).collect::<Vec<_>>());
        }
        match EventLine::parse::<Head<'_>>(line) {
            Ok((content, head)) => {
                let kind = Kind::of(&head, &content);
                Ok(Self { content, kind })
            }
            // An object with other fields is a message too.
            Err(_) => EventLine::from_json(line).map(|content| Self { content, kind: Kind::Other }),
        }
    }

    fn unparsed(reason: &str, begin: &[u8], bytes: usize) -> Self {
        let excerpt = begin.get(..EXCERPT).unwrap_or(begin);
        let content = EventLine::encode(&json!({
            "type": "system",
            "subtype": "unparsed_line",
            "reason": reason,
            "bytes": bytes,
            "excerpt": String::from_utf8_lossy(excerpt),
        }));
        Self { content, kind: Kind::Other }
    }
}

/// The fields that say what a message is.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    subtype: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    state: Option<Cow<'a, str>>,
}

impl Kind<RunResult> {
    fn of(head: &Head<'_>, content: &EventLine) -> Self {
        match (&*head.kind, head.subtype.as_deref()) {
            ("system", Some("init")) => Self::Begun,
            ("system", Some("session_state_changed")) => Self::State(match head.state.as_deref() {
                Some("idle") => State::Idle,
                _ => State::Busy,
            }),
            ("assistant", _) => Self::Answer,
            ("result", _) => Self::Report(Box::new(RunResult::read(content))),
            _ => Self::Other,
        }
    }
}

impl RunResult {
    /// Reads field by field, so that one field changed by another CLI version does not affect the others.
    fn read(content: &EventLine) -> Self {
        let fields: HashMap<Cow<'_, str>, &RawValue> =
            serde_json::from_slice(content.as_bytes()).unwrap_or_default();
        fn get<T: DeserializeOwned>(
            fields: &HashMap<Cow<'_, str>, &RawValue>,
            name: &str,
        ) -> Option<T> {
            serde_json::from_str(fields.get(name)?.get()).ok()
        }
        let usage = fields.get("usage").filter(|usage| usage.get() != "null");
        Self {
            is_error: get(&fields, "is_error"),
            subtype: get(&fields, "subtype").unwrap_or_default(),
            api_error_status: get(&fields, "api_error_status"),
            errors: get(&fields, "errors").unwrap_or_default(),
            summary: AgentSummary {
                session_id: get::<SessionId>(&fields, "session_id"),
                result: get(&fields, "result"),
                cost_usd: get(&fields, "total_cost_usd"),
                num_turns: get(&fields, "num_turns"),
                duration_ms: get(&fields, "duration_ms"),
                usage: usage.map(|usage| (*usage).to_owned()),
                ..AgentSummary::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &[u8]) -> Message<RunResult> {
        Message::read(Line::Whole(line)).unwrap()
    }

    fn text(message: &Message<RunResult>) -> &str {
        std::str::from_utf8(message.content.as_bytes()).unwrap()
    }

    #[test]
    fn a_message_is_passed_on_unchanged() {
        for line in [
            r#"{"type":"user","n":1.50,"a" : [1, 2],"u":"\u2028é🦀"}"#,
            "{}",
            r#"{"type":5}"#,
            r#"{"type":"x","type":"y"}"#,
        ] {
            let message = read(line.as_bytes());
            assert_eq!(text(&message), line);
            assert!(matches!(message.kind, Kind::Other));
        }
        // Unchanged in value.
        assert_eq!(text(&read("{\"a\":\"\u{2028}\u{85}\"}".as_bytes())), r#"{"a":"\u2028\u0085"}"#);
        assert_eq!(text(&read(b"{\r\"a\":\r1}\r")), "{ \"a\": 1}");
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(text(&read(deep.as_bytes())), deep);
    }

    #[test]
    fn a_line_that_is_not_an_object_is_quoted() {
        for line in [
            &b"Warning: something"[..],
            b"[1]",
            b"\"{}\"",
            b"{",
            b"{}{}",
            b"{\"a\":\"\xff\"}",
            b"\xff\xfe\x00",
        ] {
            let content: serde_json::Value = read(line).content.peek().unwrap();
            assert_eq!(content["subtype"], "unparsed_line");
            assert_eq!(content["bytes"], line.len());
            assert_eq!(content["excerpt"], *String::from_utf8_lossy(line));
        }
        let long = Line::TooLong { begin: &[b'x'; 500], bytes: 1_000_000 };
        let message = Message::read(long).unwrap();
        let content: serde_json::Value = message.content.peek().unwrap();
        assert_eq!(
            (&content["reason"], &content["bytes"]),
            (&"too long".into(), &1_000_000.into())
        );
        assert_eq!(content["excerpt"].as_str().unwrap().len(), EXCERPT);
        assert!(Message::read(Line::Whole(b" \r")).is_none());
    }

    #[test]
    fn an_invalid_field_does_not_spoil_a_result() {
        let line = concat!(
            r#"{"type":"result","subtype":"success","is_error":false,"result":"done","num_turns":"two","#,
            r#""total_cost_usd":0.5,"duration_ms":7,"usage":{"a": 1},"session_id":"not one","errors":null}"#
        );
        let Kind::Report(result) = read(line.as_bytes()).kind else { panic!("not a result") };
        assert_eq!((result.is_error, &*result.subtype), (Some(false), "success"));
        let summary = result.summary;
        assert_eq!((summary.result.as_deref(), summary.cost_usd), (Some("done"), Some(0.5)));
        assert_eq!((summary.num_turns, summary.duration_ms), (None, Some(7)));
        assert_eq!(summary.usage.unwrap().get(), r#"{"a": 1}"#);
        assert_eq!(summary.session_id, None);
    }

    #[test]
    fn states_are_parsed() {
        let state = |state: &str| {
            let line = format!(
                r#"{{"type":"system","subtype":"session_state_changed","state":"{state}"}}"#
            );
            match read(line.as_bytes()).kind {
                Kind::State(state) => state,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((state("idle"), state("running")), (State::Idle, State::Busy));
        assert!(matches!(read(br#"{"type":"system","subtype":"init"}"#).kind, Kind::Begun));
    }

    properties::fuzz! {
        /// Whatever a result says, what can be read of it is read, and it is passed on as it is.
        #[test]
        fn a_field_of_a_result_does_not_affect_the_others(
            name in proptest::sample::select(vec![
                "is_error", "api_error_status", "errors", "session_id", "result", "total_cost_usd", "num_turns",
                "duration_ms", "usage", "other\u{0}\"",
            ]),
            value in prop_oneof![
                any::<String>().prop_map(serde_json::Value::from),
                any::<i64>().prop_map(serde_json::Value::from),
                any::<f64>().prop_map(serde_json::Value::from),
                any::<bool>().prop_map(serde_json::Value::from),
                proptest::collection::vec(any::<String>(), 0..3).prop_map(serde_json::Value::from),
                Just(json!({"input_tokens": -1, "a": [1e300]})),
                Just(serde_json::Value::Null),
            ],
        ) {
            let mut line = json!({
                "type": "result", "subtype": "success", "is_error": false, "result": "done", "total_cost_usd": 0.25,
                "num_turns": 2, "duration_ms": 5, "usage": {"input_tokens": 1},
            });
            line[name] = value;
            let message = read(line.to_string().as_bytes());
            prop_assert_eq!(&message.content.peek::<serde_json::Value>().unwrap(), &line);
            let Kind::Report(result) = &message.kind else { panic!("{line}") };
            let summary = &result.summary;
            prop_assert_eq!(&result.subtype, "success");
            prop_assert!(name == "is_error" || result.is_error == Some(false));
            prop_assert!(name == "result" || summary.result.as_deref() == Some("done"));
            prop_assert!(name == "total_cost_usd" || summary.cost_usd == Some(0.25));
            prop_assert!(name == "num_turns" || summary.num_turns == Some(2));
            prop_assert!(name == "duration_ms" || summary.duration_ms == Some(5));
            let usage = summary.usage.as_ref().map(|usage| usage.get());
            let is_same = name == "usage" || usage == Some(r#"{"input_tokens":1}"#);
            prop_assert!(is_same, "{usage:?}");
        }

        /// Half of the characters are JSON syntax, so that some lines parse.
        #[test]
        fn any_line_becomes_an_object_on_one_line(
            line in proptest::collection::vec(
                prop_oneof![any::<u8>(), proptest::sample::select(&b"{}[]:,\"\r\\ 1e"[..])],
                0..30,
            ),
        ) {
            if let Some(message) = Message::read(Line::Whole(&line)) {
                let text = text(&message);
                let is_on_one_line = !text.contains(['\n', '\r']);
                prop_assert!(is_on_one_line);
                let object = serde_json::from_str::<serde_json::Map<_, _>>(text);
                prop_assert!(object.is_ok());
            }
        }
    }
}
