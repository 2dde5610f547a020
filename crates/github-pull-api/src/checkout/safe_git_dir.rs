//! A control directory of our own for a checkout that may be hostile.
//!
//! git gets the checkout's index as a copy, its objects to read, and a configuration of ours. So
//! `core.worktree`, `url.….insteadOf`, includes, filters, hooks and monitors that somebody put into the
//! checkout's own `.git` are not even read.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use cap_std::fs::Dir;

use super::{
    Refusal,
    existing::{Existing, Sparse},
    files,
};
use crate::{
    failure::{Failure, Result},
    git::{Command, Git},
    remote::{Lfs, ObjectFormat, ObjectId, git_format},
    staging::Staging,
};

/// How much is copied of a `.git`, in bytes: an index of some two million files. An agent can make a file of any length.
pub(super) const LARGEST_COPY: u64 = 256 << 20;

/// What git works on.
pub(super) struct SafeGitDir<'a> {
    git: &'a Git,
    path: PathBuf,
    target: &'a Path,
    lfs: Option<Lfs>,
}

impl<'a> SafeGitDir<'a> {
    /// Makes the control directory of the checkout at `refusal.target`, with `head` checked out.
    ///
    /// # Errors
    /// If the checkout's index cannot be read.
    pub(super) fn make(
        git: &'a Git,
        staging: &Staging,
        refusal: &Refusal<'a>,
        existing: &Existing,
        head: Option<&ObjectId>,
        format: ObjectFormat,
    ) -> Result<Self> {
        let path = staging.directory("git")?;
        for directory in ["objects/info", "objects/pack", "refs", "info"] {
            let path = path.join(directory);
            fs::create_dir_all(&path).map_err(Failure::io("create", &path))?;
        }
        let mut left = LARGEST_COPY;
        for name in ["index", "shallow", "info/sparse-checkout", "info/attributes", "info/exclude"]
        {
            left -= copy(&existing.git, refusal, Path::new(name), &path, left)?;
        }
        for entry in existing.git.entries().map_err(Failure::io("list", refusal.target))?.flatten()
        {
            let name = PathBuf::from(entry.file_name());
            if name.to_string_lossy().starts_with("sharedindex.") {
                left -= copy(&existing.git, refusal, &name, &path, left)?;
            }
        }
        let write = |name: &str, text: String| {
            let path = path.join(name);
            fs::write(&path, text).map_err(Failure::io("write", &path))
        };
        let objects = refusal.target.join(".git/objects");
        // In quotes: a comment or an escape is not meant.
        let quoted = objects.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
        write("objects/info/alternates", format!("\"{quoted}\"\n"))?;
        let filter = existing.is_partial.then_some("blob:none");
        let mut config = git_format(format, filter);
        config.push_str("\tbare = false\n\tfilemode = true\n\tlogallrefupdates = false\n");
        if let Some(sparse) = existing.sparse {
            let cone = sparse == Sparse::Cone;
            config.push_str(&format!("\tsparseCheckout = true\n\tsparseCheckoutCone = {cone}\n"));
        }
        if filter.is_some() {
            // What is missing counts as left out, although nothing is fetched here.
            config.push_str("[remote \"origin\"]\n\turl = /nowhere\n\tpromisor = true\n");
        }
        write("config", config)?;
        let unborn = || "ref: refs/heads/unborn".to_owned();
        write("HEAD", head.map_or_else(unborn, ObjectId::to_string) + "\n")?;
        Ok(Self { git, path, target: refusal.target, lfs: None })
    }

    /// Has files in LFS written as what they stand for.
    pub(super) fn with_lfs(self, lfs: Option<Lfs>) -> Self {
        Self { lfs, ..self }
    }

    /// A command on the control directory and the files of the checkout.
    pub(super) fn command(&self, arguments: &[&str]) -> Command<'a> {
        let command = self.git.command(arguments).git_dir(&self.path).work_tree(self.target);
        match &self.lfs {
            Some(lfs) => lfs.configure(command),
            None => command,
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Copies a regular file of at most `most` bytes if it is there. Its time comes along: by it git knows which of the files in an
/// index it must look into. Returns its length.
///
/// # Errors
/// If it is longer, something else is there, or it cannot be copied.
pub(super) fn copy(
    git: &Dir,
    refusal: &Refusal<'_>,
    name: &Path,
    to: &Path,
    most: u64,
) -> Result<u64> {
    let failed = |error| Failure::io("copy from .git", name)(error);
    let Some(source) = files::open(git, name, refusal)? else { return Ok(0) };
    let metadata = source.metadata().map_err(failed)?;
    let to = to.join(name);
    let mut copy = fs::File::create(&to).map_err(Failure::io("create", &to))?;
    // A file with holes would be written out in full.
    let length = match metadata.len() {
        length if length > most => length,
        _ => std::io::copy(&mut source.take(most.saturating_add(1)), &mut copy).map_err(failed)?,
    };
    if length > most {
        let name = name.display();
        return Err(refusal.because(&format!("its .git/{name} is too large; use another name")));
    }
    let modified = metadata.modified().map_err(failed)?;
    copy.set_modified(modified.into_std()).map_err(Failure::io("date", &to))?;
    Ok(length)
}
