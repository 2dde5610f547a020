//! From the files of a checkout to a tree, in an index of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use cap_std::{ambient_authority, fs::Dir};
use contract::SkipReason as Reason;
use nix::{
    fcntl::AtFlags,
    unistd::{AccessFlags, faccessat},
};

use super::{
    Control, Skipped,
    objects::Base,
    walk::{self, Walk},
};
use crate::{
    checkout::LeftGit,
    failure::{Failure, Result},
    git::{Command, Git},
    remote::{ObjectId, store_in_lfs},
    staging::Staging,
};

/// The mode of a submodule.
const SUBMODULE: &[u8] = b"160000";

/// What a tree is taken of.
pub(super) struct Taking<'a, 's> {
    pub(super) git: &'a Git,
    pub(super) staging: &'s Staging,
    pub(super) checkout: &'s Path,
    pub(super) base: &'s ObjectId,
    pub(super) left: Option<&'s LeftGit>,
    /// Whether files in LFS become pointers again.
    pub(super) uses_lfs: bool,
}

impl<'a> Taking<'a, '_> {
    /// Makes the tree. What is not in it is added to `skipped`.
    ///
    /// # Errors
    /// [`Failure::Git`] if git fails, perhaps because the base is not complete; others as [`take`](super::take).
    pub(super) fn tree(
        &self,
        base_objects: &Base,
        skipped: &mut Vec<Skipped>,
    ) -> Result<(Control<'a>, ObjectId)> {
        let Self { git, staging, checkout, base, .. } = *self;
        let Base { objects, filter, shallow } = base_objects;
        let places = (objects.as_path(), checkout);
        let control = Control::make(git, staging, "git", base.format(), *filter, places, shallow)?;
        let id = base.as_str();
        // Mode, type and ID, a tab, and the path.
        let listed = control.command(&["ls-tree", "-r", "-z", "--full-tree", id]).output()?;
        let tracked: BTreeMap<&[u8], &[u8]> = fields(&listed)
            .filter_map(|entry| {
                let at = entry.iter().position(|byte| *byte == b'\t')?;
                Some((entry.get(at + 1..)?, entry.get(..6)?))
            })
            .collect();
        let known: BTreeSet<Vec<u8>> = tracked.keys().map(|path| path.to_vec()).collect();
        // What the agent has added stays, also if it is ignored.
        let added: BTreeSet<Vec<u8>> = self.added()?.into_iter().collect();
        let files = Dir::open_ambient_dir(checkout, ambient_authority())
            .map_err(Failure::io("open", checkout))?;
        let walk = Walk::over(&git.monitor, &files, &known, &added)?;

        control.command(&["read-tree", id]).output()?;
        let others = untracked(&control, &walk)?;
        let is_submodule = |path: &[u8]| tracked.get(path) == Some(&SUBMODULE);
        let mut removed: Vec<&[u8]> = Vec::new();
        for path in tracked.keys().copied() {
            if walk.present.contains(path) {
                continue;
            }
            if !is_submodule(path) || !walk.directories.contains(path) {
                removed.push(path);
            } else if walk.repositories.iter().any(|it| it == path) {
                skipped.push(Skipped { path: path.to_vec(), reason: Reason::Submodule });
            }
        }
        let nested = walk.repositories.iter().filter(|path| !is_submodule(path));
        skipped
            .extend(nested.map(|path| Skipped { path: path.clone(), reason: Reason::Repository }));
        let present = walk.present.iter().map(Vec::as_slice);
        let mut candidates: BTreeSet<&[u8]> = present.chain(fields(&others)).collect();
        candidates.retain(|path| !path.ends_with(b"/"));
        let wanted = self.readable(&files, candidates, skipped)?;
        // An unreadable directory hides what is in it, which is not the same as its removal.
        let hidden: Vec<&Skipped> =
            walk.skipped.iter().filter(|it| it.reason == Reason::Unreadable).collect();
        removed.retain(|path| {
            !hidden.iter().any(|it| {
                path.strip_prefix(it.path.as_slice()).is_some_and(|rest| rest.starts_with(b"/"))
            })
        });
        skipped.extend(walk.skipped.iter().cloned());

        let update = |arguments: &[&str], paths: &[&[u8]]| -> Result<()> {
            if paths.is_empty() {
                return Ok(());
            }
            let arguments = [&["update-index", "-z"], arguments, &["--stdin"]].concat();
            let input = paths.iter().flat_map(|path| [path, b"\0".as_slice()].concat()).collect();
            self.with_lfs(&control, control.command(&arguments))?.input(input).output().map(drop)
        };
        update(&["--force-remove"], &removed)?;
        update(&["--add", "--remove", "--replace"], &wanted)?;
        // What git has left out without an error.
        let listed = control.command(&["ls-files", "-z"]).output()?;
        let taken: BTreeSet<&[u8]> = fields(&listed).collect();
        let refused = wanted.iter().filter(|path| !taken.contains(*path));
        skipped.extend(
            refused.map(|path| Skipped { path: path.to_vec(), reason: Reason::RefusedName }),
        );
        let tree = control.command(&["write-tree"]).output()?;
        let tree = ObjectId::parse(tree.trim_ascii())
            .ok_or_else(|| Failure::Git("write-tree printed no ID".into()))?;
        Ok((control, tree))
    }

    /// What the agent's own index lists. Only the names are used.
    fn added(&self) -> Result<Vec<Vec<u8>>> {
        let Some(left) = self.left else { return Ok(Vec::new()) };
        let (format, objects) = (self.base.format(), left.objects());
        let places = (objects.as_path(), self.checkout);
        let theirs = Control::make(self.git, self.staging, "index", format, None, places, &[])?;
        left.copy_to(theirs.path())?;
        // Whatever is wrong with it, the files are there.
        let listed = theirs.command(&["ls-files", "-z"]).run()?;
        if !listed.status.success() {
            tracing::info!(stderr = listed.stderr, "the index of a checkout cannot be read");
            return Ok(Vec::new());
        }
        Ok(fields(&listed.stdout).map(<[u8]>::to_vec).collect())
    }

    /// Those of `paths` that can be read, if they are not too large together.
    fn readable<'p>(
        &self,
        files: &Dir,
        paths: BTreeSet<&'p [u8]>,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Vec<&'p [u8]>> {
        let mut size = 0u64;
        let mut readable = Vec::with_capacity(paths.len());
        for bytes in paths {
            let path = walk::path(bytes);
            let metadata = files.symlink_metadata(path).map_err(Failure::io("look at", path))?;
            let is_readable = metadata.is_symlink()
                || faccessat(files, path, AccessFlags::R_OK, AtFlags::AT_EACCESS).is_ok();
            if is_readable {
                size = size.saturating_add(metadata.len());
                readable.push(bytes);
            } else {
                skipped.push(Skipped { path: bytes.to_vec(), reason: Reason::Unreadable });
            }
        }
        self.git.check_size(size)?;
        Ok(readable)
    }

    fn with_lfs<'c>(&self, control: &Control<'_>, command: Command<'c>) -> Result<Command<'c>> {
        if !self.uses_lfs {
            return Ok(command);
        }
        let storage = control.path().join("lfs");
        std::fs::create_dir_all(&storage).map_err(Failure::io("create", &storage))?;
        Ok(store_in_lfs(command, &storage))
    }
}

/// The files that are not in the index and not ignored, each followed by a NUL.
fn untracked(control: &Control<'_>, walk: &Walk) -> Result<Vec<u8>> {
    let mut command = control.command(&["ls-files", "-z", "--others", "--exclude-standard"]);
    for directory in &walk.repositories {
        let mut argument = std::ffi::OsString::from("--exclude=");
        argument.push(walk::pattern(directory));
        command = command.argument(argument);
    }
    command.output()
}

/// What stands before each NUL.
fn fields(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == 0).filter(|field| !field.is_empty())
}
