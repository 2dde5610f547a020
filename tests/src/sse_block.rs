//! The blocks of an event stream that the contract allows.

use bytes::Bytes;
use serde_json::Value;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct SseEvent {
    /// The value of its `id:` line.
    pub id: Option<String>,
    /// The value of its `data:` line.
    pub json: Value,
    /// The block as received, without the blank line that ends it.
    pub raw: Bytes,
}

impl SseEvent {
    /// The event's `type`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.json["type"].as_str().unwrap_or_default()
    }
}

/// A block of a stream.
#[derive(Debug, PartialEq)]
pub(crate) enum Block {
    Ping,
    Event(SseEvent),
}

/// Whether the events of a stream carry an `id:` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    Expected,
    Forbidden,
}

/// Parses a block without the blank line that ends it.
///
/// # Errors
/// A sentence about the rule that the block violates.
pub(crate) fn parse_block(block: &Bytes, ids: Ids) -> Result<Block, String> {
    let text = std::str::from_utf8(block).map_err(|_| "it is not UTF-8")?;
    if text == ": ping" {
        return Ok(Block::Ping);
    }
    if text.contains('\r') {
        return Err("it has a carriage return".to_owned());
    }
    let (id, data) = match text.split_once('\n') {
        None => (None, text),
        Some((first, data)) => {
            let id = first.strip_prefix("id: ").ok_or("it has two lines, the first no `id: `")?;
            (Some(id.to_owned()), data)
        }
    };
    let data = data.strip_prefix("data: ").ok_or("its last line does not begin with `data: `")?;
    if data.contains('\n') {
        return Err("it has more than one data line".to_owned());
    }
    let json: Value = serde_json::from_str(data).map_err(|error| format!("its data: {error}"))?;
    let kind = json["type"].as_str().ok_or("its data is not an object with a `type`")?;
    match (&id, ids) {
        (Some(_), Ids::Forbidden) => return Err("it has an id that was not requested".to_owned()),
        // Waiting in the queue is not part of the job's journal, so it has no id.
        (None, Ids::Expected) if kind != "queued" => return Err("it has no id".to_owned()),
        (Some(id), _) if id.is_empty() => return Err("its id is empty".to_owned()),
        (None | Some(_), _) => {}
    }
    Ok(Block::Event(SseEvent { id, json, raw: block.clone() }))
}

/// Whether `id` comes after `last`. Ids are opaque; if both are numbers, they are compared as
/// numbers.
pub(crate) fn increases(last: &str, id: &str) -> bool {
    match (last.parse::<u128>(), id.parse::<u128>()) {
        (Ok(last), Ok(id)) => id > last,
        _ => (id.len(), id) > (last.len(), last),
    }
}

/// Removes the first block from the buffer, if it is complete.
pub(crate) fn split_block(buffer: &mut Vec<u8>) -> Option<Bytes> {
    let end = memchr::memmem::find(buffer, b"\n\n")?;
    let rest = buffer.split_off(end + 2);
    let mut block = std::mem::replace(buffer, rest);
    block.truncate(end);
    Some(block.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(block: &'static str, ids: Ids) -> Result<Block, String> {
        parse_block(&Bytes::from_static(block.as_bytes()), ids)
    }

    #[test]
    fn the_allowed_blocks() {
        assert_eq!(parse(": ping", Ids::Forbidden), Ok(Block::Ping));
        let raw = r#"data: {"type":"message","n":1}"#;
        let event = SseEvent {
            id: None,
            json: json!({"type": "message", "n": 1}),
            raw: Bytes::from_static(raw.as_bytes()),
        };
        assert_eq!(parse(raw, Ids::Forbidden), Ok(Block::Event(event)));
        let with_id = "id: 17\ndata: {\"type\":\"message\"}";
        let Ok(Block::Event(event)) = parse(with_id, Ids::Expected) else { panic!("{with_id}") };
        assert_eq!((event.id.as_deref(), event.kind()), (Some("17"), "message"));
        assert!(parse("data: {\"type\":\"queued\"}", Ids::Expected).is_ok());
    }

    #[test]
    fn everything_else_is_refused() {
        for block in [
            "",
            ":",
            ": pong",
            "data:{\"type\":\"x\"}",
            "data: {\"type\":\"x\"}\r",
            "data: {\"type\":1}",
            "data: []",
            "data: {\"type\":\"x\"",
            "data: {\"type\":\ndata: \"x\"}",
            "event: message\ndata: {\"type\":\"x\"}",
            "data: {\"type\":\"x\"}\nid: 1",
            "\ndata: {\"type\":\"x\"}",
            "id: 1\nid: 2\ndata: {\"type\":\"x\"}",
        ] {
            for ids in [Ids::Forbidden, Ids::Expected] {
                assert!(parse(block, ids).is_err(), "{block:?} was accepted");
            }
        }
        assert!(parse("id: 1\ndata: {\"type\":\"x\"}", Ids::Forbidden).is_err());
        assert!(parse("data: {\"type\":\"x\"}", Ids::Expected).is_err());
    }

    #[test]
    fn numbers_compare_as_numbers() {
        assert!(increases("9", "10"));
        assert!(!increases("10", "10"));
        assert!(!increases("10", "9"));
        assert!(increases("a-1", "a-2"));
    }
}
