//! What is not delivered: protected paths, more than the limits, and secrets of the stack.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use contract::Code;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use memchr::memmem;

use super::{refuse, settings::DeliverSettings};
use crate::failure::Result;

/// Names that protect everything at and beneath them, in any directory: what hosts run with rights of their own, and what
/// agents and git read as instructions.
const NAMES: [&str; 21] = [
    ".github",
    ".gitlab",
    ".gitlab-ci.yml",
    ".gitea",
    ".forgejo",
    ".woodpecker",
    ".woodpecker.yml",
    ".woodpecker.yaml",
    ".circleci",
    "jenkinsfile",
    "codeowners",
    ".claude",
    ".mcp.json",
    "claude.md",
    "claude.local.md",
    "agents.md",
    ".husky",
    ".devcontainer",
    ".vscode",
    ".gitmodules",
    ".lfsconfig",
];
/// How many paths an error or a message lists.
pub(super) const SHOWN: usize = 10;
/// How many links are followed from one to the next, as in Linux.
const MOST_LINKS: usize = 40;

/// Paths that are delivered only on request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Protected {
    /// Those that the operator adds.
    own: GlobSet,
}

impl Protected {
    /// The default paths, and those that match one of `globs`. As in a `.gitignore` file, a glob without a slash matches in
    /// any directory, and one that matches a directory protects everything in it. Case does not matter.
    ///
    /// # Errors
    /// What is wrong with a glob.
    pub(super) fn new(globs: &[String]) -> std::result::Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            let path = glob.trim_end_matches('/');
            let path = match path.strip_prefix('/') {
                Some(path) => path.to_owned(),
                None if path.contains('/') => path.to_owned(),
                None => format!("**/{path}"),
            };
            for glob in [path.clone(), format!("{path}/**")] {
                let mut builder = GlobBuilder::new(&glob);
                let builder = builder.literal_separator(true).case_insensitive(true);
                set.add(builder.build().map_err(|error| error.to_string())?);
            }
        }
        Ok(Self { own: set.build().map_err(|error| error.to_string())? })
    }

    /// Whether this path is protected.
    pub(super) fn contains(&self, path: &[u8]) -> bool {
        path.split(|byte| *byte == b'/').any(|part| NAMES.contains(&folded(part).as_str()))
            || self.own.is_match(Path::new(OsStr::from_bytes(path)))
    }

    /// The paths in a tree with these links that are read instead of the protected ones: what a protected link leads to, and
    /// the links on the way there.
    fn read_instead(&self, links: &Links) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for path in links.paths.iter().filter(|path| self.contains(path)) {
            links.follow(path, &mut found);
        }
        found
    }

    /// # Errors
    /// If one of `paths` is protected, in a tree with these links.
    pub(super) fn check<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p [u8]>,
        links: &Links,
    ) -> Result<()> {
        let read_instead = self.read_instead(links);
        let is_read_instead = |path: &[u8]| {
            let mut above = String::new();
            !read_instead.is_empty()
                && path.split(|byte| *byte == b'/').any(|part| {
                    above.extend(Some('/').filter(|_| !above.is_empty()));
                    above.push_str(&folded(part));
                    read_instead.contains(&above)
                })
        };
        let is_protected = |path: &&[u8]| self.contains(path) || is_read_instead(path);
        let found: Vec<_> = paths.into_iter().filter(is_protected).collect();
        if found.is_empty() {
            return Ok(());
        }
        let more = found.len().saturating_sub(SHOWN);
        let mut names: Vec<_> =
            found.iter().take(SHOWN).map(|path| crate::failure::quote(&shown(path), &[])).collect();
        if more > 0 {
            names.push(format!("{more} more"));
        }
        refuse(
            Code::ProtectedPaths,
            format!(
                "the agent changed protected paths ({}): review them, then deliver with \"allowProtected\": true",
                names.join(", ")
            ),
        )
    }
}

/// The links of a tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    paths: Vec<Vec<u8>>,
    /// By folded path.
    targets: BTreeMap<String, Vec<u8>>,
}

