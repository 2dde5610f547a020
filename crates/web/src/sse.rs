//! Server-Sent Events as bytes, in both directions.

use std::{fmt::Write as _, io};

use bytes::{BufMut, Bytes, BytesMut};
use contract::EventPart;
use futures_util::{FutureExt, Stream, StreamExt};

use crate::Ids;

/// One event as bytes. `json` must not contain line breaks; [`contract::EventLine`] ensures that.
#[must_use]
pub fn frame(id: Option<u64>, json: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    put_head(id, json.len(), &mut out);
    out.put_slice(json);
    out.put_slice(b"\n\n");
    out.freeze()
}

/// The size from which a chunk is sent without waiting for more, in bytes.
const CHUNK: usize = 32 * 1024;

/// The events of a job, each with its ID, as chunks of bytes. Whatever is there at one moment becomes one chunk of about
/// 32 KiB, or several. If an event cannot be read, this is logged and the stream breaks.
pub fn frames<E: std::error::Error + Send + Sync + 'static>(
    parts: impl Stream<Item = Result<EventPart, E>> + Send + 'static,
    ids: Ids,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let wanted = move |id| (ids == Ids::Sent).then_some(id);
    async_stream::stream! {
        let mut parts = std::pin::pin!(parts);
        while let Some(first) = parts.next().await {
            let mut chunk = BytesMut::new();
            let mut next = Some(first);
            let mut failure = None;
            while let Some(part) = next {
                match part {
                    Ok(EventPart::Events { start, lines }) => {
                        let mut from = 0;
                        for end in memchr::memchr_iter(b'\n', &lines) {
                            let json = lines.get(from..end).unwrap_or_default();
                            from = end + 1;
                            put_head(wanted(start + from as u64), lines.len(), &mut chunk);
                            chunk.put_slice(json);
                            chunk.put_slice(b"\n\n");
                            if chunk.len() >= CHUNK {
                                yield Ok(std::mem::take(&mut chunk).freeze());
                            }
                        }
                    }
                    Ok(EventPart::Piece { id, json, is_last }) => {
                        if let Some(id) = id {
                            put_head(wanted(id), json.len(), &mut chunk);
                        }
                        chunk.put_slice(&json);
                        if is_last {
                            chunk.put_slice(b"\n\n");
                        }
                    }
                    Ok(EventPart::Terminal { id, json }) => {
                        put_head(wanted(id), json.len(), &mut chunk);
                        chunk.put_slice(&json);
                        chunk.put_slice(b"\n\n");
                    }
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
                next = if chunk.len() < CHUNK { parts.next().now_or_never().flatten() } else { None };
            }
            if !chunk.is_empty() {
                yield Ok(chunk.freeze());
            }
            if let Some(error) = failure {
                tracing::error!(error = &error as &dyn std::error::Error, "failed to read a journal");
                yield Err(io::Error::other(error));
                return;
            }
        }
    }
}

/// What precedes the JSON of an event. About `more` bytes of JSON follow.
fn put_head(id: Option<u64>, more: usize, out: &mut BytesMut) {
    if out.is_empty() {
        out.reserve(more + more / 4 + 40);
    }
    if let Some(id) = id {
        // This cannot fail: a buffer grows.
        let _ = writeln!(out, "id: {id}");
    }
    out.put_slice(b"data: ");
}

/// A received event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its `id:`, if any.
    pub id: Option<String>,
    /// Its `data:` lines, joined with line feeds.
    pub data: Vec<u8>,
}

/// Why a stream of events cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// An event is longer than the limit.
    #[error("an event is longer than {0} bytes")]
    TooLong(usize),
}

/// Parses a stream of events by the rules of the HTML standard (section 9.2.6). It may be cut into chunks anywhere.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    id: Option<String>,
    after_cr: bool,
}

