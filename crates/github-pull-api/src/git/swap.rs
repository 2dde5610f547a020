//! Putting new versions of files in place of old ones, all or none.
//!
//! The new files are complete before the first is put in place, each by a rename, and every step is
//! undone if a later one fails. So neither a full volume nor a stop leaves half an update, and a killed
//! process leaves whole files only, which the next update takes as they are.

use std::{
    io,
    path::{Path, PathBuf},
};

use cap_std::fs::Dir;

use super::changes::{Change, Changes};
use crate::failure::{Failure, Result};

/// Steps that were taken, which [`undo`](Self::undo) takes back.
pub(super) struct Swap<'a> {
    files: &'a Dir,
    staged: &'a Dir,
    backup: &'a Dir,
    taken: Vec<Step>,
}

enum Step {
    /// Now in the backup under this number.
    Away(PathBuf, usize),
    /// Put where nothing was.
    Put(PathBuf),
    DirectoryMade(PathBuf),
    DirectoryRemoved(PathBuf),
}

impl<'a> Swap<'a> {
    /// Puts the files of `changes` from `staged` in place in `files`.
    ///
    /// # Errors
    /// If one cannot be; then all are as they were.
    pub(super) fn perform(
        files: &'a Dir,
        staged: &'a Dir,
        backup: &'a Dir,
        changes: &Changes,
    ) -> Result<Self> {
        let mut swap = Self { files, staged, backup, taken: Vec::new() };
        for (path, change) in changes {
            // Not the old files of those that change kind alone: a rename replaces those.
            if let Change { old: Some(old), new: None } = change
                && !old.is_submodule()
            {
                swap.attempt(path, Self::take_away)?;
            }
        }
        for (path, change) in changes {
            let Some(new) = change.new else { continue };
            if new.is_submodule() {
                swap.attempt(path, Self::make_directory)?;
            } else {
                swap.attempt(path, Self::put)?;
            }
        }
        Ok(swap)
    }

    fn attempt(&mut self, path: &Path, step: fn(&mut Self, &Path) -> io::Result<()>) -> Result<()> {
        step(self, path).map_err(|error| {
            self.undo();
            Failure::io("put in place", path)(error)
        })
    }

