//! A control directory of our own for a checkout that may be hostile.
//!
//! Git gets the checkout's references and index as copies, its objects to read, and a configuration of
//! ours; it writes beside the checkout only. So `core.worktree`, `url.….insteadOf`, includes, filters
//! and monitors that somebody put into the checkout's own configuration are not so much as read.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cap_std::fs::Dir;
use git2::{Index, Repository};

use super::{Job, aside::Aside, create_dir, existing::Checkout, not_a_repository};
use crate::failure::{Failure, Result};

/// What git works on.
pub(super) struct Shadow {
    path: PathBuf,
    pub(super) repository: Repository,
}

impl Shadow {
    /// Makes the shadow of `checkout`.
    ///
    /// # Errors
    /// If the checkout's references or index cannot be read.
    pub(super) fn make(job: &Job, aside: &Aside, checkout: &Checkout) -> Result<Self> {
        let path = aside.join("shadow");
        create_dir(&path)?;
        for directory in ["objects", "objects/info", "objects/pack"] {
            create_dir(&path.join(directory))?;
        }
        let copy = |name: &str| copy_file(&checkout.git, name, &path.join(name));
        for name in ["HEAD", "packed-refs", "shallow", "index"] {
            copy(name)?;
        }
        copy_references(job, &checkout.git, "refs", &path)?;

        let write = |name: &str, text: String| {
            let path = path.join(name);
            fs::write(&path, text).map_err(Failure::io("write", &path))
        };
        let target = job.target.to_string_lossy();
        write("objects/info/alternates", format!("{target}/.git/objects\n"))?;
        let worktree = target.replace('\\', "\\\\").replace('"', "\\\"");
        write(
            "config",
            format!(
                "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
                 \tlogallrefupdates = false\n\tsymlinks = true\n\tworktree = \"{worktree}\"\n"
            ),
        )?;
        let repository = Repository::open(&path).map_err(|error| {
            not_a_repository(&job.target, &format!("git cannot open it: {}", error.message()))
        })?;
        Ok(Self { path, repository })
    }

    /// The copy of the checkout's index.
    ///
    /// # Errors
    /// If git cannot read it.
    pub(super) fn index(&self, job: &Job) -> Result<Index> {
        self.repository.index().map_err(|error| {
            not_a_repository(
                &job.target,
                &format!("git cannot read its index: {}", error.message()),
            )
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Copies a regular file if it is there. Its time comes along: with it git knows which of the files
/// in an index it must look into.
fn copy_file(from: &Dir, name: &str, to: &Path) -> Result<()> {
    let failed = |error| Failure::io("copy from .git", Path::new(name))(error);
    let mut source = match from.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let modified = source.metadata().and_then(|metadata| metadata.modified()).map_err(failed)?;
    let mut copy = fs::File::create(to).map_err(Failure::io("create", to))?;
    std::io::copy(&mut source, &mut copy).map_err(failed)?;
    copy.set_modified(modified.into_std()).map_err(Failure::io("date", to))
}

/// Copies all references, which are directories and regular files.
fn copy_references(job: &Job, from: &Dir, name: &str, to: &Path) -> Result<()> {
    let failed = |error| Failure::io("list in .git", Path::new(name))(error);
    create_dir(&to.join(name))?;
    for entry in from.read_dir(name).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let Some(path) = entry.file_name().to_str().map(|entry| format!("{name}/{entry}")) else {
            continue;
        };
        if kind.is_dir() {
            copy_references(job, from, &path, to)?;
        } else if kind.is_file() {
            copy_file(from, &path, &to.join(&path))?;
        } else {
            return Err(not_a_repository(
                &job.target,
                &format!("its .git/{path} is not a regular file; use another name"),
            ));
        }
    }
    Ok(())
}
