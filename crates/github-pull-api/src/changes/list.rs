//! The files that differ between two trees.

use contract::FileStatus as Status;

use super::{Control, MOST_PATCH, listed};
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
    /// Whether it is or was larger than a patch may be.
    pub(crate) is_large: bool,
    /// Whether it is the pointer of a file in LFS, as far as that was looked for.
    pub(crate) is_in_lfs: bool,
    /// Whether lines were added that a terminal would not show as they are, as far as that was looked for.
    pub(crate) is_hiding: bool,
}

impl FileChange {
    /// Before anything was counted.
    fn of(path: Vec<u8>, from: Option<Vec<u8>>, status: Status) -> Self {
        Self {
            path,
            from,
            status,
            additions: 0,
            deletions: 0,
            is_binary: false,
            is_large: false,
            is_in_lfs: false,
            is_hiding: false,
        }
    }
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
        let printed = listed(control.command(&[&DIFF[..], &what].concat()))?;
        let (mut files, ids) = Self::parse(&printed);
        // git takes what is large for binary.
        let (mut binary, mut looked_for) = (Vec::new(), Vec::new());
        for (file, ids) in files.0.iter_mut().zip(ids).filter(|(file, _)| file.is_binary) {
            binary.push(file);
            looked_for.extend(ids);
        }
        let sizes = sizes(control, &looked_for)?;
        for (file, sizes) in binary.iter_mut().zip(sizes.chunks(2)) {
            file.is_large = sizes.iter().flatten().any(|size| *size > MOST_PATCH);
        }
        Ok(files)
    }

    /// The number of lines that were added, and of those that were removed.
    pub(crate) fn lines(&self) -> (u64, u64) {
        let sum =
            |count: fn(&FileChange) -> u64| self.0.iter().map(count).fold(0, u64::saturating_add);
        (sum(|file| file.additions), sum(|file| file.deletions))
    }

    /// Reads what `--raw` prints, `:MODE MODE ID ID STATUS`, and then what `--numstat` prints, `ADDED`, a tab, `DELETED`,
    /// a tab. Each is followed by a path, or by two for a renamed file. All of them end with NULs. Returns the IDs of each file
    /// too, before and after the change.
    fn parse(printed: &[u8]) -> (Self, Vec<[&[u8]; 2]>) {
        let mut fields = printed.split(|byte| *byte == 0);
        let (mut files, mut ids): (Vec<FileChange>, _) = (Vec::new(), Vec::new());
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
                let mut words = raw.split(|byte| *byte == b' ').skip(2);
                ids.push([words.next().unwrap_or_default(), words.next().unwrap_or_default()]);
                files.push(FileChange::of(path, from, status));
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
        (Self(files), ids)
    }
}

/// The sizes of objects, as far as they are there.
///
/// # Errors
/// If git cannot be run.
pub(super) fn sizes(control: &Control<'_>, ids: &[&[u8]]) -> Result<Vec<Option<u64>>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let look = control.command(&["cat-file", "--batch-check=%(objectsize)"]);
    let printed = look.input([ids.join(&b'\n'), b"\n".to_vec()].concat()).output()?;
    // Of a missing object it says so.
    Ok(String::from_utf8_lossy(&printed).lines().map(|size| size.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_prints() {
        let printed = b":100644 100644 aa bb M\0m\0:100644 100755 aa aa R100\0old\0new\0:000000 100644 00 cc A\0\xff\ty\0\
            1\t2\tm\x000\t0\t\0old\0new\0-\t-\t\xff\ty\0";
        let file = |path: &[u8], status| FileChange::of(path.to_vec(), None, status);
        let (files, ids) = Files::parse(printed);
        assert_eq!(ids, [[b"aa", b"bb"], [b"aa", b"aa"], [b"00", b"cc"]]);
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