impl Decoder {
    /// A parser for events of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            id: None,
            after_cr: false,
        }
    }

    /// Parses the next bytes and appends the completed events to `frames`.
    ///
    /// # Errors
    /// If an event is too long. The stream cannot be used any more then.
    pub fn push(&mut self, mut bytes: &[u8], frames: &mut Vec<Frame>) -> Result<(), FrameError> {
        while let [first, rest @ ..] = bytes {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                bytes = rest;
                continue;
            }
            let Some(at) = memchr::memchr2(b'\n', b'\r', bytes) else {
                self.check(bytes.len())?;
                self.line.extend_from_slice(bytes);
                break;
            };
            let (line, end) = bytes.split_at(at);
            self.check(line.len())?;
            self.after_cr = end.first() == Some(&b'\r');
            bytes = end.get(1..).unwrap_or_default();
            if self.line.is_empty() {
                // The common case, a line within one chunk, is not copied.
                self.end_line(line, frames);
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.end_line(&whole, frames);
            }
        }
        Ok(())
    }

    /// Checks that the event may have this many more bytes.
    fn check(&self, more: usize) -> Result<(), FrameError> {
        if self.line.len() + self.data.len() + more > self.limit {
            return Err(FrameError::TooLong(self.limit));
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8], frames: &mut Vec<Frame>) {
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            let id = self.id.take();
            if std::mem::take(&mut self.has_data) {
                frames.push(Frame { id, data });
            }
            return;
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(at) => {
                let (field, value) = line.split_at(at);
                let value = value.get(1..).unwrap_or_default();
                (field, value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, [].as_slice()),
        };
        match field {
            b"data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"id" if !value.contains(&0) => self.id = String::from_utf8(value.to_vec()).ok(),
            // Comments (an empty field name) and unused fields.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<Frame> {
        let mut decoder = Decoder::new(1 << 20);
        let mut frames = Vec::new();
        for chunk in chunks {
            decoder.push(chunk, &mut frames).unwrap();
        }
        frames
    }

    #[test]
    fn streams_of_other_servers() {
        for (text, expected) in [
            ("data: {}\n\n", vec![(None, "{}")]),
            ("data:{}\r\n\r\n", vec![(None, "{}")]),
            ("data: a\rdata: b\r\r", vec![(None, "a\nb")]),
            (": ping\n\nid: 7\ndata: x\n\n", vec![(Some("7"), "x")]),
            ("event: e\nretry: 1\ndata: x\n\ndata: y\n\n", vec![(None, "x"), (None, "y")]),
            ("id: 1\n\n\n\ndata: \n\n", vec![(None, "")]),
            ("data\n\n", vec![(None, "")]),
            ("data: cut off\n", vec![]),
        ] {
            let frames = decode(&[text.as_bytes()]);
            let got: Vec<_> = frames
                .iter()
                .map(|frame| (frame.id.as_deref(), std::str::from_utf8(&frame.data).unwrap()))
                .collect();
            assert_eq!(got, expected, "{text:?}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut decoder = Decoder::new(100);
        let mut frames = Vec::new();
        let error = (0..100).find_map(|_| decoder.push(b"data: xxxx", &mut frames).err());
        assert_eq!(error, Some(FrameError::TooLong(100)));
    }

    /// What is read from these chunks before an error, if there is one, and whether the memory stays within the limit.
    fn decode_within(limit: usize, chunks: &[&[u8]]) -> (Vec<Frame>, bool, bool) {
        let mut decoder = Decoder::new(limit);
        let (mut frames, mut is_bounded) = (Vec::new(), true);
        for chunk in chunks {
            let pushed = decoder.push(chunk, &mut frames);
            is_bounded &= decoder.line.len() + decoder.data.len() <= limit;
            if pushed.is_err() {
                return (frames, true, is_bounded);
            }
        }
        (frames, false, is_bounded)
    }

    /// The chunks of some bytes that are cut at these places.
    fn cut(bytes: &[u8], cuts: Vec<usize>) -> Vec<&[u8]> {
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
    }

    properties::fuzz! {
        #[test]
        fn any_bytes_give_the_same_events_wherever_they_are_cut(
            pieces in proptest::collection::vec(
                prop_oneof![
                    proptest::sample::select(vec![&b"data"[..], b"id", b":", b" ", b"\n", b"\r", b"\r\n", b"\0", b"\xff"])
                        .prop_map(<[u8]>::to_vec),
                    proptest::collection::vec(any::<u8>(), 0..20),
                ],
                0..40,
            ),
            cuts in proptest::collection::vec(0_usize..400, 0..12),
            limit in 1_usize..60,
        ) {
            let bytes = pieces.concat();
            let whole = decode_within(limit, &[&bytes]);
            prop_assert!(whole.2, "more than {limit} bytes are kept");
            prop_assert_eq!(decode_within(limit, &cut(&bytes, cuts)), whole);
        }

        #[test]
        fn any_chunking_gives_the_same_events(
            texts in proptest::collection::vec("[^\r\n]{0,40}", 0..6),
            ids in any::<bool>(),
            cuts in proptest::collection::vec(0_usize..400, 0..12),
        ) {
            let whole: Vec<u8> = texts
                .iter()
                .enumerate()
                .flat_map(|(n, text)| frame(ids.then_some(n as u64), text.as_bytes()).to_vec())
                .collect();
            let chunks = cut(&whole, cuts);
            let expected: Vec<_> = texts
                .iter()
                .enumerate()
                .map(|(n, text)| Frame { id: ids.then(|| n.to_string()), data: text.as_bytes().to_vec() })
                .collect();
            prop_assert_eq!(decode(&chunks), expected);
        }
    }
}
