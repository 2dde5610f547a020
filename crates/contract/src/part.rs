//! A part of a stream of events, as it passes from a journal to its readers.

use bytes::Bytes;

/// What can be passed on at one moment. Events are lines of JSON without line breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventPart {
    /// Whole events, each followed by a line feed. The ID of each is the offset after its line feed.
    Events {
        /// The offset of the first byte.
        start: u64,
        /// The events.
        lines: Bytes,
    },
    /// A piece of an event that is too long to be passed on as a whole.
    Piece {
        /// In the first piece of an event, its ID.
        id: Option<u64>,
        /// The next bytes of the event.
        json: Bytes,
        /// Whether these are its last bytes.
        is_last: bool,
    },
    /// The event that ends the stream.
    Terminal {
        /// Its ID.
        id: u64,
        /// The whole event.
        json: Bytes,
    },
}
