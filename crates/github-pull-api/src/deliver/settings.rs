//! What an operator sets for deliveries.

use std::{fmt, str::FromStr};

use boot::Settings;

use super::{forge::Forges, rules::Protected};

/// The settings of deliveries.
#[derive(Clone, Debug)]
pub struct DeliverSettings {
    /// Who makes the commits.
    pub(crate) author: Identity,
    /// What is delivered only on request.
    pub(crate) protected: Protected,
    /// The largest patch, in bytes.
    pub(crate) patch_limit: u64,
    /// The most files.
    pub(crate) file_limit: usize,
    /// Which software runs on which git host.
    pub(crate) forges: Forges,
    /// The address of the stack, for links. Without a trailing slash.
    pub(crate) public_url: Option<String>,
}

impl Default for DeliverSettings {
    fn default() -> Self {
        Self {
            author: Identity::default(),
            protected: Protected::default(),
            patch_limit: 1 << 20,
            file_limit: 100,
            forges: Forges::default(),
            public_url: None,
        }
    }
}

impl DeliverSettings {
    /// Reads the settings; what is wrong with them is noted in `settings`.
    pub(crate) fn read(settings: &mut Settings<'_>) -> Self {
        let default = Self::default();
        let author = settings.or("DELIVER_AUTHOR", default.author, Identity::EXPECTED);
        let globs = settings.list("DELIVER_PROTECT").unwrap_or_default();
        let protected = Protected::new(&globs).unwrap_or_else(|why| {
            settings.problem("DELIVER_PROTECT", &why);
            Protected::default()
        });
        let kib =
            settings.or("DELIVER_LIMIT_KIB", default.patch_limit >> 10, "whole KiB, such as 1024");
        let file_limit = settings.or(
            "DELIVER_LIMIT_FILES",
            default.file_limit,
            "a number of files, such as 100",
        );
        let forges = settings.list("GIT_FORGES").unwrap_or_default();
        let forges = Forges::parse(&forges).unwrap_or_else(|why| {
            settings.problem("GIT_FORGES", &why);
            Forges::default()
        });
        let public_url = settings.text("PUBLIC_URL").map(|url| {
            let parsed = url::Url::parse(&url).ok();
            let is_plain = parsed.is_some_and(|it| {
                matches!(it.scheme(), "http" | "https") && it.query().is_none() && it.username().is_empty()
            });
            if !is_plain {
                let why = "use the URL at which people reach the stack, such as https://stack.example.org";
                settings.problem("PUBLIC_URL", why);
            }
            url.trim_end_matches('/').to_owned()
        });
        let patch_limit = kib.saturating_mul(1024);
        Self { author, protected, patch_limit, file_limit, forges, public_url }
    }
}

/// A name and an e-mail address, as git writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) email: String,
}

impl Identity {
    const EXPECTED: &str =
        "a name and an e-mail address, such as workflow-stack <noreply@example.org>";

    /// The part behind the `@`.
    pub(crate) fn domain(&self) -> &str {
        self.email.rsplit_once('@').map_or("localhost", |(_, domain)| domain)
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self { name: "workflow-stack".into(), email: "noreply@localhost".into() }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <{}>", self.name, self.email)
    }
}

impl FromStr for Identity {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (name, rest) = text.trim().split_once('<').ok_or(())?;
        let (name, email) = (name.trim(), rest.strip_suffix('>').ok_or(())?.trim());
        let is_plain = |text: &str| {
            !text.is_empty() && !text.contains(|c: char| c.is_control() || "<>".contains(c))
        };
        // git drops such characters from both ends, and the commit would not be recognized again.
        let is_kept = |c: char| c.is_ascii_punctuation();
        let is_whole = !name.starts_with(is_kept) && !name.ends_with(is_kept);
        let is_address =
            is_plain(email) && !email.contains(char::is_whitespace) && email.contains('@');
        if is_plain(name) && is_whole && is_address {
            Ok(Self { name: name.to_owned(), email: email.to_owned() })
        } else {
            Err(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> (DeliverSettings, Vec<String>) {
        let env: HashMap<String, String> =
            variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut settings = Settings::new(&env);
        let read = DeliverSettings::read(&mut settings);
        (read, settings.finish().err().map(|it| it.problems).unwrap_or_default())
    }

    #[test]
    fn defaults_and_values() {
        let (settings, problems) = read(&[]);
        assert_eq!(problems, [] as [String; 0]);
        assert_eq!(settings.author.to_string(), "workflow-stack <noreply@localhost>");
        assert_eq!((settings.patch_limit, settings.file_limit), (1 << 20, 100));
        let (settings, problems) = read(&[
            ("DELIVER_AUTHOR", "The Bots <bots@example.org>"),
            ("DELIVER_LIMIT_KIB", "2"),
            ("DELIVER_LIMIT_FILES", "3"),
            ("DELIVER_PROTECT", "infra/,*.tf"),
            ("GIT_FORGES", "git.corp=gitlab"),
            ("PUBLIC_URL", "https://stack.example.org/"),
        ]);
        assert_eq!(problems, [] as [String; 0]);
        assert_eq!((settings.author.domain(), settings.patch_limit), ("example.org", 2048));
        assert_eq!(settings.public_url.as_deref(), Some("https://stack.example.org"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (_, problems) = read(&[
            ("DELIVER_AUTHOR", "bots@example.org"),
            ("DELIVER_LIMIT_KIB", "much"),
            ("DELIVER_PROTECT", "a[b"),
            ("GIT_FORGES", "git.corp=cvs"),
            ("PUBLIC_URL", "stack"),
        ]);
        let names: Vec<_> = problems.iter().filter_map(|it| it.split(':').next()).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        let expected =
            ["DELIVER_AUTHOR", "DELIVER_LIMIT_KIB", "DELIVER_PROTECT", "GIT_FORGES", "PUBLIC_URL"];
        assert_eq!(sorted, expected, "{problems:?}");
    }

    #[test]
    fn identities() {
        for bad in [
            "",
            "a",
            "<a@b>",
            "a <b>",
            "a <b@c",
            "a\u{7} <b@c>",
            ".a <b@c>",
            "a. <b@c>",
            "a <b c@d>",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }
}
