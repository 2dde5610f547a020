//! The end of the agent's standard error.

use boot::Secret;

/// The maximum length of an excerpt in an error sentence, in characters.
const EXCERPT: usize = 500;

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    /// Whether older bytes were discarded.
    is_cut: bool,
}

impl Tail {
    /// How many bytes are kept, at least.
    pub(crate) const KEPT: usize = 8 * 1024;

    /// The buffer to read into. Call [`trim`](Self::trim) after reading.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Discards the oldest bytes.
    pub(crate) fn trim(&mut self) {
        // Only when twice as many have accumulated, so that not every read moves the buffer.
        if self.bytes.len() > 2 * Self::KEPT {
            self.bytes.drain(..self.bytes.len() - Self::KEPT);
            self.is_cut = true;
        }
    }

    /// The text, with `secret` removed.
    pub(crate) fn text(&self, secret: Option<&Secret>) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let Some(secret) = secret.map(Secret::expose) else { return text.into_owned() };
        let text = text.replace(secret, "***");
        // If older bytes were discarded, the text may start within a secret.
        let ends = (1..secret.len()).filter_map(|begin| secret.get(begin..));
        let end = ends.filter(|_| self.is_cut).find(|end| text.starts_with(end));
        text.get(end.map_or(0, str::len)..).unwrap_or_default().to_owned()
    }
}

/// The last three non-blank lines of `text`, as part of a sentence.
pub(crate) fn last_lines(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join(" | ");
    let lines = sentence_part(&last);
    (!lines.is_empty()).then_some(lines)
}

/// Makes outside text fit for a sentence: one line, no control characters, limited length.
pub(crate) fn sentence_part(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean = clean.trim();
    match clean.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", clean.get(..end).unwrap_or_default()),
        None => clean.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let mut tail = Tail::default();
        for number in 0..100_000 {
            tail.buffer().extend_from_slice(format!("line {number}\n").as_bytes());
            tail.trim();
            assert!(tail.buffer().len() <= 3 * Tail::KEPT);
        }
        let text = tail.text(None);
        assert!(text.len() <= 2 * Tail::KEPT && text.ends_with("line 99999\n"));
        assert_eq!(last_lines(&text).unwrap(), "line 99997 | line 99998 | line 99999");
    }

    #[test]
    fn no_part_of_a_secret_remains_where_the_text_was_cut() {
        let secret = Secret::new("0123456789".into());
        for shift in 0..20 {
            let mut tail = Tail::default();
            tail.buffer().extend_from_slice(&b"0123456789".repeat(3000));
            tail.buffer().extend_from_slice(&vec![b'x'; shift]);
            tail.trim();
            let text = tail.text(Some(&secret));
            assert_eq!(text.trim_end_matches('x').replace("***", ""), "", "{shift}");
        }
    }

    #[test]
    fn secrets_and_control_characters_are_removed() {
        let mut tail = Tail::default();
        tail.buffer().extend_from_slice(b"\x1b[31mkey sk-1 sk-1\xff\x00\n\n");
        let text = tail.text(Some(&Secret::new("sk-1".into())));
        assert_eq!(last_lines(&text).unwrap(), "[31mkey *** ***\u{fffd}");
        assert_eq!(last_lines(" \n\t\n"), None);
        assert_eq!(sentence_part(&"é".repeat(1000)).chars().count(), EXCERPT + 1);
    }
}
