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
    }
}
