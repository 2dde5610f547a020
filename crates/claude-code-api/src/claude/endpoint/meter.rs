//! Counts the tokens that the Messages API reports in its answers, while they are passed on.
//!
//! A streamed answer reports its input in `message_start`, and its output so far in each `message_delta`
//! (<https://docs.anthropic.com/en/api/messages-streaming>). An answer that is not streamed is one JSON object with
//! `usage`. An answer that breaks off counts with what it has reported.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use contract::{ApiUsage, ModelUsage};
use http::HeaderValue;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use memchr::memmem;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tower::BoxError;

/// The longest line or body that is read for its counts. Lines with counts have a few hundred bytes.
const LONGEST: usize = 1 << 20;
/// How many models are counted separately, and how long their names may be. The names come from the network.
const MODELS: usize = 32;
const NAME_LENGTH: usize = 128;
/// All other models together.
const OTHER: &str = "other";

/// The counts of a job.
#[derive(Debug, Default)]
pub(super) struct Totals(Mutex<ApiUsage>);

impl Totals {
    pub(super) fn get(&self) -> ApiUsage {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds tokens of an answer that has been counted before, or has not.
    fn add(&self, model: Option<&str>, is_new: bool, counts: Counts) {
        let mut models = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_short = |name: &&str| name.len() <= NAME_LENGTH;
        let name = model.filter(is_short).unwrap_or(OTHER);
        let is_known = models.contains_key(name) || models.len() < MODELS;
        let usage = models.entry(if is_known { name } else { OTHER }.to_owned()).or_default();
        let ModelUsage {
            requests,
            input_tokens,
            output_tokens,
            cache_read_tokens,
            cache_write_tokens,
        } = usage;
        *requests += u64::from(is_new);
        for (total, count) in [
            (input_tokens, counts.input_tokens),
            (output_tokens, counts.output_tokens),
            (cache_read_tokens, counts.cache_read_input_tokens),
            (cache_write_tokens, counts.cache_creation_input_tokens),
        ] {
            *total = total.saturating_add(count.unwrap_or(0));
        }
    }
}

/// The API's `usage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct Counts {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
}

impl Counts {
    /// Later reports of an answer contain what earlier ones said, and may leave fields out. One that says less would count
    /// twice when it says more again.
    fn update(&mut self, newer: Self) {
        for (count, newer) in [
            (&mut self.input_tokens, newer.input_tokens),
            (&mut self.output_tokens, newer.output_tokens),
            (&mut self.cache_creation_input_tokens, newer.cache_creation_input_tokens),
            (&mut self.cache_read_input_tokens, newer.cache_read_input_tokens),
        ] {
            *count = newer.max(*count);
        }
    }

    /// What is more than in `earlier`.
    fn since(self, earlier: Self) -> Self {
        let more = |count: Option<u64>, earlier: Option<u64>| {
            count.map(|count| count.saturating_sub(earlier.unwrap_or(0)))
        };
        Self {
            input_tokens: more(self.input_tokens, earlier.input_tokens),
            output_tokens: more(self.output_tokens, earlier.output_tokens),
            cache_creation_input_tokens: more(
                self.cache_creation_input_tokens,
                earlier.cache_creation_input_tokens,
            ),
            cache_read_input_tokens: more(
                self.cache_read_input_tokens,
                earlier.cache_read_input_tokens,
            ),
        }
    }
}

/// What has been read of an answer's counts.
#[derive(Debug, Default)]
struct Reader {
    is_stream: bool,
    /// The line, or the body, so far.
    pending: Vec<u8>,
    is_too_long: bool,
    model: Option<String>,
    counts: Option<Counts>,
    /// What has been added to the totals.
    added: Option<Counts>,
}

impl Reader {
    fn feed(&mut self, mut bytes: &[u8]) {
        if !self.is_stream {
            return self.keep(bytes);
        }
        while let Some(at) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(at);
            self.keep(line);
            self.read();
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.pending.len() + bytes.len() > LONGEST {
            self.is_too_long = true;
            self.pending = Vec::new();
        }
        if !self.is_too_long {
            self.pending.extend_from_slice(bytes);
        }
    }

