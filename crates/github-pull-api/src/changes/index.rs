//! From the files of a checkout to a tree, in an index of ours.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use cap_std::{
    ambient_authority,
    fs::{Dir, PermissionsExt as _},
};
use contract::{Code, SkipReason as Reason};
use nix::{
    fcntl::AtFlags,
    unistd::{AccessFlags, faccessat},
};

use super::{
    Control, MOST_PATCH, Skipped, list, listed,
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

/// The modes of files that are no links.
const FILE: &[u8] = b"100644";
const PROGRAM: &[u8] = b"100755";
/// The mode of a submodule.
const SUBMODULE: &[u8] = b"160000";
/// How many files git is given at a time, and how many bytes of them: git says nothing while it reads them, and its patience
/// is for one command.
const BATCH_FILES: usize = 10_000;
const BATCH_BYTES: u64 = 256 << 20;
/// How often files that git does not take are looked for among others.
const MOST_REFUSALS: usize = 64;

/// What a tree is taken of.
pub(super) struct Taking<'a, 's> {
    pub(super) git: &'a Git,
    pub(super) staging: &'s Staging,
    pub(super) checkout: &'s Path,
    pub(super) base: &'s ObjectId,
    /// What the agent's own index lists.
    pub(super) added: &'s BTreeSet<Vec<u8>>,
    /// Whether files in LFS become pointers again.
    pub(super) uses_lfs: bool,
}

/// A file that can be read.
#[derive(Clone, Copy, Debug)]
struct Readable<'p> {
    path: &'p [u8],
    size: u64,
}

