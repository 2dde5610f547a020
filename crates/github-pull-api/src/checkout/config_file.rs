//! A `.git/config`: what git reads in it, and what is written into it.

/// The values of a configuration, in their order.
pub(super) struct Values(Vec<(String, String)>);

impl Values {
    /// Takes what `git config -z --list` prints.
    pub(super) fn parse(listed: &[u8]) -> Self {
        let entries = listed.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
        let pair = |entry: &[u8]| {
            let entry = String::from_utf8_lossy(entry).into_owned();
            // A key without a value is on.
            let (key, value) = entry.split_once('\n').unwrap_or((&entry, "true"));
            (key.to_owned(), value.to_owned())
        };
        Self(entries.map(pair).collect())
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

    /// Each subsection of `section` that has `key`, with its value.
    pub(super) fn of<'a>(
        &'a self,
        section: &str,
        key: &str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let (first, last) = (format!("{section}."), format!(".{key}"));
        self.0.iter().filter_map(move |(name, value)| {
            let name = name.strip_prefix(&first)?.strip_suffix(&last)?;
            Some((name, value.as_str()))
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
