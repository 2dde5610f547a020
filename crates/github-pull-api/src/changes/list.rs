//! The files that differ between two trees.

use contract::FileStatus as Status;

use super::Control;
use crate::{failure::Result, remote::ObjectId};

/// A file that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileChange {
    pub(crate) path: Vec<u8>,
    /// Where a renamed file was.
    pub(crate) from: Option<Vec<u8>>,
    pub(crate) status: Status,
    /// Lines; none in a binary file.
    pub(crate) additions: u64,
    pub(crate) deletions: u64,
    pub(crate) is_binary: bool,
}

/// All of them, in the order of their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files(pub(crate) Vec<FileChange>);

/// How changes are found, in every command alike.
pub(super) const DIFF: [&str; 6] =
    ["diff-tree", "-r", "-M", "--full-index", "--no-ext-diff", "--no-textconv"];

impl Files {
    /// Compares `base` with `tree`.
    ///
    /// # Errors
    /// If git cannot.
    pub(crate) fn between(control: &Control<'_>, base: &ObjectId, tree: &ObjectId) -> Result<Self> {
        let what = ["-z", "--raw", "--numstat", base.as_str(), tree.as_str()];
        let printed = control.command(&[&DIFF[..], &what].concat()).output()?;
        Ok(Self::parse(&printed))
    }

    /// The number of lines that were added, and of those that were removed.
    pub(crate) fn lines(&self) -> (u64, u64) {
        let sum =
            |count: fn(&FileChange) -> u64| self.0.iter().map(count).fold(0, u64::saturating_add);
        (sum(|file| file.additions), sum(|file| file.deletions))
    }

    /// Reads what `--raw` prints, `:MODE MODE ID ID STATUS`, and then what `--numstat` prints, `ADDED`, a tab, `DELETED`,
    /// a tab. Each is followed by a path, or by two for a renamed file. All of them end with NULs.
    fn parse(printed: &[u8]) -> Self {
        let mut fields = printed.split(|byte| *byte == 0);
        let mut files: Vec<FileChange> = Vec::new();
        let mut counted = 0;
        while let Some(field) = fields.next() {
            if let Some(raw) = field.strip_prefix(b":") {
                let letter = raw.rsplit(|byte| *byte == b' ').next().and_then(<[u8]>::first);
                let status = match letter {
                    Some(b'A') => Status::Added,
                    Some(b'D') => Status::Deleted,
                    Some(b'R') => Status::Renamed,
                    Some(b'T') => Status::TypeChanged,
                    _ => Status::Modified,
                };
                let first = fields.next().unwrap_or_default().to_vec();
                let (path, from) = match status {
                    Status::Renamed => (fields.next().unwrap_or_default().to_vec(), Some(first)),
                    _ => (first, None),
                };
                let (additions, deletions, is_binary) = (0, 0, false);
                files.push(FileChange { path, from, status, additions, deletions, is_binary });
                continue;
            }
            let mut words = field.splitn(3, |byte| *byte == b'\t');
            let (Some(added), Some(deleted), Some(path)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if path.is_empty() {
                // A renamed file: its two paths follow.
                let _ = (fields.next(), fields.next());
            }
            // Both lists have the same order.
            if let Some(file) = files.get_mut(counted) {
                let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse().ok();
                file.is_binary = added == b"-";
                file.additions = number(added).unwrap_or(0);
                file.deletions = number(deleted).unwrap_or(0);
            }
            counted += 1;
        }
        Self(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_prints() {
        let printed = b":100644 100644 aa bb M\0m\0:100644 100755 aa aa R100\0old\0new\0:000000 100644 00 cc A\0\xff\ty\0\
            1\t2\tm\x000\t0\t\0old\0new\0-\t-\t\xff\ty\0";
        let file = |path: &[u8], status| FileChange {
            path: path.to_vec(),
            from: None,
            status,
            additions: 0,
            deletions: 0,
            is_binary: false,
        };
        let files = Files::parse(printed);
        assert_eq!(
            files.0,
            [
                FileChange { additions: 1, deletions: 2, ..file(b"m", Status::Modified) },
                FileChange { from: Some(b"old".to_vec()), ..file(b"new", Status::Renamed) },
                FileChange { is_binary: true, ..file(b"\xff\ty", Status::Added) },
            ]
        );
        assert_eq!(files.lines(), (1, 2));
    }
}