impl<'a> Taking<'a, '_> {
    /// Makes the tree. What is not in it is added to `skipped`.
    ///
    /// # Errors
    /// [`Failure::Git`] if the base is not complete; others as [`take`](super::take).
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
        let base_files = listed(control.command(&["ls-tree", "-r", "-z", "--full-tree", id]))?;
        let tracked = Tracked::parse(&base_files);
        let known: BTreeSet<Vec<u8>> = tracked.0.keys().map(|path| path.to_vec()).collect();
        let files = Dir::open_ambient_dir(checkout, ambient_authority())
            .map_err(Failure::io("open", checkout))?;
        // What the agent has added stays, also if it is ignored.
        let walk = Walk::over(&git.monitor, &files, &known, self.added)?;

        control.command(&["read-tree", id]).output()?;
        let others = untracked(&control, &walk)?;
        let mut removed: Vec<&[u8]> = Vec::new();
        for path in tracked.0.keys().copied() {
            if walk.present.contains(path) {
                continue;
            }
            if !tracked.is_submodule(path) || !walk.directories.contains(path) {
                removed.push(path);
            } else if walk.repositories.iter().any(|it| it == path) {
                skipped.push(Skipped { path: path.to_vec(), reason: Reason::Submodule });
            }
        }
        let nested = walk.repositories.iter().filter(|path| !tracked.is_submodule(path));
        skipped
            .extend(nested.map(|path| Skipped { path: path.clone(), reason: Reason::Repository }));
        let present = walk.present.iter().map(Vec::as_slice);
        let mut candidates: BTreeSet<&[u8]> = present.chain(fields(&others)).collect();
        candidates.retain(|path| !path.ends_with(b"/"));
        let wanted = readable(&files, candidates, skipped);
        let wanted = self.of_size(&control, &tracked, wanted, skipped)?;
        let wanted = self.without_raw(&control, &files, &tracked, wanted)?;
        // An unreadable directory hides what is in it, which is not the same as its removal.
        removed.retain(|path| {
            !walk.hidden.iter().any(|directory| {
                path.strip_prefix(directory.as_slice()).is_some_and(|rest| rest.starts_with(b"/"))
            })
        });
        skipped.extend(walk.skipped.iter().cloned());

        self.update(&control, &["--force-remove"], &removed)?;
        let wanted = self.add(&control, wanted, skipped)?;
        // What git has left out without an error.
        let in_index = listed(control.command(&["ls-files", "-z"]))?;
        let taken: BTreeSet<&[u8]> = fields(&in_index).collect();
        let refused = wanted.iter().filter(|path| !taken.contains(*path));
        skipped.extend(
            refused.map(|path| Skipped { path: path.to_vec(), reason: Reason::RefusedName }),
        );
        let tree = control.command(&["write-tree"]).output()?;
        let tree = ObjectId::parse(tree.trim_ascii())
            .ok_or_else(|| Failure::Git("write-tree printed no ID".into()))?;
        Ok((control, tree))
    }

    /// Those of `files` that are not too large for a patch. A file of the base of the same size may be unchanged, and one in LFS
    /// becomes a pointer.
    fn of_size<'p>(
        &self,
        control: &Control<'_>,
        tracked: &Tracked<'_>,
        files: Vec<Readable<'p>>,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Vec<Readable<'p>>> {
        let large = files.iter().filter(|file| file.size > MOST_PATCH);
        let large: Vec<&[u8]> = large.map(|file| file.path).collect();
        let in_lfs = if self.uses_lfs { in_lfs(control, &large)? } else { BTreeSet::new() };
        let sizes = tracked.sizes(control, &large)?;
        let (mut fits, mut size) = (Vec::with_capacity(files.len()), 0u64);
        for file in files {
            let Readable { path, .. } = file;
            if file.size > MOST_PATCH
                && !in_lfs.contains(path)
                && sizes.get(path) != Some(&file.size)
            {
                skipped.push(Skipped { path: path.to_vec(), reason: Reason::TooLarge });
                continue;
            }
            size = size.saturating_add(file.size);
            fits.push(file);
        }
        self.git.check_size_as(Code::TooLarge, size)?;
        Ok(fits)
    }

    /// Leaves out files that belong in LFS and are, byte for byte, what the base has: pointers that nobody has followed, and files
    /// that got past LFS before. The filter would make pointers of the latter, which the agent has not changed.
    fn without_raw<'p>(
        &self,
        control: &Control<'_>,
        files: &Dir,
        tracked: &Tracked<'_>,
        mut wanted: Vec<Readable<'p>>,
    ) -> Result<Vec<Readable<'p>>> {
        if !self.uses_lfs {
            return Ok(wanted);
        }
        let known: Vec<&[u8]> = wanted
            .iter()
            .map(|file| file.path)
            // git takes one path a line here.
            .filter(|path| tracked.0.contains_key(path) && !path.contains(&b'\n'))
            .collect();
        let in_lfs: Vec<&[u8]> = in_lfs(control, &known)?.into_iter().collect();
        let sizes = tracked.sizes(control, &in_lfs)?;
        let same_size = |path: &&[u8]| {
            // git follows links here.
            let found = files.symlink_metadata(walk::path(path)).ok().filter(|it| it.is_file());
            found.is_some_and(|it| {
                let mode = if it.permissions().mode() & 0o100 == 0 { FILE } else { PROGRAM };
                let is_mode = tracked.0.get(*path).is_some_and(|(known, _)| *known == mode);
                is_mode && sizes.get(*path) == Some(&it.len())
            })
        };
        let candidates: Vec<&[u8]> = in_lfs.into_iter().filter(same_size).collect();
        if candidates.is_empty() {
            return Ok(wanted);
        }
        let root = self.checkout.as_os_str().as_encoded_bytes();
        let input = candidates.iter().flat_map(|path| [root, b"/", path, b"\n"].concat()).collect();
        let look = control.command(&["hash-object", "--no-filters", "--stdin-paths"]).input(input);
        let hashed = look.output()?;
        let ids = hashed.split(|byte| *byte == b'\n');
        let raw = candidates
            .iter()
            .zip(ids)
            .filter(|(path, id)| tracked.0.get(**path).is_some_and(|(_, known)| known == id));
        let raw: BTreeSet<&[u8]> = raw.map(|(path, _)| *path).collect();
        wanted.retain(|file| !raw.contains(file.path));
        Ok(wanted)
    }

    /// Adds files to the index. Returns the paths of those that git took.
    fn add<'p>(
        &self,
        control: &Control<'_>,
        files: Vec<Readable<'p>>,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Vec<&'p [u8]>> {
        let mut added = Vec::with_capacity(files.len());
        let mut batches = batches(&files);
        let mut refusals = 0;
        while let Some(batch) = batches.pop() {
            self.git.monitor.check_stop()?;
            let paths: Vec<&[u8]> = batch.iter().map(|file| file.path).collect();
            match self.update(control, &["--add", "--remove", "--replace"], &paths) {
                Ok(()) => added.extend(paths),
                // Among others, an encoding that is not that of the file. The others are taken without it.
                Err(Failure::Git(said) | Failure::Exceeded(said)) => {
                    tracing::info!(said, files = batch.len(), "git does not take files");
                    refusals += 1;
                    if batch.len() > 1 && refusals < MOST_REFUSALS {
                        let (first, second) = batch.split_at(batch.len() / 2);
                        batches.extend([second, first]);
                        continue;
                    }
                    let reason = Reason::Unreadable;
                    skipped
                        .extend(paths.iter().map(|path| Skipped { path: path.to_vec(), reason }));
                }
                Err(other) => return Err(other),
            }
        }
        Ok(added)
    }

    fn update(&self, control: &Control<'_>, arguments: &[&str], paths: &[&[u8]]) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        let arguments = [&["update-index", "-z"], arguments, &["--stdin"]].concat();
        let command = self.with_lfs(control, control.command(&arguments))?;
        command.input(lines(paths)).output().map(drop)
    }

    fn with_lfs<'c>(&self, control: &Control<'_>, command: Command<'c>) -> Result<Command<'c>> {
        if !self.uses_lfs {
            return Ok(command);
        }
        let storage = control.lfs_storage();
        std::fs::create_dir_all(&storage).map_err(Failure::io("create", &storage))?;
        Ok(store_in_lfs(command, &storage))
    }
}

