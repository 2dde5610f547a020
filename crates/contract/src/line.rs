//! An encoded event: a line of the journal and of an SSE `data:` field.

use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::value::RawValue;

/// A JSON object on one line that cannot break the framing of a journal or a stream.
///
/// It contains no line break of any kind: neither line feeds and carriage returns, which valid JSON does not allow in
/// strings, nor U+0085, U+2028 and U+2029, which JSON allows but at which common clients split lines (Python's
/// `str.splitlines`). The latter are written as `\u` escapes, which does not change the value.
#[derive(Clone, PartialEq, Eq)]
pub struct EventLine(Vec<u8>);

/// The bytes are not one JSON object.
#[derive(Debug, thiserror::Error)]
#[error("not a JSON object on one line")]
pub struct LineError;

impl EventLine {
    /// Encodes `event`.
    ///
    /// # Panics
    /// Never for the event types of this crate, which always serialize to an object. Any other type that does not
    /// becomes an `internal` error event.
    pub fn encode<T: Serialize>(event: &T) -> Self {
        match serde_json::to_vec(event) {
            Ok(json) => Self(escape_line_breaks(json)),
            Err(_) => {
                Self(br#"{"type":"error","error":"encoding failed","code":"internal"}"#.to_vec())
            }
        }
    }

    /// Checks that a line from elsewhere is one complete JSON object.
    ///
    /// # Errors
    /// [`LineError`] if it is not.
    pub fn from_json(json: &[u8]) -> Result<Self, LineError> {
        Self::parse::<IgnoredAny>(json).map(|(line, _)| line)
    }

    /// Like [`from_json`](Self::from_json), and parses the fields that a relay needs. The others are only checked.
    ///
    /// # Errors
    /// [`LineError`] if it is not one object, or if a field that `T` requires is missing or of another type.
    pub fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<(Self, T), LineError> {
        // The parser does not look into the strings that it skips.
        let text = std::str::from_utf8(json).map_err(|_| LineError)?;
        let fields = serde_json::from_str(text).map_err(|_| LineError)?;
        let object = text.trim_ascii().as_bytes();
        // A pretty-printed object contains line breaks.
        if !object.starts_with(b"{") || memchr::memchr2(b'\n', b'\r', object).is_some() {
            return Err(LineError);
        }
        Ok((Self(escape_line_breaks(object.to_vec())), fields))
    }

    /// An agent's message, encoded like [`ExecuteEvent::Message`](crate::ExecuteEvent::Message), but without parsing
    /// `content` again. `timestamp` is a displayed [`Timestamp`](crate::Timestamp).
    #[must_use]
    pub fn agent_message(content: &Self, timestamp: &str) -> Self {
        const PARTS: [&[u8]; 3] =
            [br#"{"type":"message","content":"#, br#","timestamp":""#, br#""}"#];
        let [begin, middle, end] = PARTS;
        Self([begin, &content.0, middle, timestamp.as_bytes(), end].concat())
    }

    /// The JSON, without a final line break.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The JSON as an owned value.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Parses the fields that a relay needs, and ignores the others.
    ///
    /// # Errors
    /// If a field that `T` requires is missing or of another type.
    pub fn peek<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }

    /// The JSON, to embed it in another event without encoding it again.
    ///
    /// # Errors
    /// Never for a line built by this type.
    pub fn to_raw(&self) -> Result<&RawValue, LineError> {
        serde_json::from_slice(&self.0).map_err(|_| LineError)
    }
}

impl std::fmt::Debug for EventLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// In valid JSON these sequences occur only inside strings, so the bytes can be replaced without parsing.
fn escape_line_breaks(json: Vec<u8>) -> Vec<u8> {
    const BREAKS: [(&[u8], &[u8]); 3] = [
        ("\u{85}".as_bytes(), br"\u0085"),
        ("\u{2028}".as_bytes(), br"\u2028"),
        ("\u{2029}".as_bytes(), br"\u2029"),
    ];
    // The first bytes of these sequences are rare.
    if memchr::memchr2(0xC2, 0xE2, &json).is_none() {
        return json;
    }
    let mut json = json;
    for (raw, escaped) in BREAKS {
        let finder = memchr::memmem::Finder::new(raw);
        if finder.find(&json).is_none() {
            continue;
        }
        let mut out = Vec::with_capacity(json.len() + 64);
        let mut rest = json.as_slice();
        while let Some(at) = finder.find(rest) {
            let (before, after) = rest.split_at(at);
            out.extend_from_slice(before);
            out.extend_from_slice(escaped);
            rest = after.get(raw.len()..).unwrap_or_default();
        }
        out.extend_from_slice(rest);
        json = out;
    }
    json
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_line_break_is_escaped() {
        let text = "a\nb\rc\0d\u{85}e\u{2028}f\u{2029}g\u{b}h\u{c}i\u{1c}j🦀";
        let line = EventLine::encode(&json!({"type": "message", "content": text}));
        let bytes = std::str::from_utf8(line.as_bytes()).unwrap();
        assert_eq!(bytes.lines().count(), 1);
        for raw in ['\n', '\r', '\0', '\u{85}', '\u{2028}', '\u{2029}', '\u{b}', '\u{c}', '\u{1c}']
        {
            assert!(!bytes.contains(raw), "{raw:?}");
        }
        assert_eq!(line.peek::<Value>().unwrap()["content"], text);
    }

    #[test]
    fn only_complete_objects_on_one_line_are_accepted() {
        for good in [r#"{"a":1}"#, "  {\"a\":1} ", "{}"] {
            assert!(EventLine::from_json(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["", "[]", "1", "{", "{\"a\":1}{", "{\n\"a\":1}", "{\"a\":\"\n\"}", "\"{}\""] {
            assert!(EventLine::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(EventLine::from_json(b"{\"\xff\":1}").is_err());
    }

    #[test]
    fn an_agents_message_is_encoded_like_any_event() {
        let timestamp = crate::Timestamp::from_millisecond(1_769_860_800_120);
        let content = EventLine::from_json(b"  {\"a\": [1.50, \"\xE2\x80\xA8\"]} ").unwrap();
        let raw = content.to_raw().unwrap();
        let event = crate::ExecuteEvent::Message { content: raw, timestamp };
        let expected = EventLine::encode(&event);
        assert_eq!(EventLine::agent_message(&content, &timestamp.to_string()), expected);
    }

    properties::fuzz! {
        #[test]
        fn what_is_accepted_is_one_object_on_one_line(
            json in proptest::collection::vec(
                prop_oneof![any::<u8>(), proptest::sample::select(&b"{}[]:,\"\\\r\n 1e"[..])],
                0..40,
            ),
        ) {
            let Ok(line) = EventLine::from_json(&json) else { return Ok(()) };
            prop_assert!(!line.as_bytes().contains(&b'\n') && !line.as_bytes().contains(&b'\r'));
            let object: serde_json::Map<String, Value> = line.peek().unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), Value::Object(object));
            prop_assert_eq!(EventLine::from_json(line.as_bytes()).unwrap(), line);
        }

        #[test]
        fn any_string_round_trips(text in any::<String>()) {
            let line = EventLine::encode(&json!({"t": text}));
            prop_assert!(!line.as_bytes().contains(&b'\n'));
            let value: Value = line.peek().unwrap();
            prop_assert_eq!(value["t"].as_str().unwrap(), &text);
            let again = EventLine::from_json(line.as_bytes()).unwrap();
            prop_assert_eq!(again, line);
        }
    }
}
