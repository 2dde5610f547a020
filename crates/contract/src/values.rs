//! Parsed strings from callers. A value of one of these types is safe for the use that its name implies.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::{JobId, OwnId};

macro_rules! text {
    ($(#[doc = $doc:literal])+ $name:ident) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

text!(
    /// The task for an agent: not empty and not only white space.
    Prompt
);
text!(
    /// The name of a shared checkout: one path component that is not an option, not hidden, and not a name that the
    /// stack uses itself.
    DirectoryName
);
text!(
    /// The name of a branch or a tag by git's own rules (`git check-ref-format`), not starting with `-`, or a commit
    /// ID.
    BranchName
);
text!(
    /// The name of a branch that a result is delivered to or based on: a [`BranchName`] that is neither a full reference
    /// (`refs/…`) nor the ID of a commit.
    DeliveryBranch
);
text!(
    /// A path relative to the workspace and beneath it: without `..`, `.git`, `.stack` and empty components.
    WorkspacePath
);

impl Prompt {
    /// # Errors
    /// A sentence for the caller.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("say what the agent should do".into());
        }
        Ok(Self(text.to_owned()))
    }
}

impl DirectoryName {
    /// The longest name in bytes on common file systems.
    pub const MAX_BYTES: usize = 255;

    /// # Errors
    /// A sentence for the caller.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() || !text.chars().all(allowed) {
            return Err("use one name of letters, digits, '.', '_' and '-'".into());
        }
        if text.len() > Self::MAX_BYTES {
            return Err(format!("use at most {} characters", Self::MAX_BYTES));
        }
        if text.starts_with(['.', '-']) {
            return Err("a name must not begin with '.' or '-'".into());
        }
        // In either case, because a volume may be case-insensitive.
        if text.eq_ignore_ascii_case("jobs") {
            return Err("'jobs' is reserved: use another name".into());
        }
        Ok(Self(text.to_owned()))
    }

    /// Makes a valid name from the last part of a repository's URL.
    #[must_use]
    pub fn from_repository(name: &str) -> Self {
        let fitted: String = name
            .chars()
            .map(
                |c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' },
            )
            .take(100)
            .collect();
        let fitted = fitted.trim_start_matches(['.', '-']);
        Self::parse(fitted).unwrap_or_else(|_| Self("repository".into()))
    }
}

impl BranchName {
    /// # Errors
    /// A sentence for the caller.
    pub fn parse(text: &str) -> Result<Self, String> {
        let error = || Err("is not a valid name of a branch, tag or commit".to_owned());
        if text.is_empty() || text.len() > 244 || text.starts_with('-') || text == "HEAD" {
            return error();
        }
        let bad =
            |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
        if text.chars().any(bad)
            || text.contains("..")
            || text.contains("@{")
            || text.ends_with('.')
        {
            return error();
        }
        let bad_part = |part: &str| {
            part.is_empty()
                || part.starts_with('.')
                // the suffix of git's lock files
                || part.get(part.len().saturating_sub(5)..) == Some(".lock")
        };
        if text.split('/').any(bad_part) {
            return error();
        }
        Ok(Self(text.to_owned()))
    }
}

impl DeliveryBranch {
    /// # Errors
    /// A sentence for the caller.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name =
            BranchName::parse(text).map_err(|_| "is not a valid name of a branch".to_owned())?;
        // In either case, because a host may be case-insensitive.
        if text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("refs/")) {
            return Err("name the branch without 'refs/heads/'".into());
        }
        // git takes these for something else: `@` is HEAD, and hexadecimal digits are a commit.
        let is_id = matches!(text.len(), 40 | 64) && text.chars().all(|c| c.is_ascii_hexdigit());
        if text == "@" || is_id {
            return Err("is not the name of a branch".into());
        }
        Ok(Self(name.0))
    }
}

impl WorkspacePath {
    /// Parses a path from a caller: relative to the workspace, or absolute beneath `root`.
    ///
    /// Does not resolve symbolic links: open the path beneath a directory handle.
    ///
    /// # Errors
    /// A sentence for the caller.
    pub fn parse(text: &str, root: &str) -> Result<Self, String> {
        if text.len() > 4000 || text.contains(|c: char| c.is_control()) {
            return Err("not a path".into());
        }
        let relative = if text.starts_with('/') {
            let root = root.trim_end_matches('/');
            text.strip_prefix(root)
                .filter(|rest| rest.is_empty() || rest.starts_with('/'))
                .ok_or_else(|| format!("an absolute path must be beneath {root}"))?
        } else {
            text
        };
        let mut parts = Vec::new();
        for part in relative.split('/') {
            match part {
                "" | "." => {}
                ".." => return Err("'..' is not allowed".into()),
                // In either case, because a volume may be case-insensitive.
                part if part.eq_ignore_ascii_case(".git")
                    || part.eq_ignore_ascii_case(".stack") =>
                {
                    return Err(format!("'{part}' is not a workspace"));
                }
                part if part.len() > 255 => {
                    return Err("a path component is longer than 255 bytes".into());
                }
                part => parts.push(part),
            }
        }
        if parts.is_empty() || parts == ["jobs"] {
            return Err("name a directory beneath the workspace, not the workspace itself".into());
        }
        Ok(Self(parts.join("/")))
    }

    /// The shared checkout that contains the path; `None` if it is in a job's own directory.
    #[must_use]
    pub fn directory(&self) -> Option<DirectoryName> {
        DirectoryName::parse(self.0.split('/').next()?).ok()
    }
}