impl<'a> FromIterator<(&'a [u8], &'a [u8])> for Links {
    fn from_iter<I: IntoIterator<Item = (&'a [u8], &'a [u8])>>(links: I) -> Self {
        let mut all = Self::default();
        for (path, target) in links {
            let parts: Vec<_> = path.split(|byte| *byte == b'/').map(folded).collect();
            all.targets.insert(parts.join("/"), target.to_vec());
            all.paths.push(path.to_vec());
        }
        all
    }
}

impl Links {
    /// Adds the folded paths of all links on the way from `path`, and where that ends. A way out of the tree ends nowhere.
    fn follow(&self, path: &[u8], found: &mut BTreeSet<String>) {
        let parts = |path: &[u8]| path.split(|byte| *byte == b'/').map(folded).collect::<Vec<_>>();
        let mut left: Vec<String> = parts(path);
        left.reverse();
        let mut at: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => {}
                ".." if at.pop().is_none() => return,
                ".." => {}
                _ => at.push(part),
            }
            let here = at.join("/");
            let Some(target) = self.targets.get(&here) else { continue };
            found.insert(here);
            links += 1;
            if links > MOST_LINKS || target.starts_with(b"/") {
                return;
            }
            at.pop();
            left.extend(parts(target).into_iter().rev());
        }
        found.insert(at.join("/"));
    }
}

/// A name as file systems may read it: some ignore case, zero-width characters, what comes after a colon, or dots and spaces
/// at the end.
fn folded(name: &[u8]) -> String {
    let is_ignored = |c: char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let name = String::from_utf8_lossy(name);
    let name: String = name.chars().filter(|c| !is_ignored(*c)).collect();
    let name = name.split(':').next().unwrap_or_default();
    let plain = name.trim_end_matches(['.', ' ']);
    // `.` and `..` are names of their own.
    let name = if plain.is_empty() { name } else { plain };
    name.to_uppercase().to_lowercase()
}

/// A path for people.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// # Errors
/// If there are more files, or more bytes of patch, than the settings allow. `is_whole` is false if the patch is even larger.
pub(super) fn check_size(
    settings: &DeliverSettings,
    files: usize,
    (patch, is_whole): (u64, bool),
) -> Result<()> {
    let most = settings.file_limit;
    if files > most {
        return refuse(
            Code::TooLarge,
            format!(
                "the agent changed {files} files, and a delivery may have {most}, which is {} fewer: raise \
                 DELIVER_LIMIT_FILES, or ask for smaller changes",
                files - most
            ),
        );
    }
    if patch <= settings.patch_limit && is_whole {
        return Ok(());
    }
    let kib = |bytes: u64| bytes.div_ceil(1024);
    let (size, most) = (kib(patch), kib(settings.patch_limit));
    let at_least = if is_whole { "" } else { "at least " };
    refuse(
        Code::TooLarge,
        format!(
            "the patch has {at_least}{size} KiB, and a delivery may have {most} KiB, which is {} KiB less: raise \
             DELIVER_LIMIT_KIB, or ask for smaller changes",
            size.saturating_sub(most)
        ),
    )
}

/// Whether one of the secrets is in `bytes`.
pub(super) fn holds_secret(bytes: &[u8], secrets: &[String]) -> bool {
    secrets.iter().any(|secret| memmem::find(bytes, secret.as_bytes()).is_some())
}

