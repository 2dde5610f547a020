//! Splits bytes into lines.

use std::mem;

/// The longest line that is buffered. The CLI's longest lines are tool results, which it truncates at a few
/// megabytes.
pub(crate) const MAX_LINE: usize = 16 * 1024 * 1024;

/// How many bytes of an overlong line are kept.
const EXCERPT: usize = 512;

/// A line without its terminator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Whole(&'a [u8]),
    /// Longer than the limit: its beginning and its full length in bytes.
    TooLong {
        begin: &'a [u8],
        bytes: usize,
    },
}

/// Splits a byte stream at line feeds only; U+2028, U+0085 and similar characters may occur within a line. Buffers at
/// most one read and one line; of an overlong line, only the beginning.
#[derive(Debug)]
pub(crate) struct Lines {
    max: usize,
    buffer: Vec<u8>,
    /// Offset in `buffer` of the next line.
    start: usize,
    /// `buffer` has no line feed between `start` and this offset.
    scanned: usize,
    /// How many bytes of the current line were discarded.
    dropped: usize,
}

impl Lines {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, buffer: Vec::new(), start: 0, scanned: 0, dropped: 0 }
    }

    /// The buffer to read into. Before reading more, call [`next`](Self::next) until it returns `None`.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// The next complete line.
    pub(crate) fn next(&mut self) -> Option<Line<'_>> {
        let unscanned = self.buffer.get(self.scanned..).unwrap_or_default();
        let Some(found) = memchr::memchr(b'\n', unscanned) else {
            // Once per read, which may contain many lines.
            self.buffer.drain(..self.start);
            self.start = 0;
            self.drop_excess();
            self.scanned = self.buffer.len();
            return None;
        };
        let (start, end) = (self.start, self.scanned + found);
        self.start = end + 1;
        self.scanned = self.start;
        let dropped = mem::take(&mut self.dropped);
        Some(self.line(start, end, dropped))
    }

    /// At the end of the stream, the unterminated last line, if any.
    pub(crate) fn last(&mut self) -> Option<Line<'_>> {
        let (start, end) = (self.start, self.buffer.len());
        self.start = end;
        self.scanned = end;
        let dropped = mem::take(&mut self.dropped);
        (start < end || dropped > 0).then(|| self.line(start, end, dropped))
    }

    fn drop_excess(&mut self) {
        if self.buffer.len() > self.max || self.dropped > 0 {
            let keep = self.buffer.len().min(EXCERPT);
            self.dropped += self.buffer.len() - keep;
            self.buffer.truncate(keep);
        }
        // Long lines are rare, so release the memory.
        if self.buffer.capacity() > 1024 * 1024 && self.buffer.len() < 64 * 1024 {
            self.buffer.shrink_to(64 * 1024);
        }
    }

    fn line(&self, start: usize, end: usize, dropped: usize) -> Line<'_> {
        let line = self.buffer.get(start..end).unwrap_or_default();
        if dropped == 0 && line.len() <= self.max {
            return Line::Whole(line);
        }
        let begin = line.get(..EXCERPT).unwrap_or(line);
        Line::TooLong { begin, bytes: dropped + line.len() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lines: either whole, or the beginning and the length.
    fn cut(max: usize, chunks: &[&[u8]]) -> Vec<(Vec<u8>, Option<usize>)> {
        fn owned(line: Line<'_>) -> (Vec<u8>, Option<usize>) {
            match line {
                Line::Whole(line) => (line.to_vec(), None),
                Line::TooLong { begin, bytes } => (begin.to_vec(), Some(bytes)),
            }
        }
        let mut lines = Lines::new(max);
        let mut found = Vec::new();
        for chunk in chunks {
            lines.buffer().extend_from_slice(chunk);
            while let Some(line) = lines.next() {
                found.push(owned(line));
            }
        }
        found.extend(lines.last().map(owned));
        found
    }

    fn whole(line: &[u8]) -> (Vec<u8>, Option<usize>) {
        (line.to_vec(), None)
    }

    #[test]
    fn only_a_line_feed_ends_a_line() {
        let text = "a\u{2028}b\u{85}c\rd\u{b}e\n\nf\n".as_bytes();
        let expected = ["a\u{2028}b\u{85}c\rd\u{b}e", "", "f"].map(|line| whole(line.as_bytes()));
        assert_eq!(cut(100, &[text]), expected);
        assert_eq!(cut(100, &[b"a\nb"]), [whole(b"a"), whole(b"b")]);
        assert_eq!(cut(100, &[b""]), []);
    }

    #[test]
    fn an_overlong_line_is_not_buffered() {
        let mut lines = Lines::new(1000);
        for _ in 0..1000 {
            lines.buffer().extend_from_slice(&[b'x'; 900]);
            assert_eq!(lines.next(), None);
            assert!(lines.buffer().len() <= 1000 && lines.buffer().capacity() < 2_000_000);
        }
        lines.buffer().extend_from_slice(b"\nnext\n");
        let begin = &[b'x'; EXCERPT][..];
        assert_eq!(lines.next(), Some(Line::TooLong { begin, bytes: 900_000 }));
        assert_eq!(lines.next(), Some(Line::Whole(b"next")));
        assert_eq!(lines.next(), None);
        assert_eq!(lines.last(), None);
    }

    #[test]
    fn the_limit_does_not_depend_on_chunking() {
        let (fits, over) = (vec![b'x'; 600], vec![b'x'; 601]);
        let too_long = (vec![b'x'; EXCERPT], Some(601));
        assert_eq!(cut(600, &[&fits, b"\n"]), [whole(&fits)]);
        let ended = [&over[..], b"\n"].concat();
        for chunks in [&[&ended[..]][..], &[&over, b"\n"], &[&over]] {
            assert_eq!(cut(600, chunks), std::slice::from_ref(&too_long));
        }
    }

    properties::fuzz! {
        #[test]
        fn chunking_does_not_change_the_lines(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            sizes in proptest::collection::vec(1_usize..50, 1..50),
        ) {
            let bytes = lines.join(&b'\n');
            let mut chunks = Vec::new();
            let mut rest = bytes.as_slice();
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, more) = rest.split_at((*size).min(rest.len()));
                chunks.push(chunk);
                rest = more;
            }
            prop_assert_eq!(cut(20, &chunks), cut(20, &[&bytes]));
        }
    }
}