/// Those of `paths` that can be read.
fn readable<'p>(
    files: &Dir,
    paths: BTreeSet<&'p [u8]>,
    skipped: &mut Vec<Skipped>,
) -> Vec<Readable<'p>> {
    let mut readable = Vec::with_capacity(paths.len());
    for bytes in paths {
        let path = walk::path(bytes);
        let size = files.symlink_metadata(path).ok().and_then(|metadata| {
            let can_be_read =
                || faccessat(files, path, AccessFlags::R_OK, AtFlags::AT_EACCESS).is_ok();
            (metadata.is_symlink() || can_be_read()).then_some(metadata.len())
        });
        match size {
            Some(size) => readable.push(Readable { path: bytes, size }),
            None => {
                skipped.push(Skipped { path: bytes.to_vec(), reason: Reason::Unreadable });
            }
        }
    }
    readable
}

/// The files of a base: mode and ID by path.
struct Tracked<'t>(BTreeMap<&'t [u8], (&'t [u8], &'t [u8])>);

impl<'t> Tracked<'t> {
    /// Reads what `ls-tree` prints: mode, type and ID, a tab, and the path.
    fn parse(printed: &'t [u8]) -> Self {
        let entries = fields(printed).filter_map(|entry| {
            let at = entry.iter().position(|byte| *byte == b'\t')?;
            let mut words = entry.get(..at)?.split(|byte| *byte == b' ');
            Some((entry.get(at + 1..)?, (words.next()?, words.next_back()?)))
        });
        Self(entries.collect())
    }

    fn is_submodule(&self, path: &[u8]) -> bool {
        self.0.get(path).is_some_and(|(mode, _)| *mode == SUBMODULE)
    }

    /// The sizes that those of `paths` have in the base that are there.
    fn sizes<'p>(
        &self,
        control: &Control<'_>,
        paths: &[&'p [u8]],
    ) -> Result<HashMap<&'p [u8], u64>> {
        let known = paths.iter().filter_map(|path| Some((*path, self.0.get(path)?.1)));
        let known: Vec<(&[u8], &[u8])> = known.collect();
        let ids: Vec<&[u8]> = known.iter().map(|(_, id)| *id).collect();
        let sizes = known.iter().zip(list::sizes(control, &ids)?);
        Ok(sizes.filter_map(|((path, _), size)| Some((*path, size?))).collect())
    }
}

