//! The layout of the volume.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use cap_std::{ambient_authority, fs::Dir};
use contract::{
    DirectoryName, JobId, Repo, RepoList, Service, SessionId, Timestamp, WorkspacePath,
};

use crate::{Error, ResolveError, Result, Watcher, liveness::LivenessChecker, proof::Signing};

/// The maximum number of damaged files to remember, so that each is logged once. Further ones are not logged.
const MOST_REPORTED: usize = 10_000;

/// An open volume. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Workspace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    root_text: String,
    dir: Dir,
    watcher: Watcher,
    liveness: LivenessChecker,
    reported: Mutex<HashSet<PathBuf>>,
    signing: OnceLock<Signing>,
}

impl Workspace {
    /// Opens the volume at `root` and creates the directories that every service expects.
    ///
    /// Only this user can enter what it creates, and `.stack` and `jobs` if they are this user's. An existing root
    /// keeps its mode, because others may use it too.
    ///
    /// # Errors
    /// If `root` cannot be created, is not a directory, or has no UTF-8 name.
    pub fn open(root: &Path) -> Result<Self> {
        create_private(root).map_err(Error::io("create the workspace", root))?;
        // The resolved path, which the CLI sees and with which callers' absolute paths must begin.
        let root = root.canonicalize().map_err(Error::io("open the workspace", root))?;
        let root_text = root.to_str().map(str::to_owned).ok_or_else(|| {
            Error::io("open the workspace", &root)(io::Error::new(
                io::ErrorKind::InvalidInput,
                "its path is not UTF-8",
            ))
        })?;
        let dir = Dir::open_ambient_dir(&root, ambient_authority())
            .map_err(Error::io("open the workspace", &root))?;
        let watcher = Watcher::new(&root);
        let workspace = Self {
            inner: Arc::new(Inner {
                root,
                root_text,
                dir,
                watcher,
                liveness: LivenessChecker::default(),
                reported: Mutex::default(),
                signing: OnceLock::new(),
            }),
        };
        let mut directories = vec![
            workspace.root().join("jobs"),
            workspace.jobs(),
            workspace.mirrors(),
            workspace.checkouts(),
            workspace.guests(),
            workspace.gateways(),
            workspace.sessions(),
            workspace.owners(),
            workspace.temporary(),
        ];
        for service in Service::ALL {
            directories.extend([workspace.replicas(service), workspace.busy_replicas(service)]);
        }
        for directory in directories {
            create_private(&directory).map_err(Error::io("create", &directory))?;
        }
        for directory in [workspace.stack(), workspace.root().join("jobs")] {
            close_to_others(&directory).map_err(Error::io("close to others", &directory))?;
        }
        Ok(workspace)
    }

    /// The resolved, absolute path of the volume.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// [`root`](Self::root) as text.
    #[must_use]
    pub fn root_text(&self) -> &str {
        &self.inner.root_text
    }

    /// A handle on it that paths cannot escape from.
    pub(crate) fn dir(&self) -> &Dir {
        &self.inner.dir
    }

    /// The watcher of this process.
    #[must_use]
    pub fn watcher(&self) -> &Watcher {
        &self.inner.watcher
    }

    pub(crate) fn liveness(&self) -> &LivenessChecker {
        &self.inner.liveness
    }

    /// How this process signs, if it knows the secret of the stack.
    pub(crate) fn signing(&self) -> Option<&Signing> {
        self.inner.signing.get()
    }

    /// The first one counts.
    pub(crate) fn set_signing(&self, signing: Signing) {
        let _ = self.inner.signing.set(signing);
    }

    pub(crate) fn stack(&self) -> PathBuf {
        self.root().join(".stack")
    }

    /// The directory for damaged files and jobs, which are kept for an operator.
    #[must_use]
    pub fn damaged(&self) -> PathBuf {
        self.stack().join("damaged")
    }

