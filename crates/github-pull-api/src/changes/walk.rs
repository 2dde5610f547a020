//! A walk over a checkout before git looks at it: what would make git wait, and what is not followed.

use std::{
    collections::BTreeSet,
    io,
    ops::Bound,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use cap_std::fs::{Dir, FileType};
use contract::{Code, SkipReason as Reason};

use super::MOST_FILES;
use crate::{
    failure::{Failure, Result},
    monitor::Monitor,
};

/// The most nested repositories, and the most bytes of their paths. Each is an argument of git's.
const MOST_REPOSITORIES: usize = 1000;
const MOST_ARGUMENTS: usize = 512 << 10;
/// The most files and directories that are looked at, ignored ones included.
const MOST_ENTRIES: usize = 4_000_000;
/// The most memory for paths at the same time, in bytes.
const MOST_MEMORY: usize = 256 << 20;
/// What a path needs beside its bytes: about as much as an entry of a list and the allocation cost.
const OF_A_PATH: usize = 64;
/// The files that git reads in every directory.
const READ_BY_GIT: [&[u8]; 3] = [b".gitattributes", b".gitignore", b".lfsconfig"];

/// Something in a checkout that is not in the tree that was taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skipped {
    pub(crate) path: Vec<u8>,
    pub(crate) reason: Reason,
}

/// What there is in a checkout.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The files and links among the paths that were asked for.
    pub(super) present: BTreeSet<Vec<u8>>,
    /// The directories among them.
    pub(super) directories: BTreeSet<Vec<u8>>,
    /// Repositories of their own, without a path that was asked for in them.
    pub(super) repositories: Vec<Vec<u8>>,
    /// What was left out; at most one more than a list of it may have.
    pub(super) skipped: Vec<Skipped>,
    /// The directories that cannot be listed although the base has files in them.
    pub(super) hidden: Vec<Vec<u8>>,
    entries: usize,
    /// The bytes of memory that the paths need that are kept.
    memory: usize,
    /// The most bytes that they may need.
    most_memory: usize,
}

impl Walk {
    /// Walks over `root`. No link is followed, nor what is beneath a `.git`. `base` and `added` are the paths that are asked
    /// for. Those of the base are in the index, so git lists the directories above them without a look at a `.git` there. What
    /// an agent claims to have added has no such effect.
    ///
    /// # Errors
    /// If git would wait for something, there is too much, or a directory cannot be listed for another reason than its
    /// permissions.
    pub(super) fn over(
        monitor: &Monitor,
        root: &Dir,
        base: &BTreeSet<Vec<u8>>,
        added: &BTreeSet<Vec<u8>>,
    ) -> Result<Self> {
        Self::within(MOST_MEMORY, monitor, root, (base, added))
    }

    fn within(
        most_memory: usize,
        monitor: &Monitor,
        root: &Dir,
        asked: (&BTreeSet<Vec<u8>>, &BTreeSet<Vec<u8>>),
    ) -> Result<Self> {
        let mut walk = Self { most_memory, ..Self::default() };
        let mut open = vec![Vec::new()];
        while let Some(directory) = open.pop() {
            monitor.check_stop()?;
            walk.list(root, asked, &directory, &mut open)?;
            walk.memory = walk.memory.saturating_sub(directory.len() + OF_A_PATH);
        }
        Ok(walk)
    }

    fn list(
        &mut self,
        root: &Dir,
        (base, added): (&BTreeSet<Vec<u8>>, &BTreeSet<Vec<u8>>),
        directory: &[u8],
        open: &mut Vec<Vec<u8>>,
    ) -> Result<()> {
        let shown = if directory.is_empty() { Path::new(".") } else { path(directory) };
        let entries = match root.read_dir(shown) {
            Ok(entries) => entries,
            Err(error) if is_unreadable(&error) => {
                self.skip(directory, Reason::Unreadable)?;
                if has_beneath(base, directory) {
                    self.hidden.push(directory.to_vec());
                }
                return Ok(());
            }
            Err(error) => return Err(Failure::io("list", shown)(error)),
        };
        let mut listed = 0;
        let mut found: Vec<(Vec<u8>, FileType)> = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Failure::io("list", shown))?;
            let kind = entry.file_type().map_err(Failure::io("look at", shown))?;
            let name = entry.file_name().into_vec();
            listed += name.len() + OF_A_PATH;
            self.check_memory(listed)?;
            found.push((name, kind));
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                let sentence = format!(
                    "there are more than {MOST_ENTRIES} files in the checkout, ignored ones included: look at it on the volume"
                );
                return Err(Failure::told(Code::TooLarge, sentence));
            }
        }
        let is_repository = found.iter().any(|(name, _)| name.eq_ignore_ascii_case(b".git"));
        if is_repository && !directory.is_empty() && !has_beneath(base, directory) {
            if base.contains(directory) {
                self.directories.insert(directory.to_vec());
            }
            self.repositories.push(directory.to_vec());
            let bytes: usize = self.repositories.iter().map(Vec::len).sum();
            if self.repositories.len() > MOST_REPOSITORIES || bytes > MOST_ARGUMENTS {
                let sentence = format!(
                    "there are more than {MOST_REPOSITORIES} repositories in the checkout: look at it on the volume"
                );
                return Err(Failure::told(Code::TooLarge, sentence));
            }
            return Ok(());
        }
        for (name, kind) in found {
            if name.eq_ignore_ascii_case(b".git") {
                continue;
            }
            let path = if directory.is_empty() {
                name.clone()
            } else {
                [directory, b"/", name.as_slice()].concat()
            };
            if kind.is_dir() {
                if base.contains(&path) {
                    self.directories.insert(path.clone());
                }
                self.hold(&path)?;
                open.push(path);
            } else if kind.is_file() || (kind.is_symlink() && !leads_git_astray(root, &path)) {
                if base.contains(&path) || added.contains(&path) {
                    self.present.insert(path);
                }
            } else if READ_BY_GIT.iter().any(|read| read.eq_ignore_ascii_case(&name)) {
                let sentence = format!(
                    "'{}' in the checkout is no regular file, and git would read it: remove it on the volume to see what \
                     else has changed",
                    String::from_utf8_lossy(&path)
                );
                return Err(Failure::told(Code::CheckoutConflict, sentence));
            } else {
                self.skip(&path, Reason::Special)?;
            }
        }
        Ok(())
    }

    fn skip(&mut self, path: &[u8], reason: Reason) -> Result<()> {
        if self.skipped.len() <= MOST_FILES {
            self.hold(path)?;
            self.skipped.push(Skipped { path: path.to_vec(), reason });
        }
        Ok(())
    }

    /// Counts a path that is kept in memory.
    fn hold(&mut self, path: &[u8]) -> Result<()> {
        self.memory += path.len() + OF_A_PATH;
        self.check_memory(0)
    }

    fn check_memory(&self, more: usize) -> Result<()> {
        if self.memory + more <= self.most_memory {
            return Ok(());
        }
        let sentence = "the names of the files in the checkout, ignored ones included, need more memory than a look may use: \
                        look at it on the volume";
        Err(Failure::told(Code::TooLarge, sentence))
    }
}