impl WorkspacePath {
    /// The checkout that it is in: `app` of `app/src`, `jobs/<id>/app` of `jobs/<id>/app/src`. `root` is the absolute path of
    /// the workspace.
    #[must_use]
    pub fn checkout(&self, root: &str) -> Self {
        let depth = if self.directory().is_some() { 1 } else { 3 };
        let parts: Vec<&str> = self.0.split('/').take(depth).collect();
        Self::parse(&parts.join("/"), root).unwrap_or_else(|_| self.clone())
    }

    /// The job or session whose own directory it is in.
    #[must_use]
    pub fn own_id(&self) -> Option<OwnId> {
        self.0.strip_prefix("jobs/")?.split('/').next()?.parse().ok()
    }

    /// The job whose own directory it is in.
    #[must_use]
    pub fn own_job(&self) -> Option<JobId> {
        self.0.strip_prefix("jobs/")?.split('/').next()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn directory_names() {
        for good in ["a", "my-app_2.0", &"x".repeat(255), "jobs2", "a..b"] {
            assert!(DirectoryName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "/etc",
            ".git",
            ".stack",
            "jobs",
            "Jobs",
            "a/b",
            "a\0b",
            "-rf",
            "é",
            "a b",
            "a\n",
            &"x".repeat(256),
            &"x".repeat(5000),
        ] {
            assert!(DirectoryName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn any_repository_name_becomes_a_valid_name() {
        for (name, fitted) in [
            ("app", "app"),
            ("my app", "my-app"),
            ("..", "repository"),
            ("-x", "x"),
            ("jobs", "repository"),
            ("é", "repository"),
            (".git", "git"),
            ("", "repository"),
        ] {
            assert_eq!(DirectoryName::from_repository(name).as_str(), fitted);
        }
    }

    #[test]
    fn branch_names() {
        for good in [
            "main",
            "feature/x",
            "feature/#123",
            "semi;colon",
            "fix-\"quote",
            "refs/heads/x",
            "v1.0",
            "a@b",
            "@",
            "ü",
            "0b1f8a0e5a3e4bd58ba55e8be7c7a1d60b1f8a0e",
        ] {
            assert!(BranchName::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-d",
            "--upload-pack=x",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.lock/b",
            "a.",
            "HEAD",
            "a@{1}",
            "a\0",
            "a\\b",
            "refs?*",
        ] {
            assert!(BranchName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn delivery_branches() {
        for good in ["main", "agent/7c3e91d2", "feature/#1", "refsx", "ü", "a@b"] {
            assert_eq!(DeliveryBranch::parse(good).unwrap().as_str(), good);
        }
        let id = "0b1f8a0e5a3e4bd58ba55e8be7c7a1d60b1f8a0e";
        for bad in ["", "-d", "refs/heads/x", "Refs/x", "@", "HEAD", "a..b", "a b", "a:b", id] {
            assert!(DeliveryBranch::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn workspace_paths() {
        for (given, path) in [
            ("app", "app"),
            ("/workspace/app", "app"),
            ("jobs/x/app", "jobs/x/app"),
            ("./app//src/", "app/src"),
            ("/workspace//app", "app"),
        ] {
            assert_eq!(WorkspacePath::parse(given, "/workspace").unwrap().as_str(), path);
        }
        for bad in [
            "",
            "/",
            ".",
            "/workspace",
            "/workspace/",
            "/workspacex/app",
            "/etc",
            "../x",
            "a/../../b",
            "app/.git",
            ".stack/jobs",
            "app/.GIT/hooks",
            "a\0b",
            "jobs",
            &"x".repeat(256),
        ] {
            assert!(WorkspacePath::parse(bad, "/workspace").is_err(), "{bad}");
        }
    }

    #[test]
    fn the_shared_checkout_of_a_path() {
        let directory = |path| WorkspacePath::parse(path, "/w").unwrap().directory();
        assert_eq!(directory("app/src").unwrap().as_str(), "app");
        assert_eq!(directory("jobs/x/app"), None);
    }

    properties::fuzz! {
        #[test]
        fn a_path_stays_in_the_workspace(
            text in prop_oneof![any::<String>(), "(/w|/)?([a-zA-Z.]{0,6}/){0,5}(\\.\\.|\\.git|\\.STACK|a)?"],
        ) {
            let Ok(path) = WorkspacePath::parse(&text, "/w") else { return Ok(()) };
            let path = path.as_str();
            prop_assert!(!path.starts_with('/') && !path.is_empty());
            for part in path.split('/') {
                let lower = part.to_ascii_lowercase();
                prop_assert!(!["", ".", "..", ".git", ".stack"].contains(&&*lower), "{path}");
            }
            let again = WorkspacePath::parse(path, "/w");
            prop_assert_eq!(again.as_ref().map(WorkspacePath::as_str), Ok(path));
            let absolute = WorkspacePath::parse(&format!("/w/{path}"), "/w");
            prop_assert_eq!(absolute.as_ref().map(WorkspacePath::as_str), Ok(path));
        }

        #[test]
        fn a_directory_is_one_component(text in prop_oneof![any::<String>(), "[-./a-zA-Z0-9_]{0,260}"]) {
            let Ok(name) = DirectoryName::parse(&text) else { return Ok(()) };
            let name = name.as_str();
            prop_assert!(name.len() <= 255 && !name.contains('/') && name != "jobs");
            prop_assert!(!name.starts_with('.') && !name.starts_with('-'));
            let path = WorkspacePath::parse(name, "/w").unwrap();
            prop_assert_eq!(path.as_str(), name);
        }
    }
}