    /// Reads the pending line or body.
    fn read(&mut self) {
        #[derive(Deserialize)]
        struct Object {
            message: Option<Message>,
            #[serde(flatten)]
            itself: Message,
        }
        #[derive(Deserialize)]
        struct Message {
            model: Option<String>,
            usage: Option<Counts>,
        }
        let text = self.pending.strip_prefix(b"data:").unwrap_or(&self.pending);
        // Most lines are pieces of text. They are not parsed.
        if memmem::find(text, b"\"usage\"").is_some()
            && let Ok(object) = serde_json::from_slice::<Object>(text)
        {
            let message = object.message.unwrap_or(object.itself);
            self.model = self.model.take().or(message.model);
            if let Some(newer) = message.usage {
                self.counts.get_or_insert_default().update(newer);
            }
        }
        self.pending.clear();
        self.is_too_long = false;
    }

    /// Adds what is new to the totals. At once, because the job may end in the middle of the answer.
    fn add_to(&mut self, totals: &Totals) {
        if let Some(counts) = self.counts.filter(|counts| self.added.as_ref() != Some(counts)) {
            let added = self.added.replace(counts);
            let more = counts.since(added.unwrap_or_default());
            totals.add(self.model.as_deref(), added.is_none(), more);
        }
    }

    fn finish(&mut self, totals: &Totals) {
        self.read();
        self.add_to(totals);
    }
}

/// An answer's body, counted while it is passed on.
pub(super) struct Metered {
    body: Incoming,
    count: Option<(Reader, Arc<Totals>)>,
    /// Ends when the agent gives the request up.
    gone: Gone,
    _permit: OwnedSemaphorePermit,
}

/// Ends when a caller has closed its connection.
pub(super) type Gone = Pin<Box<dyn Future<Output = ()> + Send>>;