    /// Removes a file, and the directories that are empty then.
    fn take_away(&mut self, path: &Path) -> io::Result<()> {
        let number = self.taken.len();
        match self.files.rename(path, self.backup, number.to_string()) {
            Ok(()) => self.taken.push(Step::Away(path.to_owned(), number)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for directory in path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
            if self.files.remove_dir(directory).is_err() {
                break;
            }
            self.taken.push(Step::DirectoryRemoved(directory.to_owned()));
        }
        Ok(())
    }

    /// Puts a file in place.
    fn put(&mut self, path: &Path) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.make_directories(parent)?;
        }
        match self.files.symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => self.remove_empty(path)?,
            Ok(_) => {
                // Linked, not moved, where the file system can: so there is a whole file at any time.
                let number = self.taken.len();
                let name = number.to_string();
                if self.files.hard_link(path, self.backup, &name).is_err() {
                    self.files.rename(path, self.backup, &name)?;
                }
                self.taken.push(Step::Away(path.to_owned(), number));
            }
            Err(_) => {}
        }
        self.staged.rename(path, self.files, path)?;
        self.taken.push(Step::Put(path.to_owned()));
        Ok(())
    }

    fn make_directories(&mut self, path: &Path) -> io::Result<()> {
        let mut above = PathBuf::new();
        for part in path.components() {
            above.push(part);
            if self.files.symlink_metadata(&above).is_err() {
                self.make_directory(&above)?;
            }
        }
        Ok(())
    }

    fn make_directory(&mut self, path: &Path) -> io::Result<()> {
        match self.files.create_dir(path) {
            Ok(()) => self.taken.push(Step::DirectoryMade(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Removes a directory that holds nothing but empty ones.
    fn remove_empty(&mut self, path: &Path) -> io::Result<()> {
        for entry in self.files.read_dir(path)? {
            self.remove_empty(&path.join(entry?.file_name()))?;
        }
        self.files.remove_dir(path)?;
        self.taken.push(Step::DirectoryRemoved(path.to_owned()));
        Ok(())
    }

    /// Takes every step back, the last one first.
    pub(super) fn undo(&mut self) {
        while let Some(step) = self.taken.pop() {
            let (path, undone) = match step {
                Step::Away(path, number) => {
                    let back = self.backup.rename(number.to_string(), self.files, &path);
                    (path, back)
                }
                Step::Put(path) => {
                    let back = self.files.rename(&path, self.staged, &path);
                    (path, back)
                }
                Step::DirectoryMade(path) => {
                    let back = self.files.remove_dir(&path);
                    (path, back)
                }
                Step::DirectoryRemoved(path) => {
                    let back = self.files.create_dir(&path);
                    (path, back)
                }
            };
            if let Err(error) = undone {
                tracing::error!(path = %path.display(), %error, "cannot undo half an update");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cap_std::ambient_authority;
    use git2::Oid;

    use super::{super::changes::Entry, *};

    fn entry() -> Option<Entry> {
        Some(Entry { id: Oid::ZERO_SHA1, mode: 0o100_644 })
    }

    fn tree(root: &Path) -> Vec<(PathBuf, Option<String>)> {
        let mut found = Vec::new();
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_owned();
                if path.is_dir() {
                    found.push((name, None));
                    directories.push(path);
                } else {
                    found.push((name, Some(fs::read_to_string(&path).unwrap())));
                }
            }
        }
        found.sort();
        found
    }

    /// `a` becomes a directory, `d` a file, `gone/deep` goes, `same` changes, `new/x` is new.
    fn changes() -> Changes {
        [
            ("a", entry(), None),
            ("a/b", None, entry()),
            ("d", None, entry()),
            ("d/e", entry(), None),
            ("gone/deep", entry(), None),
            ("new/x", None, entry()),
            ("same", entry(), entry()),
        ]
        .map(|(path, old, new)| (PathBuf::from(path), Change { old, new }))
        .into()
    }

    struct Scene {
        root: tempfile::TempDir,
        dirs: [Dir; 3],
    }

    fn scene() -> Scene {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for path in ["a", "d/e", "gone/deep", "same"] {
            write(&format!("files/{path}"), "old");
        }
        for path in ["a/b", "d", "new/x", "same"] {
            write(&format!("staged/{path}"), "new");
        }
        fs::create_dir(root.path().join("backup")).unwrap();
        let dirs = ["files", "staged", "backup"].map(|name| {
            Dir::open_ambient_dir(root.path().join(name), ambient_authority()).unwrap()
        });
        Scene { root, dirs }
    }

    #[test]
    fn every_kind_of_change_and_back() {
        let scene = scene();
        let [files, staged, backup] = &scene.dirs;
        let path = scene.root.path().join("files");
        let before = tree(&path);
        let mut swap = Swap::perform(files, staged, backup, &changes()).unwrap();
        let new = || Some("new".to_owned());
        let expected = [
            ("a", None),
            ("a/b", new()),
            ("d", new()),
            ("new", None),
            ("new/x", new()),
            ("same", new()),
        ]
        .map(|(path, text)| (PathBuf::from(path), text));
        assert_eq!(tree(&path), expected);
        swap.undo();
        assert_eq!(tree(&path), before);
    }

    #[test]
    fn a_step_that_fails_undoes_those_before() {
        let scene = scene();
        let [files, staged, backup] = &scene.dirs;
        let path = scene.root.path().join("files");
        let before = tree(&path);
        // The last one to be put in place is not there.
        fs::remove_file(scene.root.path().join("staged/same")).unwrap();
        assert!(Swap::perform(files, staged, backup, &changes()).is_err());
        assert_eq!(tree(&path), before);
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let scene = scene();
        let [files, staged, backup] = &scene.dirs;
        let outside = scene.root.path().join("outside");
        fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, scene.root.path().join("files/new")).unwrap();
        let before = tree(&scene.root.path().join("files"));
        assert!(Swap::perform(files, staged, backup, &changes()).is_err());
        assert_eq!(tree(&scene.root.path().join("files")), before);
        assert_eq!(tree(&outside), []);
    }
}
