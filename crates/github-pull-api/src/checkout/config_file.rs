//! A `.git/config`, read as text and written for one branch.
//!
//! git's own reader follows `include.path` wherever it leads; this one only reads.

/// The values of a configuration, in the order of the file.
pub(super) struct Values(Vec<(String, String)>);

impl Values {
    /// Reads `text`; what does not parse is left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut values = Vec::new();
        let mut section = None;
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let mut line = line.trim().to_owned();
            // A backslash at its end continues a line.
            while line.ends_with('\\') && !line.ends_with("\\\\") {
                line.pop();
                line.push_str(lines.next().unwrap_or_default());
            }
            let mut rest = line.as_str();
            if let Some(header) = rest.strip_prefix('[') {
                let Some((name, after)) = split_header(header) else { continue };
                section = Some(name);
                // The first key may stand behind its section's header.
                rest = after.trim_start();
            }
            let Some(section) = &section else { continue };
            let (key, text) = rest.split_once('=').unwrap_or((rest, "true"));
            let key = key.trim().to_ascii_lowercase();
            if !key.is_empty() && !key.starts_with(['#', ';']) {
                values.push((format!("{section}.{key}"), value(text.trim_start())));
            }
        }
        Self(values)
    }

    /// The value of `key` (`section.key` or `section.subsection.key`, section and key in lower case), the
    /// last one if there are several.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.0.iter().rev().find(|(name, _)| name == key)?;
        Some(value).filter(|value| !value.is_empty()).map(String::as_str)
    }

    /// Whether `key` is on.
    pub(super) fn is_on(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| {
            ["true", "yes", "on", "1"].iter().any(|on| value.eq_ignore_ascii_case(on))
        })
    }
}

/// The section that makes `git pull` and `git push` work on a branch.
pub(super) fn branch_section(branch: &[u8]) -> Vec<u8> {
    let quoted: Vec<u8> = branch
        .iter()
        .flat_map(|&byte| match byte {
            b'"' | b'\\' => vec![b'\\', byte],
            byte => vec![byte],
        })
        .collect();
    let parts: [&[u8]; 5] = [
        b"[branch \"",
        &quoted,
        b"\"]\n\tremote = origin\n\tmerge = \"refs/heads/",
        &quoted,
        b"\"\n",
    ];
    parts.concat()
}

/// The name in a section's header, and what follows the header.
fn split_header(header: &str) -> Option<(String, &str)> {
    let Some((section, quoted)) = header.split_once('"') else {
        let (name, after) = header.split_once(']')?;
        return Some((name.trim().to_ascii_lowercase(), after));
    };
    if section.contains(']') {
        let (name, after) = header.split_once(']')?;
        return Some((name.trim().to_ascii_lowercase(), after));
    }
    let mut subsection = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => {
                let after = quoted.get(at + 1..)?.trim_start().strip_prefix(']')?;
                return Some((
                    format!("{}.{subsection}", section.trim().to_ascii_lowercase()),
                    after,
                ));
            }
            '\\' => subsection.push(letters.next()?.1),
            letter => subsection.push(letter),
        }
    }
    None
}

/// Resolves quotes, escapes and comments as git does.
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
            let values = Values::parse(config);
            assert_eq!(values.get("remote.origin.url"), expected, "{config}");
        }
    }
    #[test]
    fn switches_and_sections() {
        let values = Values::parse(
            "[core]\n\tsparseCheckout = true\n\tbare\n[a \"b ] \\\" c\"] # x\n\tD = 1 ; y\n[core]\nbare = no\n",
        );
        assert!(values.is_on("core.sparsecheckout") && !values.is_on("core.bare"));
        assert_eq!(values.get("a.b ] \" c.d"), Some("1"));
        assert!(!values.is_on("core.unknown"));
    }

    #[test]
    fn the_section_of_any_branch_is_read_back() {
        for branch in ["main", "feature/#123", "semi;colon", "fix-\"quote", "back\\slash", "@"] {
            let section = String::from_utf8(branch_section(branch.as_bytes())).unwrap();
            let values = Values::parse(&section);
            assert_eq!(values.get(&format!("branch.{branch}.remote")), Some("origin"));
            let merge = format!("refs/heads/{branch}");
            assert_eq!(values.get(&format!("branch.{branch}.merge")), Some(merge.as_str()));
        }
    }
}