/// git-lfs follows this link, and would wait for what it leads to.
fn leads_git_astray(root: &Dir, path: &[u8]) -> bool {
    path.eq_ignore_ascii_case(b".lfsconfig")
        && match root.metadata(self::path(path)) {
            Ok(metadata) => !metadata.is_file() && !metadata.is_dir(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
}

/// Whether one of `paths` is beneath `directory`.
fn has_beneath(paths: &BTreeSet<Vec<u8>>, directory: &[u8]) -> bool {
    let first = [directory, b"/"].concat();
    let range = (Bound::Included(first.clone()), Bound::Unbounded);
    paths.range::<Vec<u8>, _>(range).next().is_some_and(|path| path.starts_with(&first))
}

fn is_unreadable(error: &io::Error) -> bool {
    const ENAMETOOLONG: i32 = nix::libc::ENAMETOOLONG;
    error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(ENAMETOOLONG)
}

pub(super) fn path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// A pattern of `.gitignore` for exactly this directory.
pub(super) fn pattern(directory: &[u8]) -> PathBuf {
    let mut pattern = vec![b'/'];
    for &byte in directory {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b' ') {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    pattern.push(b'/');
    PathBuf::from(std::ffi::OsString::from_vec(pattern))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cap_std::ambient_authority;
    use nix::{sys::stat::Mode, unistd::mkfifo};
    use oneshot::Stop;

    use super::*;
    use crate::report::Reporter;

    fn walk(most_memory: usize, root: &Path) -> Result<Walk> {
        let monitor = Monitor { reporter: Reporter::default(), stop: Stop::default() };
        let root = Dir::open_ambient_dir(root, ambient_authority()).unwrap();
        Walk::within(most_memory, &monitor, &root, (&BTreeSet::new(), &BTreeSet::new()))
    }

    #[test]
    fn names_need_a_bounded_amount_of_memory() {
        let kinds: [fn(&Path); 3] = [
            |path| fs::write(path, "").unwrap(),
            |path| fs::create_dir(path).unwrap(),
            |path| mkfifo(path, Mode::S_IRWXU).unwrap(),
        ];
        for make in kinds {
            let root = tempfile::tempdir().unwrap();
            for number in 0..100 {
                make(&root.path().join(format!("{number:0200}")));
            }
            let needed = 100 * (200 + OF_A_PATH);
            assert!(walk(2 * needed + OF_A_PATH, root.path()).is_ok());
            let failure = walk(needed - 1, root.path()).unwrap_err();
            assert!(matches!(failure, Failure::Told { code: Code::TooLarge, .. }), "{failure}");
        }
    }

    /// What is done with is not counted.
    #[test]
    fn a_deep_tree_needs_no_more_than_a_shallow_one() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..100 {
            let directory = root.path().join(number.to_string());
            fs::create_dir(&directory).unwrap();
            for number in 0..100 {
                fs::create_dir(directory.join(number.to_string())).unwrap();
            }
        }
        assert!(walk(400 * (10 + OF_A_PATH), root.path()).is_ok());
    }

    #[test]
    fn a_list_of_what_is_left_out_has_an_end() {
        let mut walk = Walk { most_memory: usize::MAX, ..Walk::default() };
        for _ in 0..2 * MOST_FILES {
            walk.skip(b"x", Reason::Special).unwrap();
        }
        assert_eq!(walk.skipped.len(), MOST_FILES + 1);
    }
}
