//! The URL of `origin` in a `.git/config`, read as text.
//!
//! Git's own reader follows `include.path` wherever it leads; this one only reads.

/// The value of `remote.origin.url`, the last one if there are several.
pub(super) fn url(config: &str) -> Option<String> {
    let mut in_origin = false;
    let mut found = None;
    let mut lines = config.lines();
    while let Some(line) = lines.next() {
        let mut line = line.trim().to_owned();
        // A backslash at its end continues a line.
        while line.ends_with('\\') && !line.ends_with("\\\\") {
            line.pop();
            line.push_str(lines.next().unwrap_or_default());
        }
        let mut rest = line.as_str();
        if let Some(header) = rest.strip_prefix('[') {
            let Some((name, after)) = header.split_once(']') else { continue };
            in_origin = is_origin(name);
            // The first key may stand behind its section's header.
            rest = after.trim_start();
        }
        if !in_origin {
            continue;
        }
        if let Some((key, text)) = rest.split_once('=')
            && key.trim().eq_ignore_ascii_case("url")
        {
            found = Some(value(text.trim_start()));
        }
    }
    found.filter(|url| !url.is_empty())
}

fn is_origin(section: &str) -> bool {
    let Some((name, subsection)) = section.split_once(char::is_whitespace) else {
        return section.eq_ignore_ascii_case("remote.origin");
    };
    name.eq_ignore_ascii_case("remote") && subsection.trim() == "\"origin\""
}

/// Quotes, escapes and comments as git reads them.
fn value(text: &str) -> String {
    let mut value = String::new();
    let mut quoted = false;
    // Where the value ends if nothing but white space follows.
    let mut end = 0;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => quoted = !quoted,
            '#' | ';' if !quoted => break,
            '\\' => match letters.next() {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some(other) => value.push(other),
                None => break,
            },
            letter => value.push(letter),
        }
        if quoted || !letter.is_whitespace() {
            end = value.len();
        }
    }
    value.truncate(end);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_writes_and_people_write() {
        for (config, expected) in [
            (
                "[remote \"origin\"]\n\turl = https://h/r.git\n\tfetch = +x\n",
                Some("https://h/r.git"),
            ),
            ("[core]\n\turl = no\n[remote \"other\"]\n\turl = no\n", None),
            ("[Remote \"origin\"] URL=https://h/r # yes\n", Some("https://h/r")),
            ("[remote \"origin\"]\nurl = \"/a b;c\" ; d\n", Some("/a b;c")),
            ("[remote \"origin\"]\nurl = a\nurl = b\n", Some("b")),
            ("[remote \"origin\"]\nurl = https://h\\\n/r\n", Some("https://h/r")),
            ("[include]\n\tpath = /etc/passwd\n", None),
            ("[remote \"origin\"]\nurl =\n", None),
            ("[remote \"origin\"\nurl = x\n", None),
            ("", None),
        ] {
            assert_eq!(url(config).as_deref(), expected, "{config}");
        }
    }
}
