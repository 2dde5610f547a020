//! What there is where the checkout is to go.
//!
//! An agent may have written anything into a checkout, its `.git` included. So nothing here is
//! followed or obeyed: what git would be led elsewhere by makes the directory no clone of ours.

use std::{
    fs::{self, FileType},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use cap_std::{ambient_authority, fs::Dir};
use contract::{Code, FileRepositories, Policy, RepoUrl};

use super::{Job, not_a_repository, origin};
use crate::failure::{Failure, Result, quote};

/// The largest configuration that is looked into, in bytes.
const LARGEST_CONFIG: u64 = 1 << 20;

/// What is at the target.
pub(super) enum Found {
    Nothing,
    EmptyDirectory,
    /// A clone of the repository that is asked for.
    Checkout(Checkout),
}

/// A clone that may be updated.
pub(super) struct Checkout {
    /// The directory, as a handle that no path leads out of.
    pub(super) files: Dir,
    /// Its `.git`, likewise.
    pub(super) git: Dir,
}

/// Looks at the target of `job`.
///
/// # Errors
/// If something is there that is no clone of the job's repository.
pub(super) fn look(job: &Job) -> Result<Found> {
    let target = &job.target;
    if let Some(parent) = target.parent()
        && kind(parent)?.is_some_and(|kind| !kind.is_dir())
    {
        return Err(not_a_repository(target, "the directory above it is not a directory"));
    }
    match kind(target)? {
        None => return Ok(Found::Nothing),
        Some(kind) if kind.is_symlink() => {
            return Err(not_a_repository(target, "it is a symbolic link; use another name"));
        }
        Some(kind) if !kind.is_dir() => {
            return Err(not_a_repository(target, "it is a file; use another name"));
        }
        Some(_) => {}
    }
    let git = target.join(".git");
    match kind(&git)? {
        None if is_empty(target)? => return Ok(Found::EmptyDirectory),
        None => return Err(not_a_repository(target, "it has no .git; use another name")),
        Some(kind) if !kind.is_dir() => {
            return Err(not_a_repository(target, "its .git is not a directory of its own"));
        }
        Some(_) => {}
    }
    check_entries(target, &git)?;
    check_origin(job, &git.join("config"))?;
    let open = |path: &PathBuf| {
        Dir::open_ambient_dir(path, ambient_authority()).map_err(Failure::io("open", path))
    };
    Ok(Found::Checkout(Checkout { files: open(target)?, git: open(&git)? }))
}

/// The kind of what is at `path`, which is not followed if it is a link.
fn kind(path: &Path) -> Result<Option<FileType>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata.file_type())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io("look at", path)(error)),
    }
}

fn is_empty(path: &Path) -> Result<bool> {
    Ok(fs::read_dir(path).map_err(Failure::io("list", path))?.next().is_none())
}

/// Every entry of `.git` that an update reads or writes is what it should be.
fn check_entries(target: &Path, git: &Path) -> Result<()> {
    const DIRECTORIES: [&str; 9] = [
        "objects",
        "objects/info",
        "objects/pack",
        "refs",
        "refs/heads",
        "refs/remotes",
        "refs/remotes/origin",
        "refs/tags",
        "logs",
    ];
    const FILES: [&str; 5] = ["HEAD", "config", "index", "packed-refs", "shallow"];
    const REQUIRED: [&str; 3] = ["HEAD", "objects", "refs"];
    // Each leads git to another directory, or is a format that this service does not write.
    const FOREIGN: [&str; 4] =
        ["commondir", "objects/info/alternates", "objects/info/http-alternates", "reftable"];
    let refuse = |name: &str, what: &str| {
        Err(not_a_repository(target, &format!("its .git/{name} {what}; use another name")))
    };
    for name in DIRECTORIES {
        match kind(&git.join(name))? {
            Some(kind) if !kind.is_dir() => return refuse(name, "is not a directory"),
            None if REQUIRED.contains(&name) => return refuse(name, "is missing"),
            _ => {}
        }
    }
    for name in FILES {
        match kind(&git.join(name))? {
            Some(kind) if !kind.is_file() => return refuse(name, "is not a regular file"),
            None if REQUIRED.contains(&name) => return refuse(name, "is missing"),
            _ => {}
        }
    }
    for name in FOREIGN {
        if kind(&git.join(name))?.is_some() {
            return refuse(name, "leads git elsewhere");
        }
    }
    Ok(())
}

/// The checkout says that it is a clone of the job's repository.
fn check_origin(job: &Job, config: &Path) -> Result<()> {
    let mut text = Vec::new();
    match fs::File::open(config) {
        Ok(file) => {
            file.take(LARGEST_CONFIG)
                .read_to_end(&mut text)
                .map_err(Failure::io("read", config))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::io("read", config)(error)),
    }
    let declared = origin::url(&String::from_utf8_lossy(&text));
    let policy = Policy { file_repositories: FileRepositories::Allowed, ..Policy::default() };
    let declared = declared.and_then(|url| RepoUrl::parse(&url, &policy).ok());
    if declared.as_ref().is_some_and(|declared| declared.is_same_repository(&job.repo)) {
        return Ok(());
    }
    let name = job.target.file_name().unwrap_or_default().to_string_lossy();
    let what = match declared {
        Some(declared) => format!("a clone of {}", quote(declared.address(), &[])),
        None => "a clone that names no origin".to_owned(),
    };
    Err(Failure::told(
        Code::DifferentRepository,
        format!("'{name}' is {what}, not of {}: use another directory", job.repo),
    ))
}
