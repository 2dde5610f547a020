//! Removes trees that an agent may have made.
//!
//! First a rename takes the whole tree to the staging directory, so that nobody finds half of it; a crash after that
//! leaves a leftover like any other. Then it is taken apart there. Symbolic links are removed and never followed, since
//! all paths are relative to the handle of the staging directory. Directories without permissions get some. A directory
//! inside another is first moved up beside it, so a tree may be as deep as it likes: no path, stack or number of open
//! files grows with it.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use cap_std::{
    ambient_authority,
    fs::{Dir, Metadata, Permissions, PermissionsExt as _},
};
use uuid::Uuid;

use crate::{Error, Result, Workspace};

/// What the owner of a directory needs to remove what is in it.
const ACCESS: u32 = 0o700;
/// How often a directory is listed until it is empty. Some file systems leave out entries while others are removed.
const LISTINGS: usize = 5;

/// A tree in the staging directory that is about to be removed. If it is dropped instead, it stays there until it
/// counts as a leftover.
#[derive(Debug)]
#[must_use]
pub(crate) struct Doomed {
    workspace: Workspace,
    name: Uuid,
    from: PathBuf,
}

impl Workspace {
    /// Takes a file or a tree away, so that nobody finds it any more; `None` if there is none. `path` is relative to the
    /// volume.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub(crate) fn take_away(&self, path: &Path) -> Result<Option<Doomed>> {
        let name = Uuid::now_v7();
        let doomed = Doomed { workspace: self.clone(), name, from: path.to_owned() };
        let taken = self.dir().symlink_metadata(path).and_then(|found| {
            open_up(self.dir(), path, &found)?;
            self.dir().rename(path, self.dir(), doomed.staged())
        });
        match taken {
            Ok(()) => Ok(Some(doomed)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("remove", self.root().join(path))(error)),
        }
    }

    /// Removes what is in the staging directory under this name.
    pub(crate) fn destroy(&self, name: &str) -> io::Result<()> {
        let staging = self.dir().open_dir(STAGING)?;
        let mut pending = Vec::new();
        take_apart(&staging, Path::new(name), &mut pending)?;
        finish(&staging, pending)
    }
}

/// Removes a file or a tree, wherever it is, as this module does it; nothing if there is none. Links are removed and not
/// followed. What is inside the tree is taken apart in its top directory, so that what an error leaves stays there.
/// Blocking.
///
/// # Errors
/// If something cannot be removed. What is left is removed by the next call.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().map(Path::new)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = match Dir::open_ambient_dir(parent, ambient_authority()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let found = match parent.symlink_metadata(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.is_dir() {
        return parent.remove_file(name);
    }
    open_up(&parent, name, &found)?;
    let mut left = LISTINGS;
    loop {
        let top = parent.open_dir(name)?;
        let mut pending = Vec::new();
        for entry in top.entries()? {
            take_apart(&top, Path::new(&entry?.file_name()), &mut pending)?;
        }
        finish(&top, pending)?;
        left -= 1;
        match parent.remove_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && left > 0 => {}
            removed => return removed,
        }
    }
}

/// The staging directory, relative to the volume.
const STAGING: &str = ".stack/tmp";

impl Doomed {
    fn staged(&self) -> PathBuf {
        Path::new(STAGING).join(self.name.to_string())
    }

    /// Removes it for good. Blocking.
    pub(crate) fn destroy(self) -> Result<()> {
        let removed = self.workspace.destroy(&self.name.to_string());
        removed.map_err(Error::io("remove", self.workspace.root().join(&self.from)))
    }

    /// Puts it back, because somebody needs it after all.
    pub(crate) fn put_back(self) -> Result<()> {
        let dir = self.workspace.dir();
        let back = dir.rename(self.staged(), dir, &self.from);
        back.map_err(Error::io("put back", self.workspace.root().join(&self.from)))
    }
}

/// Removes what [`take_apart`] has moved up.
fn finish(staging: &Dir, mut pending: Vec<Uuid>) -> io::Result<()> {
    while let Some(name) = pending.pop() {
        take_apart(staging, Path::new(&name.to_string()), &mut pending)?;
    }
    Ok(())
}

/// Removes `name`. If it is a directory, those in it are moved up beside it, and added to `pending`.
fn take_apart(staging: &Dir, name: &Path, pending: &mut Vec<Uuid>) -> io::Result<()> {
    let found = match staging.symlink_metadata(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.is_dir() {
        return staging.remove_file(name);
    }
    open_up(staging, name, &found)?;
    let mut left = LISTINGS;
    loop {
        let directory = staging.open_dir(name)?;
        for entry in directory.entries()? {
            let entry = entry?;
            let inner = PathBuf::from(entry.file_name());
            if entry.file_type()?.is_dir() {
                open_up(&directory, &inner, &directory.symlink_metadata(&inner)?)?;
                let up = Uuid::now_v7();
                directory.rename(&inner, staging, up.to_string())?;
                pending.push(up);
            } else {
                directory.remove_file(&inner)?;
            }
        }
        left -= 1;
        match staging.remove_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && left > 0 => {}
            removed => return removed,
        }
    }
}