    /// Moves a damaged file or job there.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<PathBuf> {
        let damaged = self.damaged();
        create_private(&damaged).map_err(Error::io("create", &damaged))?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", uuid::Uuid::now_v7()));
        let to = damaged.join(name);
        fs::rename(path, &to).map_err(Error::io("set aside", path))?;
        Ok(to)
    }

    /// Logs that one of our files cannot be used, but only the first time: it is read again and again, and must not
    /// fill the log.
    pub fn report_once(&self, path: &Path, error: &Error) {
        let mut reported = self.inner.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() < MOST_REPORTED && reported.insert(path.to_owned()) {
            tracing::error!(path = %path.display(), error = error as &dyn std::error::Error, "ignoring an unusable file of the workspace");
        }
    }

    pub(crate) fn jobs(&self) -> PathBuf {
        self.stack().join("jobs")
    }

    pub(crate) fn replicas(&self, service: Service) -> PathBuf {
        self.stack().join("replicas").join(service.name())
    }

    pub(crate) fn busy_replicas(&self, service: Service) -> PathBuf {
        self.stack().join("busy").join(service.name())
    }

    /// Bare mirrors of repositories and their locks.
    #[must_use]
    pub fn mirrors(&self) -> PathBuf {
        self.stack().join("mirrors")
    }

    /// Metadata of each shared checkout, and the locks of pulls into them.
    #[must_use]
    pub fn checkouts(&self) -> PathBuf {
        self.stack().join("checkouts")
    }

    /// The log of what callers did.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.stack().join("audit")
    }

    pub(crate) fn gateways(&self) -> PathBuf {
        self.stack().join("gateways")
    }

    pub(crate) fn turns(&self) -> PathBuf {
        self.stack().join("turns")
    }

    /// No checkout's name starts with a dot.
    pub(crate) fn guests(&self) -> PathBuf {
        self.turns().join(".guests")
    }

    pub(crate) fn sessions(&self) -> PathBuf {
        self.stack().join("sessions")
    }

    pub(crate) fn session(&self, id: SessionId) -> PathBuf {
        self.sessions().join(id.to_string())
    }

    /// The staging directory, on the same file system as what a rename puts in place. A job that needs one creates a
    /// directory with its own name here, and removes it.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.stack().join("tmp")
    }

    /// A named, long-lived checkout.
    #[must_use]
    pub fn checkout(&self, name: &DirectoryName) -> PathBuf {
        self.root().join(name.as_str())
    }

    /// The directory of a job's own files. Created on demand.
    #[must_use]
    pub fn job_directory(&self, job: JobId) -> PathBuf {
        self.root().join("jobs").join(job.to_string())
    }

    /// Resolves a caller's path to an existing directory beneath the volume, and returns its real path relative to
    /// the volume. Symbolic links must not lead out of the volume, and their targets must follow the same rules as
    /// the caller's path.
    ///
    /// # Errors
    /// If the path is invalid (the error is for the caller), or the volume cannot be read.
    pub fn resolve(&self, path: &WorkspacePath) -> Result<WorkspacePath, ResolveError> {
        let refused = ResolveError::Refused;
        let failed = |error| ResolveError::of(self.root().join(path.as_str()), path, error);
        let real = self.inner.dir.canonicalize(path.as_str()).map_err(failed)?;
        let real = real
            .to_str()
            .ok_or_else(|| refused(format!("'{path}' leads to a name that is not UTF-8")))?;
        let real = WorkspacePath::parse(real, self.root_text())
            .map_err(|why| refused(format!("'{path}' leads to '{real}': {why}")))?;
        match self.inner.dir.metadata(real.as_str()).map_err(failed)? {
            metadata if metadata.is_dir() => Ok(real),
            _ => Err(refused(format!("'{path}' is not a directory"))),
        }
    }

    /// Opens a directory beneath the volume as a handle that paths cannot escape from.
    ///
    /// # Errors
    /// If it does not exist, is not a directory, or a symbolic link leads out of the volume.
    pub fn open_directory(&self, path: &WorkspacePath) -> Result<Dir> {
        let full = self.root().join(path.as_str());
        self.inner.dir.open_dir(path.as_str()).map_err(Error::io("open", full))
    }

    /// The shared checkouts, by name. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn repos(&self) -> Result<RepoList> {
        let mut repos = Vec::new();
        let entries = self.inner.dir.entries().map_err(Error::io("list", self.root()))?;
        for entry in entries {
            let name = entry.map_err(Error::io("list", self.root()))?.file_name();
            let Some(name) = name.to_str().and_then(|name| DirectoryName::parse(name).ok()) else {
                continue;
            };
            // A link is not one of our checkouts, whatever its target.
            let metadata = match self.inner.dir.symlink_metadata(name.as_str()) {
                Ok(metadata) => metadata,
                // It was removed after the listing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(Error::io("check", self.root().join(name.as_str()))(error));
                }
            };
            if !metadata.is_dir() || !self.inner.dir.is_dir(format!("{name}/.git")) {
                continue;
            }
            let modified = metadata
                .modified()
                .map_or(Timestamp::from_millisecond(0), |time| time.into_std().into());
            let path = format!("{}/{name}", self.root_text());
            repos.push(Repo { name: name.to_string(), path, modified });
        }
        repos.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(RepoList { count: repos.len(), repos })
    }
}