/// The failure of a result that holds one.
pub(super) fn secret_found<T>() -> Result<T> {
    refuse(
        Code::SecretInResult,
        "the result contains a secret of the stack, such as its git token, and is not delivered: look at the checkout, \
         find out how the agent got it, and replace the secret",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    fn refused(protected: &Protected, path: &str) -> bool {
        protected.check([path.as_bytes()], &Links::default()).is_err()
    }

    #[test]
    fn paths_that_hosts_and_agents_obey() {
        let protected = Protected::default();
        for path in [
            ".github/workflows/ci.yml",
            ".GitHub/x",
            ".github",
            ".gitlab-ci.yml",
            "a/.gitea/workflows/x",
            ".forgejo/x",
            "sub/.claude/settings.json",
            ".mcp.json",
            "CLAUDE.md",
            "deep/down/claude.MD",
            "AGENTS.md",
            "web/.husky/pre-commit",
            ".gitmodules",
            "CODEOWNERS",
            ".woodpecker/x.yml",
            ".vscode/tasks.json",
            // As NTFS, HFS+ and others read them.
            "CLAUDE.md ",
            ".github./x",
            "AGENTS.md::$DATA",
            ".git\u{200c}hub/x",
            ".hu\u{17f}ky/x",
        ] {
            assert!(refused(&protected, path), "{path}");
        }
        for path in [
            "src/main.rs",
            "github/x",
            "CLAUDE.md.txt",
            "docs/agents.mdx",
            ".gitignore",
            "a.claude",
        ] {
            assert!(!refused(&protected, path), "{path}");
        }
    }

    #[test]
    fn what_a_protected_link_leads_to() {
        let protected = Protected::default();
        let links: Links = [
            ("CLAUDE.md", "docs/guide.md"),
            (".claude", "./tools/../Claude/"),
            ("docs", "real/docs"),
            ("other", "src"),
            ("sub/AGENTS.md", "../../outside"),
            (".mcp.json", "/etc/mcp.json"),
            (".husky", ".husky"),
        ]
        .into_iter()
        .map(|(path, target)| (path.as_bytes(), target.as_bytes()))
        .collect();
        let is_refused = |path: &str| protected.check([path.as_bytes()], &links).is_err();
        for path in ["real/docs/guide.md", "docs", "Claude/settings.json", "claude"] {
            assert!(is_refused(path), "{path}");
            assert!(!refused(&protected, path), "the control: {path}");
        }
        for path in ["src/main.rs", "real/docs/other.md", "claude2/x", "outside", "etc/mcp.json"] {
            assert!(!is_refused(path), "{path}");
        }
    }

    #[test]
    fn paths_that_an_operator_adds() {
        let globs = ["infra/", "*.tf", "/deploy/*.yml", "a/**/z"].map(str::to_owned);
        let protected = Protected::new(&globs).unwrap();
        for path in [
            "infra/x",
            "sub/Infra/deep/x",
            "infra",
            "main.tf",
            "a/b.TF",
            "deploy/x.yml",
            "a/b/c/z",
            "a/z/x",
        ] {
            assert!(refused(&protected, path), "{path}");
        }
        for path in ["infrastructure/x", "x.tfvars", "deploy/a/x.yml", "sub/deploy/x.yml", "b/a/z"]
        {
            assert!(!refused(&protected, path), "{path}");
        }
        assert!(Protected::new(&["a[".to_owned()]).is_err());
    }

    #[test]
    fn the_error_names_them() {
        let paths: Vec<String> = (0..12).map(|n| format!(".github/{n}\n")).collect();
        let error = Protected::default()
            .check(paths.iter().map(String::as_bytes), &Links::default())
            .unwrap_err();
        let Failure::Told { code, sentence } = error else { panic!("{error}") };
        assert_eq!(code, Code::ProtectedPaths);
        assert!(sentence.contains(".github/0, ") && sentence.contains("2 more"), "{sentence}");
        assert!(sentence.contains("allowProtected") && !sentence.contains('\n'), "{sentence}");
    }

    #[test]
    fn sizes_say_which_and_by_how_much() {
        let settings =
            DeliverSettings { patch_limit: 2048, file_limit: 3, ..DeliverSettings::default() };
        assert!(check_size(&settings, 3, (2048, true)).is_ok());
        for (files, patch, words) in [
            (5, (0, true), ["5 files", "2 fewer", "DELIVER_LIMIT_FILES"]),
            (1, (5000, true), ["5 KiB", "3 KiB less", "DELIVER_LIMIT_KIB"]),
            (1, (1024, false), ["at least 1 KiB", "2 KiB", "DELIVER_LIMIT_KIB"]),
        ] {
            let error = check_size(&settings, files, patch).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }

    #[test]
    fn secrets_are_found_anywhere() {
        let secrets = ["s3cret".to_owned()];
        assert!(holds_secret(b"\0a s3cret\xff", &secrets));
        assert!(!holds_secret(b"s3cre", &secrets) && !holds_secret(b"x", &[]));
    }
}
