//! What there is where the checkout is to go.
//!
//! An agent may have written anything into a checkout, its `.git` included. So nothing here is followed
//! or obeyed: a directory whose `.git` would lead git elsewhere, or make it wait, is refused.

use std::{
    fs::{self, FileType},
    io,
    path::{Path, PathBuf},
};

use cap_std::{ambient_authority, fs::Dir};
use contract::{CloneFilter, Code, FileRepositories, Policy, RepoUrl};

use super::{Refusal, config_file::Values, files};
use crate::{
    failure::{Failure, Result, quote},
    git::Git,
    monitor::Monitor,
    remote::{Extent, ObjectId},
};

/// The largest configuration that is read, in bytes.
const LARGEST_CONFIG: u64 = 1 << 20;
/// The largest list of the ends of a history that is read, in bytes.
const LARGEST_SHALLOW: u64 = 16 << 20;

/// What is at the target.
pub(crate) enum Found {
    Nothing,
    EmptyDirectory,
    /// A clone of the repository that is asked for.
    Checkout(Existing),
}

/// A clone that may be updated.
pub(crate) struct Existing {
    /// The directory, as a handle that no path leads out of.
    pub(super) files: Dir,
    /// Its `.git`, likewise.
    pub(super) git: Dir,
    /// Whether only a part of the files is checked out, and how that part is given.
    pub(super) sparse: Option<Sparse>,
    /// Whether files that were not needed yet may be missing.
    pub(super) is_partial: bool,
    /// The commits whose parents it does not have.
    pub(super) shallow: Vec<ObjectId>,
}

impl Found {
    /// How much of a repository is fetched for this target, where `asked` is what a first clone would get:
    /// a checkout that is there goes on as it was made.
    pub(crate) fn extent(&self, asked: Extent) -> Extent {
        match self {
            Self::Nothing | Self::EmptyDirectory => asked,
            Self::Checkout(existing) => Extent {
                depth: asked.depth.filter(|_| !existing.shallow.is_empty()),
                filter: existing.is_partial.then_some(CloneFilter::BlobNone),
                ..asked
            },
        }
    }
}

/// The kinds of a sparse checkout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sparse {
    Patterns,
    Cone,
}

/// Looks at `target`, which is to be a checkout of `repo`.
///
/// # Errors
/// If something else is there.
pub(crate) fn look(git_program: &Git, target: &Path, repo: &RepoUrl) -> Result<Found> {
    let refusal = Refusal { target };
    if let Some(parent) = target.parent()
        && kind(parent)?.is_some_and(|kind| !kind.is_dir())
    {
        return Err(refusal.because("the directory above it is not a directory"));
    }
    match kind(target)? {
        None => return Ok(Found::Nothing),
        Some(kind) if kind.is_symlink() => {
            return Err(refusal.because("it is a symbolic link; use another name"));
        }
        Some(kind) if !kind.is_dir() => {
            return Err(refusal.because("it is a file; use another name"));
        }
        Some(_) => {}
    }
    let git = target.join(".git");
    match kind(&git)? {
        None if is_empty(target)? => return Ok(Found::EmptyDirectory),
        None => return Err(refusal.because("it has no .git; use another name")),
        Some(kind) if !kind.is_dir() => {
            return Err(refusal.because("its .git is not a directory of its own"));
        }
        Some(_) => {}
    }
    check_entries(&refusal, &git)?;
    check_objects(&refusal, &git_program.monitor, &git.join("objects"))?;
    let open = |path: &PathBuf| {
        Dir::open_ambient_dir(path, ambient_authority()).map_err(Failure::io("open", path))
    };
    let (files, git) = (open(&target.to_owned())?, open(&git)?);
    let (sparse, is_partial) = check_config(git_program, &refusal, &git, repo)?;
    let shallow = files::read(&git, Path::new("shallow"), LARGEST_SHALLOW, &refusal)?;
    let shallow = shallow.unwrap_or_default();
    let shallow = shallow.split(|byte| *byte == b'\n').filter_map(ObjectId::parse).collect();
    Ok(Found::Checkout(Existing { files, git, sparse, is_partial, shallow }))
}

/// The kind of what is at `path`, which is not followed if it is a link.
pub(super) fn kind(path: &Path) -> Result<Option<FileType>> {
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
pub(super) fn check_entries(refusal: &Refusal<'_>, git: &Path) -> Result<()> {
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
        Err(refusal.because(&format!("its .git/{name} {what}; use another name")))
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

/// Everything beneath `.git/objects` that git opens is a file or a directory.
pub(super) fn check_objects(
    refusal: &Refusal<'_>,
    monitor: &Monitor,
    objects: &Path,
) -> Result<()> {
    /// No git looks deeper: `info/commit-graphs` is the deepest.
    const DEEPEST: usize = 3;
    let mut open = vec![(objects.to_owned(), 0)];
    while let Some((directory, level)) = open.pop() {
        for entry in fs::read_dir(&directory).map_err(Failure::io("list", &directory))? {
            monitor.check_stop()?;
            let entry = entry.map_err(Failure::io("list", &directory))?;
            let path = entry.path();
            match entry.file_type().map_err(Failure::io("look at", &path))? {
                kind if kind.is_dir() && level < DEEPEST => open.push((path, level + 1)),
                kind if kind.is_file() || kind.is_dir() => {}
                _ => {
                    let name = path.strip_prefix(refusal.target).unwrap_or(&path).display();
                    let why = format!("its {name} is not a regular file; use another name");
                    return Err(refusal.because(&why));
                }
            }
        }
    }
    Ok(())
}

/// The checkout says that it is a clone of `repo`.
fn check_config(
    git_program: &Git,
    refusal: &Refusal<'_>,
    git: &Dir,
    repo: &RepoUrl,
) -> Result<(Option<Sparse>, bool)> {
    // What a worktree's own configuration says comes last, and counts.
    let mut text = Vec::new();
    for name in ["config", "config.worktree"] {
        let read = files::read(git, Path::new(name), LARGEST_CONFIG, refusal)?;
        text.extend_from_slice(&read.unwrap_or_default());
        text.push(b'\n');
    }
    let list = ["config", "--file", "-", "--no-includes", "-z", "--list"];
    let config = match git_program.command(list).input(text).output() {
        Ok(listed) => Values::parse(&listed),
        Err(Failure::Git(said)) => return Err(refusal.unreadable("its configuration", &said)),
        Err(other) => return Err(other),
    };
    let policy = Policy { file_repositories: FileRepositories::Allowed, ..Policy::default() };
    let declared = config.get("remote.origin.url");
    let declared = declared.and_then(|url| RepoUrl::parse(url, &policy).ok());
    if !declared.as_ref().is_some_and(|declared| declared.is_same_repository(repo)) {
        let name = refusal.name();
        let what = match declared {
            Some(declared) => format!("a clone of {}", quote(declared.address(), &[])),
            None => "a clone that names no origin".to_owned(),
        };
        return Err(Failure::told(
            Code::DifferentRepository,
            format!("'{name}' is {what}, not of {repo}: use another directory"),
        ));
    }
    let is_cone = config.is_on("core.sparsecheckoutcone");
    let kind = if is_cone { Sparse::Cone } else { Sparse::Patterns };
    let is_partial = config.is_on("remote.origin.promisor");
    Ok((config.is_on("core.sparsecheckout").then_some(kind), is_partial))
}