/// Gives the owner of a directory the permissions to list, change and rename it.
fn open_up(parent: &Dir, name: &Path, found: &Metadata) -> io::Result<()> {
    let mode = Permissions::mode(&found.permissions());
    if !found.is_dir() || mode & ACCESS == ACCESS {
        return Ok(());
    }
    parent.set_permissions(name, Permissions::from_mode(mode | ACCESS))
}

/// How much space a tree takes, in bytes. What cannot be read counts as nothing, and links are not followed.
pub(crate) fn size(path: &Path) -> u64 {
    let (mut total, mut pending, mut linked) = (0_u64, vec![path.to_owned()], HashSet::new());
    while let Some(path) = pending.pop() {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        // A file with several names takes its space once.
        if found.is_dir() || found.nlink() == 1 || linked.insert((found.dev(), found.ino())) {
            total = total.saturating_add(found.blocks().saturating_mul(512));
        }
        if found.is_dir()
            && let Ok(entries) = fs::read_dir(&path)
        {
            pending.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::fixtures::workspace;

    #[test]
    fn links_are_removed_and_not_followed() {
        let (dir, workspace) = workspace();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "kept").unwrap();
        fs::create_dir_all(dir.path().join("app")).unwrap();
        fs::write(dir.path().join("app/file"), "kept").unwrap();
        let job = dir.path().join("jobs/x");
        fs::create_dir_all(job.join("deep")).unwrap();
        symlink(outside.path(), job.join("absolute")).unwrap();
        symlink(outside.path(), job.join("deep/absolute")).unwrap();
        symlink("../../app", job.join("sibling")).unwrap();
        symlink("/none", job.join("dangling")).unwrap();
        workspace.take_away(Path::new("jobs/x")).unwrap().unwrap().destroy().unwrap();
        symlink(outside.path(), &job).unwrap();
        workspace.take_away(Path::new("jobs/x")).unwrap().unwrap().destroy().unwrap();
        assert!(!job.exists() && fs::symlink_metadata(&job).is_err());
        assert!(outside.path().join("file").exists() && dir.path().join("app/file").exists());
        assert!(workspace.take_away(Path::new("jobs/x")).unwrap().is_none());
        assert_eq!(fs::read_dir(workspace.temporary()).unwrap().count(), 0);
    }

    #[test]
    fn directories_without_permissions_are_removed_too() {
        let (dir, workspace) = workspace();
        let job = dir.path().join("jobs/x");
        fs::create_dir_all(job.join("closed/inner")).unwrap();
        fs::write(job.join("closed/inner/file"), "").unwrap();
        for closed in ["closed/inner", "closed", ""] {
            fs::set_permissions(job.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
        }
        let taken = workspace.take_away(Path::new("jobs/x")).unwrap().unwrap();
        let staged = workspace.root().join(taken.staged());
        let mode = fs::metadata(staged).unwrap().permissions().mode();
        assert_eq!(mode & ACCESS, ACCESS, "only root could list it");
        taken.destroy().unwrap();
        assert_eq!(fs::read_dir(workspace.temporary()).unwrap().count(), 0);
    }

    /// Makes directories in each other, with a file in the last one.
    fn dig(top: &Dir, depth: usize) {
        let mut at = top.try_clone().unwrap();
        for _ in 0..depth {
            at.create_dir("directory").unwrap();
            at = at.open_dir("directory").unwrap();
        }
        at.create("file").unwrap();
    }

    #[test]
    fn a_tree_outside_the_volume_is_removed_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "kept").unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("tree/a/closed/inner")).unwrap();
        fs::write(at("tree/file"), "").unwrap();
        symlink(outside.path(), at("tree/a/link")).unwrap();
        dig(&Dir::open_ambient_dir(at("tree"), ambient_authority()).unwrap(), 10_000);
        for closed in ["tree/a/closed", "tree"] {
            fs::set_permissions(at(closed), fs::Permissions::from_mode(0o000)).unwrap();
        }
        fs::write(at("kept"), "").unwrap();
        symlink(outside.path(), at("link")).unwrap();
        for path in ["tree", "tree", "link", "missing/tree"] {
            remove_tree(&at(path)).unwrap();
        }
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().flatten().collect();
        assert_eq!(left.iter().map(fs::DirEntry::file_name).collect::<Vec<_>>(), ["kept"]);
        assert!(outside.path().join("file").exists());
        assert!(remove_tree(Path::new("/")).is_err());
    }

    /// Deeper than paths may be long, than a thread may have open files, and than a recursion may go.
    #[test]
    fn a_very_deep_tree_is_removed() {
        let (dir, workspace) = workspace();
        fs::create_dir_all(dir.path().join("jobs/x")).unwrap();
        dig(&workspace.dir().open_dir("jobs/x").unwrap(), 1_500);
        // Not all of it can be reached by a path, but it ends.
        let _ = size(&dir.path().join("jobs"));
        workspace.take_away(Path::new("jobs/x")).unwrap().unwrap().destroy().unwrap();
        assert_eq!(fs::read_dir(workspace.temporary()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_taken_away_can_be_put_back() {
        let (dir, workspace) = workspace();
        let file = dir.path().join("jobs/x/file");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "x").unwrap();
        let taken = workspace.take_away(Path::new("jobs/x")).unwrap().unwrap();
        assert!(!file.exists());
        taken.put_back().unwrap();
        assert!(file.exists());
    }
}
