//! The end of what was written to standard error.

use boot::Secret;

/// How much is kept, in bytes.
const KEPT: usize = 8 * 1024;

/// The last words for an error sentence, in characters.
const WORDS: usize = 500;

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    /// Whether something before `bytes` was thrown away.
    is_cut: bool,
}

impl Tail {
    /// Where to read into. Call [`trim`](Self::trim) after.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Throws away what is too old.
    pub(crate) fn trim(&mut self) {
        // Not each time a byte comes, or each byte would move them all.
        if self.bytes.len() > 2 * KEPT {
            self.bytes.drain(..self.bytes.len() - KEPT);
            self.is_cut = true;
        }
    }

    /// The text, without `secret`.
    pub(crate) fn text(&self, secret: Option<&Secret>) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let Some(secret) = secret.map(Secret::expose) else { return text.into_owned() };
        let text = text.replace(secret, "***");
        // Where it was cut, the end of a secret may stand at the beginning.
        let ends = (1..secret.len()).filter_map(|begin| secret.get(begin..));
        let end = ends.filter(|_| self.is_cut).find(|end| text.starts_with(end));
        text.get(end.map_or(0, str::len)..).unwrap_or_default().to_owned()
    }
}

/// The last three lines of `text` that say anything, made fit for a sentence.
pub(crate) fn last_words(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join(" | ");
    let words = sentence_part(&last);
    (!words.is_empty()).then_some(words)
}

/// Text from outside as a part of a sentence: one line, no control characters, not too long.
pub(crate) fn sentence_part(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean = clean.trim();
    match clean.char_indices().nth(WORDS) {
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
            assert!(tail.buffer().len() <= 3 * KEPT);
        }
        let text = tail.text(None);
        assert!(text.len() <= 2 * KEPT && text.ends_with("line 99999\n"));
        assert_eq!(last_words(&text).unwrap(), "line 99997 | line 99998 | line 99999");
    }

    #[test]
    fn no_part_of_a_secret_is_left_where_the_text_was_cut() {
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
    fn secrets_and_control_characters_do_not_get_out() {
        let mut tail = Tail::default();
        tail.buffer().extend_from_slice(b"\x1b[31mkey sk-1 sk-1\xff\x00\n\n");
        let text = tail.text(Some(&Secret::new("sk-1".into())));
        assert_eq!(last_words(&text).unwrap(), "[31mkey *** ***\u{fffd}");
        assert_eq!(last_words(" \n\t\n"), None);
        assert_eq!(sentence_part(&"é".repeat(1000)).chars().count(), WORDS + 1);
    }
}