/// What the agent's own index lists. Only the names are used. Whatever is wrong with it, the files are there.
///
/// # Errors
/// If the look is to stop, or there is no room for a copy of the index.
pub(super) fn added(
    git: &Git,
    staging: &Staging,
    left: &LeftGit,
    base: &ObjectId,
) -> Result<BTreeSet<Vec<u8>>> {
    let objects = left.objects();
    let places = (objects.as_path(), objects.as_path());
    let theirs = Control::make(git, staging, "index", base.format(), None, places, &[])?;
    left.copy_to(theirs.path())?;
    let listed = theirs.command(&["ls-files", "-z"]).output()?;
    Ok(fields(&listed).map(<[u8]>::to_vec).collect())
}

/// Those of `paths` that the attributes in the tree put into LFS.
///
/// # Errors
/// If git cannot be run.
pub(super) fn in_lfs<'p>(control: &Control<'_>, paths: &[&'p [u8]]) -> Result<BTreeSet<&'p [u8]>> {
    in_lfs_by(control.command(&CHECK_FILTER), paths)
}

/// Those of `paths` that the attributes in the commit `id` put into LFS.
///
/// # Errors
/// If git cannot be run.
pub(crate) fn in_lfs_at<'p>(
    control: &Control<'_>,
    id: &ObjectId,
    paths: &[&'p [u8]],
) -> Result<BTreeSet<&'p [u8]>> {
    in_lfs_by(control.command(&CHECK_FILTER).env("GIT_ATTR_SOURCE", id.as_str()), paths)
}

const CHECK_FILTER: [&str; 4] = ["check-attr", "-z", "--stdin", "filter"];

fn in_lfs_by<'p>(look: Command<'_>, paths: &[&'p [u8]]) -> Result<BTreeSet<&'p [u8]>> {
    if paths.is_empty() {
        return Ok(BTreeSet::new());
    }
    let printed = listed(look.input(lines(paths)))?;
    // Path, attribute and value of each.
    let values = printed.split(|byte| *byte == 0).skip(2).step_by(3);
    let found = paths.iter().zip(values).filter(|(_, value)| *value == b"lfs");
    Ok(found.map(|(path, _)| *path).collect())
}

/// The files in order, in parts that are not too large for one command. The last one comes first.
fn batches<'f, 'p>(files: &'f [Readable<'p>]) -> Vec<&'f [Readable<'p>]> {
    let mut batches = Vec::new();
    let mut rest = files;
    while !rest.is_empty() {
        let mut size = 0u64;
        let fits = rest.iter().take(BATCH_FILES).take_while(|file| {
            size = size.saturating_add(file.size);
            size <= BATCH_BYTES
        });
        // One file at least.
        let (batch, others) = rest.split_at(fits.count().max(1));
        batches.push(batch);
        rest = others;
    }
    batches.reverse();
    batches
}

/// The files that are not in the index and not ignored, each followed by a NUL.
fn untracked(control: &Control<'_>, walk: &Walk) -> Result<Vec<u8>> {
    let mut command = control.command(&["ls-files", "-z", "--others", "--exclude-standard"]);
    for directory in &walk.repositories {
        let mut argument = std::ffi::OsString::from("--exclude=");
        argument.push(walk::pattern(directory));
        command = command.argument(argument);
    }
    listed(command)
}

/// The paths, each followed by a NUL.
fn lines(paths: &[&[u8]]) -> Vec<u8> {
    paths.iter().flat_map(|path| [path, b"\0".as_slice()].concat()).collect()
}

/// What stands before each NUL.
fn fields(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == 0).filter(|field| !field.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_gets_so_many_files_and_so_many_bytes_at_a_time() {
        let of = |size, count| vec![Readable { path: b"x".as_slice(), size }; count];
        let lengths = |files: &[Readable<'_>]| {
            let batches = batches(files);
            batches.iter().rev().map(|batch| batch.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&of(1, BATCH_FILES + 1)), [BATCH_FILES, 1]);
        assert_eq!(lengths(&of(BATCH_BYTES / 2, 5)), [2, 2, 1]);
        assert_eq!(lengths(&of(u64::MAX, 2)), [1, 1]);
    }
}
