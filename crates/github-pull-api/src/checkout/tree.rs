//! What changes between two commits, before any of it is written.

use contract::Code;

use crate::{
    failure::{Failure, Result, quote},
    git::Command,
    remote::ObjectId,
};

/// The mode of a submodule, which has no content here.
const SUBMODULE: &[u8] = b"160000";

/// Paths that differ between two commits.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) paths: Vec<Vec<u8>>,
    /// The contents to be written: one id for each file, as often as it is written.
    contents: Vec<ObjectId>,
    /// The size of further contents to be written.
    size: u64,
}

impl Changes {
    /// Everything in `new`. `git` makes a command on a control directory that has it.
    ///
    /// # Errors
    /// If git cannot read the commit, something is missing, or a path in it can be no file's.
    pub(super) fn all<'g>(git: impl Fn(&[&str]) -> Command<'g>, new: &ObjectId) -> Result<Self> {
        let listed = git(&["ls-tree", "-r", "-l", "-z", "--full-tree", new.as_str()]).output()?;
        let mut changes = Self::default();
        // `MODE TYPE ID SIZE`, a tab, the path. A submodule has no size.
        for entry in listed.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let at = entry.iter().position(|byte| *byte == b'\t').unwrap_or(entry.len());
            let (words, path) = entry.split_at_checked(at).unwrap_or_default();
            let path = path.get(1..).unwrap_or_default();
            let words = String::from_utf8_lossy(words);
            let size = words.split_ascii_whitespace().nth(3).unwrap_or_default();
            if size != "-" {
                let size: u64 =
                    size.parse().map_err(|_| Failure::Git(format!("missing blob: {words}")))?;
                changes.size = changes.size.saturating_add(size);
            }
            check_path(path)?;
            changes.paths.push(path.to_vec());
        }
        Ok(changes)
    }

    /// What differs between `old` (or nothing) and `new`, which `git` has.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub(super) fn between<'g>(
        git: impl Fn(&[&str]) -> Command<'g>,
        old: Option<&ObjectId>,
        new: &ObjectId,
    ) -> Result<Self> {
        let Some(old) = old else { return Self::all(git, new) };
        let raw =
            git(&["diff-tree", "-r", "-z", "--raw", "--no-renames", old.as_str(), new.as_str()])
                .output()?;
        let mut changes = Self::default();
        let mut fields = raw.split(|byte| *byte == 0);
        // `:MODE MODE ID ID STATUS`, then the path.
        while let (Some(line), Some(path)) = (fields.next(), fields.next()) {
            let mut words = line.split(|byte| *byte == b' ').skip(1);
            let (mode, id) = (words.next(), words.nth(1));
            if let (Some(mode), Some(id)) = (mode, id.and_then(ObjectId::parse))
                && mode != SUBMODULE
                && mode != b"000000"
            {
                changes.contents.push(id);
            }
            check_path(path)?;
            changes.paths.push(path.to_vec());
        }
        Ok(changes)
    }

    /// How many bytes are to be written.
    ///
    /// # Errors
    /// [`Failure::Git`] if something is missing.
    pub(super) fn size<'g>(&self, git: impl Fn(&[&str]) -> Command<'g>) -> Result<u64> {
        if self.contents.is_empty() {
            return Ok(self.size);
        }
        let input = self.contents.iter().flat_map(|id| format!("{id}\n").into_bytes()).collect();
        let sizes =
            git(&["cat-file", "--batch-check=%(objectsize)", "--buffer"]).input(input).output()?;
        let mut sum = self.size;
        for line in sizes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line = String::from_utf8_lossy(line);
            let size: u64 =
                line.parse().map_err(|_| Failure::Git(format!("missing blob {line}")))?;
            sum = sum.saturating_add(size);
        }
        Ok(sum)
    }
}

/// The longest name of a file, in bytes: what common file systems take.
const LONGEST_NAME: usize = 255;

/// Makes sure that `path` can be that of a file. Which names it refuses besides, git tells itself.
fn check_path(path: &[u8]) -> Result<()> {
    let why = path.split(|byte| *byte == b'/').find_map(|name| match name {
        b"" | b"." | b".." => Some("which no file can have".to_owned()),
        name if name.len() > LONGEST_NAME => {
            Some(format!("of which one part is longer than {LONGEST_NAME} bytes"))
        }
        _ => None,
    });
    let Some(why) = why else { return Ok(()) };
    let path = quote(&String::from_utf8_lossy(path), &[]);
    Err(Failure::told(
        Code::RepositoryInvalid,
        format!("the repository has a file of the path '{path}', {why}: rename it there"),
    ))
}
