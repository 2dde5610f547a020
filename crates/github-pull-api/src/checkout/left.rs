//! What can be read of a `.git` that an agent left, without obeying it.

use std::path::{Path, PathBuf};

use cap_std::{ambient_authority, fs::Dir};

use super::{
    Refusal,
    existing::{check_entries, check_objects, kind},
    head,
    safe_git_dir::{LARGEST_COPY, copy},
};
use crate::{
    failure::{Failure, Result},
    monitor::Monitor,
    remote::ObjectId,
};

/// A `.git` in which every entry that git would open was looked at.
pub(crate) struct LeftGit {
    target: PathBuf,
    git: Dir,
    /// The commit that `HEAD` leads to.
    pub(crate) head: Option<ObjectId>,
}

impl LeftGit {
    /// Looks at the `.git` of the checkout at `target`.
    ///
    /// # Errors
    /// If it is missing or damaged, or has something in it that would lead git elsewhere or make it wait.
    pub(crate) fn look(monitor: &Monitor, target: &Path) -> Result<Self> {
        let refusal = Refusal { target };
        let path = target.join(".git");
        match kind(&path)? {
            Some(kind) if kind.is_dir() => {}
            Some(_) => return Err(refusal.because("its .git is not a directory of its own")),
            None => return Err(refusal.because("it has no .git")),
        }
        check_entries(&refusal, &path)?;
        check_objects(&refusal, monitor, &path.join("objects"))?;
        let git = Dir::open_ambient_dir(&path, ambient_authority())
            .map_err(Failure::io("open", &path))?;
        let head = head::commit(&git, &refusal)?;
        Ok(Self { target: target.to_owned(), git, head })
    }

    /// The directory of its objects. An object in it need not be what its name says.
    pub(crate) fn objects(&self) -> PathBuf {
        self.target.join(".git/objects")
    }

    /// Copies its index, and the list of commits whose parents it does not have, to a control directory of ours.
    ///
    /// # Errors
    /// If they cannot be read, or are too large.
    pub(crate) fn copy_to(&self, git_dir: &Path) -> Result<()> {
        let refusal = Refusal { target: &self.target };
        for name in ["index", "shallow"] {
            copy(&self.git, &refusal, Path::new(name), git_dir, LARGEST_COPY)?;
        }
        Ok(())
    }
}