/// Creates a directory, and those above it, that only this user can enter.
fn create_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Closes a directory of this user that was created with another mode, by an earlier version or by hand. A group may pass
/// through it, as that of agents must.
fn close_to_others(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    let is_open = found.permissions().mode() & 0o067 != 0;
    if is_open && found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The names in `directory` that are IDs. Others are ignored.
pub(crate) fn parsed_names<T: FromStr>(directory: &Path) -> Result<Vec<T>> {
    let error = || Error::io("list", directory);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(error())? {
        let name = entry.map_err(error())?.file_name();
        names.extend(name.to_str().and_then(|name| name.parse().ok()));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_stay_beneath_the_volume_even_through_links() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(root.path()).unwrap();
        fs::create_dir_all(root.path().join("app/src")).unwrap();
        fs::create_dir_all(root.path().join("app/.git/hooks")).unwrap();
        fs::write(root.path().join("app/file"), "").unwrap();
        symlink("src", root.path().join("app/inside")).unwrap();
        symlink(outside.path(), root.path().join("app/absolute")).unwrap();
        symlink("../..", root.path().join("app/up")).unwrap();
        symlink("../.stack/jobs", root.path().join("app/stack")).unwrap();
        symlink(".git/hooks", root.path().join("app/hooks")).unwrap();
        symlink("loop", root.path().join("app/loop")).unwrap();
        let resolve = |path: &str| {
            let path = WorkspacePath::parse(path, workspace.root_text()).unwrap();
            workspace.resolve(&path).map(|path| path.to_string())
        };
        assert_eq!(resolve("app/src").unwrap(), "app/src");
        assert_eq!(resolve("app/inside").unwrap(), "app/src");
        for bad in
            ["app/absolute", "app/up", "app/stack", "app/hooks", "app/loop", "app/file", "app/none"]
        {
            assert!(resolve(bad).is_err(), "{bad}: {:?}", resolve(bad));
        }
    }

    #[test]
    fn what_it_creates_is_private_and_an_existing_root_stays() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let new = directory.path().join("new");
        Workspace::open(&new).unwrap();
        for path in ["", ".stack", ".stack/jobs", ".stack/sessions", "jobs"] {
            assert_eq!(mode(&new.join(path)), 0o700, "{path}");
        }
        let old = directory.path().join("old");
        fs::create_dir_all(old.join(".stack")).unwrap();
        for path in [&old, &old.join(".stack")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o775)).unwrap();
        }
        Workspace::open(&old).unwrap();
        assert_eq!((mode(&old), mode(&old.join(".stack"))), (0o775, 0o700));
    }

    #[test]
    fn repos_are_real_clones_by_name() {
        let root = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(root.path()).unwrap();
        for directory in ["b/.git", "a/.git", "not-a-clone", ".hidden/.git", "jobs/x/.git"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        symlink("a", root.path().join("link")).unwrap();
        let repos = workspace.repos().unwrap();
        let names: Vec<_> = repos.repos.iter().map(|repo| repo.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(repos.count, 2);
    }
}
