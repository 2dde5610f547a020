//! The rehearsal agent's work in a repository: it surveys the files and changes one.
//!
//! The repository is untrusted: symbolic links are never followed, and only one file, directly in the working
//! directory, is changed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use serde_json::{Value, json};

/// Limits of the survey.
const MOST_FILES: usize = 1000;
const MOST_DEPTH: usize = 12;
const MOST_BYTES: u64 = 256 << 10;
/// How many files are listed in the file that it writes.
const LISTED: usize = 12;
/// How many characters of a prompt are quoted.
const PROMPT: usize = 200;

/// The files of a repository.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Sorted relative paths with the number of lines of each file, or `None` if it could not be read.
    pub(crate) files: Vec<(String, Option<usize>)>,
}

impl Survey {
    pub(crate) fn of(root: &Path) -> Self {
        let mut survey = Self::default();
        survey.walk(root, "", MOST_DEPTH);
        survey.files.sort();
        survey
    }

    fn walk(&mut self, directory: &Path, prefix: &str, depth: usize) {
        // Skips unreadable directories.
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // The type of the entry itself, because links are not followed.
            let Ok(kind) = entry.file_type() else { continue };
            if self.files.len() >= MOST_FILES {
                return;
            }
            let path = format!("{prefix}{name}");
            if kind.is_file() {
                self.files.push((path, lines(&entry.path())));
            } else if kind.is_dir() && depth > 0 && ![".git", ".stack"].contains(&name.as_str()) {
                self.walk(&entry.path(), &format!("{path}/"), depth - 1);
            }
        }
    }

    fn total(&self) -> usize {
        self.files.iter().filter_map(|(_, lines)| *lines).sum()
    }

    /// The result of the listing tool.
    pub(crate) fn listing(&self) -> String {
        let names: Vec<_> = self.files.iter().map(|(name, _)| name.as_str()).collect();
        if names.is_empty() { "No files found".to_owned() } else { names.join("\n") }
    }
}

fn lines(path: &Path) -> Option<usize> {
    let mut text = Vec::new();
    open(OpenOptions::new().read(true), path).ok()?.take(MOST_BYTES).read_to_end(&mut text).ok()?;
    let unfinished = usize::from(text.last().is_some_and(|last| *last != b'\n'));
    Some(memchr::memchr_iter(b'\n', &text).count() + unfinished)
}

/// Opens a regular file only. Does not follow links and does not block on a pipe.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// The change to make: a new file, or an addition to an existing one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Directly in the working directory.
    pub(crate) file: &'static str,
    pub(crate) tool: &'static str,
    pub(crate) text: String,
}

impl Change {
    /// If the prompt mentions the README, changes the README; otherwise, creates a separate file.
    pub(crate) fn plan(root: &Path, prompt: &str, survey: &Survey) -> Self {
        let file =
            if prompt.to_lowercase().contains("readme") { "README.md" } else { "REHEARSAL.md" };
        let (tool, before) = match fs::symlink_metadata(root.join(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => ("Write", "# Rehearsal"),
            _ => ("Edit", "\n## Rehearsal"),
        };
        let mut text = format!(
            "{before}\n\nWritten by the rehearsal agent of stackctl, which calls no model.\n\n\
             It was asked: {}\n\nIt found {}, {}:\n\n",
            excerpt(prompt),
            counted(survey.files.len(), "file"),
            counted(survey.total(), "line"),
        );
        for (name, lines) in survey.files.iter().take(LISTED) {
            let lines = lines.map_or("not read".to_owned(), |lines| counted(lines, "line"));
            text.push_str(&format!("- {} ({lines})\n", one_line(name)));
        }
        if let Some(more) = survey.files.len().checked_sub(LISTED).filter(|more| *more > 0) {
            text.push_str(&format!("- and {more} more\n"));
        }
        Self { file, tool, text }
    }

    /// The tool's input, in the format of the CLI's tools.
    pub(crate) fn input(&self, root: &Path) -> Value {
        let path = root.join(self.file);
        let path = path.to_string_lossy();
        match self.tool {
            "Write" => json!({"file_path": path, "content": self.text}),
            _ => json!({"file_path": path, "old_string": "", "new_string": self.text}),
        }
    }

    /// Makes the change.
    ///
    /// # Errors
    /// If the file is not a regular file or cannot be written.
    pub(crate) fn make(&self, root: &Path) -> io::Result<()> {
        let path = root.join(self.file);
        let mut file = match self.tool {
            "Write" => open(OpenOptions::new().write(true).create_new(true), &path)?,
            _ => open(OpenOptions::new().append(true), &path)?,
        };
        file.write_all(self.text.as_bytes())
    }
}

/// The beginning of a prompt as one line.
pub(crate) fn excerpt(prompt: &str) -> String {
    let line = one_line(prompt);
    match line.char_indices().nth(PROMPT) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
        None => line,
    }
}

fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn repository() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("src/deep")).unwrap();
        fs::create_dir_all(root.path().join(".git")).unwrap();
        fs::write(root.path().join(".git/config"), "x").unwrap();
        fs::write(root.path().join("README.md"), "# A\n\nb").unwrap();
        fs::write(root.path().join("src/deep/a.rs"), "1\n2\n").unwrap();
        root
    }

    fn plan(root: &Path, prompt: &str) -> Change {
        Change::plan(root, prompt, &Survey::of(root))
    }

    #[test]
    fn the_survey_skips_links_and_git() {
        let root = repository();
        symlink("/etc", root.path().join("etc")).unwrap();
        symlink("README.md", root.path().join("link")).unwrap();
        let survey = Survey::of(root.path());
        let files = [("README.md".to_owned(), Some(3)), ("src/deep/a.rs".to_owned(), Some(2))];
        assert_eq!(survey.files, files);
        assert_eq!(survey.listing(), "README.md\nsrc/deep/a.rs");
    }

    #[test]
    fn a_separate_file() {
        let root = repository();
        let change = plan(root.path(), "Say\nwhat is here\x1b[2J");
        assert_eq!((change.file, change.tool), ("REHEARSAL.md", "Write"));
        change.make(root.path()).unwrap();
        let text = fs::read_to_string(root.path().join("REHEARSAL.md")).unwrap();
        insta::assert_snapshot!(text, @r"
        # Rehearsal

        Written by the rehearsal agent of stackctl, which calls no model.

        It was asked: Say what is here [2J

        It found 2 files, 5 lines:

        - README.md (3 lines)
        - src/deep/a.rs (2 lines)
        ");
        let again = plan(root.path(), "x");
        assert_eq!((again.file, again.tool), ("REHEARSAL.md", "Edit"));
        again.make(root.path()).unwrap();
    }

    #[test]
    fn the_readme_is_added_to() {
        let root = repository();
        let change = plan(root.path(), "Improve the ReadMe");
        assert_eq!((change.file, change.tool), ("README.md", "Edit"));
        change.make(root.path()).unwrap();
        let text = fs::read_to_string(root.path().join("README.md")).unwrap();
        assert!(text.starts_with("# A\n\nb\n## Rehearsal\n"), "{text}");
    }

    #[test]
    fn only_regular_files_are_changed() {
        let (root, outside) = (repository(), tempfile::tempdir().unwrap());
        let target = outside.path().join("target");
        let link = root.path().join("REHEARSAL.md");
        // A dangling link, a link to a file outside, a link to a file inside, a pipe without a reader, and a
        // directory.
        symlink(&target, &link).unwrap();
        assert!(plan(root.path(), "x").make(root.path()).is_err());
        assert!(!target.exists());
        fs::write(&target, "unchanged").unwrap();
        assert!(plan(root.path(), "x").make(root.path()).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "unchanged");
        fs::remove_file(&link).unwrap();
        symlink("README.md", &link).unwrap();
        assert!(plan(root.path(), "x").make(root.path()).is_err());
        fs::remove_file(&link).unwrap();
        nix::unistd::mkfifo(&link, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(plan(root.path(), "x").make(root.path()).is_err());
        fs::remove_file(&link).unwrap();
        fs::create_dir(&link).unwrap();
        assert!(plan(root.path(), "x").make(root.path()).is_err());
        // A link that appears between planning and making the change.
        fs::remove_dir(&link).unwrap();
        let change = plan(root.path(), "x");
        symlink(&target, &link).unwrap();
        assert!(change.make(root.path()).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "unchanged");
    }

    #[test]
    fn long_prompts_are_truncated_between_characters() {
        assert_eq!(excerpt(&"é".repeat(PROMPT)).chars().count(), PROMPT);
        assert_eq!(excerpt(&"é".repeat(PROMPT + 1)).chars().count(), PROMPT + 1);
        assert!(excerpt(&"é".repeat(PROMPT + 1)).ends_with('…'));
    }

    #[test]
    fn long_listings_are_truncated() {
        let root = repository();
        for n in 0..20 {
            fs::write(root.path().join(format!("f{n}")), "").unwrap();
        }
        let text = plan(root.path(), "x").text;
        assert!(text.ends_with("(0 lines)\n- and 10 more\n"), "{text}");
    }
}