impl std::fmt::Debug for Metered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metered").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Metered {
    /// Without `totals`, nothing is counted.
    pub(super) fn new(
        body: Incoming,
        content_type: Option<&HeaderValue>,
        totals: Option<&Arc<Totals>>,
        gone: Gone,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let is_stream =
            content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let reader = Reader { is_stream, ..Reader::default() };
        let count = totals.map(|totals| (reader, Arc::clone(totals)));
        Self { body, count, gone, _permit: permit }
    }

    fn finish(&mut self) {
        if let Some((mut reader, totals)) = self.count.take() {
            reader.finish(&totals);
        }
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.gone.as_mut().poll(context).is_ready() {
            self.finish();
            return Poll::Ready(Some(Err(
                "the agent does not wait for this answer any more".into()
            )));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(bytes), Some((reader, totals))) = (frame.data_ref(), &mut self.count) {
                    reader.feed(bytes);
                    reader.add_to(totals);
                }
            }
            // Before the agent sees the end, so that the end of the job counts all.
            Some(Err(_)) | None => self.finish(),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        // The count would not be finished otherwise.
        self.count.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = concat!(
        "event: message_start\n",
        r#"data: {"type":"message_start","message":{"model":"m","usage":{"input_tokens":7,"cache_read_input_tokens":3,"cache_creation_input_tokens":2,"output_tokens":1}}}"#,
        "\n\nevent: content_block_delta\n",
        r#"data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"\"usage\": {}"}}"#,
        "\n\nevent: message_delta\n",
        r#"data: {"type":"message_delta","delta":{},"usage":{"output_tokens":40}}"#,
        "\n\nevent: message_delta\n",
        r#"data: {"type":"message_delta","delta":{},"usage":{"output_tokens":50,"input_tokens":8}}"#,
        "\n\n",
    );

    fn counted(is_stream: bool, pieces: &[&[u8]]) -> ApiUsage {
        let totals = Totals::default();
        let mut reader = Reader { is_stream, ..Reader::default() };
        for piece in pieces {
            reader.feed(piece);
            reader.add_to(&totals);
        }
        reader.finish(&totals);
        totals.get()
    }

    /// An event of a stream, with or without counts, or something like it.
    fn event() -> impl Strategy<Value = String> {
        use serde_json::{Value, json};
        let count = prop_oneof![
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            Just(Value::Null),
        ];
        let names = proptest::sample::select(vec![
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
            "other",
        ]);
        let counts = proptest::collection::btree_map(names, count, 0..4);
        let kind =
            proptest::sample::select(vec!["message_start", "message_delta", "message", "ping"]);
        (
            kind,
            "[a-z\"\\\\é]{0,3}",
            counts,
            proptest::sample::select(vec!["data: ", "data:", " ", ""]),
        )
            .prop_map(|(kind, model, counts, field)| {
                let event = match kind {
                    "message_start" => {
                        json!({"type": kind, "message": {"model": model, "usage": counts}})
                    }
                    _ => json!({"type": kind, "model": model, "usage": counts}),
                };
                format!("event: {kind}\n{field}{event}")
            })
    }

    fn usage(input: u64, output: u64, read: u64, write: u64) -> ModelUsage {
        ModelUsage {
            requests: 1,
            input_tokens: input,
            output_tokens: output,
            cache_read_tokens: read,
            cache_write_tokens: write,
        }
    }

    properties::fuzz! {
        #[test]
        fn a_stream_counts_once_wherever_it_is_cut(cut in 0..STREAM.len(), second in 0..STREAM.len()) {
            let (first, second) = (cut.min(second), cut.max(second));
            let bytes = STREAM.as_bytes();
            let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            let counted = counted(true, &pieces);
            prop_assert_eq!(counted, ApiUsage::from([("m".to_owned(), usage(8, 50, 3, 2))]));
        }

        /// Whatever the numbers are, and whatever is beside them.
        #[test]
        fn any_answer_counts_the_same_wherever_it_is_cut(
            events in proptest::collection::vec(event(), 0..6),
            end in proptest::sample::select(vec!["\n\n", "\r\n\r\n", "\n", ""]),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
            is_stream in any::<bool>(),
        ) {
            let bytes: Vec<u8> = events.iter().flat_map(|event| [event.as_bytes(), end.as_bytes()].concat()).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(counted(is_stream, &pieces), counted(is_stream, &[&bytes]));
        }

        #[test]
        fn no_answer_is_a_panic(pieces in any::<Vec<Vec<u8>>>(), is_stream in any::<bool>()) {
            counted(is_stream, &pieces.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_stream_that_breaks_off_counts_with_what_it_reported() {
        let end = STREAM.find("event: message_delta").unwrap();
        let counted = counted(true, &[&STREAM.as_bytes()[..end]]);
        assert_eq!(counted["m"], usage(7, 1, 3, 2));
    }

    #[test]
    fn a_body_that_is_not_a_stream() {
        let body = br#"{"type":"message","model":"m","content":[{"text":"\n"}],"usage":{"input_tokens":4,"output_tokens":5}}"#;
        assert_eq!(counted(false, &[&body[..20], &body[20..]])["m"], usage(4, 5, 0, 0));
        assert_eq!(counted(false, &[b"{\"usage\":"]), ApiUsage::new());
    }

    #[test]
    fn nothing_grows_without_bound() {
        let totals = Totals::default();
        for number in 0..1000 {
            totals.add(Some(&format!("model-{number}")), true, Counts::default());
        }
        totals.add(Some(&"x".repeat(NAME_LENGTH + 1)), true, Counts::default());
        totals.add(None, true, Counts { input_tokens: Some(u64::MAX), ..Counts::default() });
        totals.add(None, true, Counts { input_tokens: Some(u64::MAX), ..Counts::default() });
        let models = totals.get();
        assert_eq!(models.len(), MODELS + 1);
        assert_eq!(models.values().map(|usage| usage.requests).sum::<u64>(), 1003);
        let mut reader = Reader { is_stream: true, ..Reader::default() };
        for _ in 0..3 {
            reader.feed(&vec![b'x'; LONGEST]);
        }
        assert!(reader.pending.capacity() <= 2 * LONGEST);
        reader.feed(b"\n");
        reader.feed(STREAM.as_bytes());
        let totals = Totals::default();
        reader.finish(&totals);
        assert_eq!(totals.get()["m"], usage(8, 50, 3, 2));
    }
}
