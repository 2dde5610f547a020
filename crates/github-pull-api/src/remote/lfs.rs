//! Files in Git LFS: git-lfs fetches them into the mirror, and its filter writes them into a checkout.
//!
//! git-lfs connects to loopback addresses without a proxy, whatever it is told. So it runs only where the
//! kernel keeps it from every port but the connector's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use contract::{Code, RepoUrl, Scheme};

use super::{Mirror, ObjectId, Transport};
use crate::{
    changes::Control,
    failure::{Failure, Result, quote},
    git::{Command, Git},
    staging::Staging,
};

/// The sections that `git lfs install --local` writes: without them a commit made in the checkout would hold
/// the files themselves.
pub(crate) const CONFIGURATION: &str = "[filter \"lfs\"]\n\tclean = git-lfs clean -- %f\n\
    \tsmudge = git-lfs smudge -- %f\n\tprocess = git-lfs filter-process\n\trequired = true\n";

/// So many objects are uploaded with one command.
const MOST_OBJECTS: usize = 500;

/// What a checkout needs to have the files of a mirror written into it.
#[derive(Clone, Debug)]
pub(crate) struct Lfs {
    /// Where the mirror is.
    mirror: PathBuf,
    /// Where git-lfs keeps what it works on.
    storage: PathBuf,
}

impl Lfs {
    /// For the mirror at `mirror`.
    ///
    /// # Errors
    /// If there is no directory for git-lfs to work in.
    pub(super) fn new(mirror: &Path, staging: &Staging) -> Result<Self> {
        Ok(Self { mirror: mirror.to_owned(), storage: staging.directory("lfs")? })
    }

    /// Has `command` write the files that pointers stand for. They must be in the mirror.
    pub(crate) fn configure<'a>(&self, command: Command<'a>) -> Command<'a> {
        let Self { mirror, storage } = self;
        // git-lfs looks for a file beside the alternates of the objects, too.
        store(command, storage)
            .reads(mirror)
            .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", mirror.join("objects"))
    }
}

/// Has `command` make pointers of files in LFS, whose contents it keeps in `storage`.
pub(crate) fn store<'a>(command: Command<'a>, storage: &Path) -> Command<'a> {
    everything(command)
        .writes(storage)
        .config("lfs.storage", storage)
        .config("lfs.url", "http://offline.invalid")
        .config("filter.lfs.process", "git-lfs filter-process")
        .config("filter.lfs.required", "true")
}

/// Why git-lfs cannot be used here, if so.
///
/// # Errors
/// If git cannot be run.
pub(crate) fn obstacle(git: &Git) -> Result<Option<&'static str>> {
    if !git.command(["lfs", "version"]).run()?.status.success() {
        return Ok(Some("git-lfs is not installed"));
    }
    let is_confined = child_process::is_port_confinement_available();
    Ok((!is_confined).then_some("git-lfs needs a kernel with Landlock for ports (Linux 6.7)"))
}

impl Mirror<'_> {
    /// Fetches the files in LFS that the commit `id` has.
    ///
    /// # Errors
    /// If they are too large together, or cannot be fetched.
    pub(super) fn fetch_lfs(&self, transport: &Transport<'_>, id: &ObjectId) -> Result<()> {
        let id = id.as_str();
        let listed = everything(self.command(["lfs", "ls-files", "--debug", id])).output()?;
        let listed = String::from_utf8_lossy(&listed);
        let sizes = listed.lines().filter_map(|line| line.trim().strip_prefix("size: "));
        let size = sizes.filter_map(|size| size.parse().ok()).fold(0, u64::saturating_add);
        if listed.trim().is_empty() {
            return Ok(());
        }
        self.git.check_size(size)?;
        let endpoint = endpoint(transport, id, |arguments| self.command(arguments))?;
        let storage = self.path().join("lfs");
        fs::create_dir_all(&storage).map_err(Failure::io("create", &storage))?;
        let fetched =
            transport.run_at(self.git, &["lfs", "fetch", "origin", id], &[], None, |command| {
                everything(self.place(command))
                    .writes(&storage)
                    .config("lfs.storage", &storage)
                    .any_host()
                    .config("lfs.url", &endpoint)
                    .config("lfs.forceprogress", "true")
                    .config("lfs.transfer.maxretries", "3")
            });
        match fetched {
            Ok(_) => Ok(()),
            Err(Failure::Git(said)) => Err(Failure::told(
                Code::GitFailed,
                format!(
                    "git-lfs cannot fetch the files of {}: {said}; leave out 'lfs' for pointers",
                    transport.repo
                ),
            )),
            Err(other) => Err(other),
        }
    }
}

/// The URL of the LFS server: what `.lfsconfig` in the commit `id` says, if that is allowed, or the usual one. `command` has the
/// commit.
fn endpoint<'g>(
    transport: &Transport<'_>,
    id: &str,
    command: impl Fn([&str; 5]) -> Command<'g>,
) -> Result<String> {
    let blob = format!("{id}:.lfsconfig");
    let given = command(["config", "--blob", &blob, "--get", "lfs.url"]).run()?;
    let given = String::from_utf8_lossy(&given.stdout);
    if given.trim().is_empty() {
        return Ok(endpoint_of(transport.repo));
    }
    let url = RepoUrl::parse(given.trim(), &transport.access.config.policy);
    url.map(|url| url.address().to_owned()).map_err(|(_, why)| {
        let why = quote(&why, &[]);
        let sentence = format!("{} has an LFS server that is refused: {why}", transport.repo);
        Failure::told(Code::RepositoryInvalid, sentence)
    })
}

/// Uploads objects to the LFS server that the commit `at` names.
///
/// # Errors
/// If the server does not take them, with its words.
pub(crate) fn upload(
    git: &Git,
    transport: &Transport<'_>,
    control: &Control<'_>,
    at: &ObjectId,
    objects: &[&str],
) -> Result<()> {
    let repo = transport.repo;
    let endpoint = endpoint(transport, at.as_str(), |arguments| control.command(&arguments))?;
    let (storage, private) = (control.lfs_storage(), control.make_private()?);
    for part in objects.chunks(MOST_OBJECTS) {
        let first = [&["lfs", "push", "--object-id", "origin"], part].concat();
        let pushed = transport.run_at(git, &first, &[], None, |command| {
            let command = everything(control.place_in(&private, command))
                .writes(&storage)
                .config("lfs.storage", &storage)
                .any_host()
                .config("lfs.url", &endpoint)
                .config("lfs.locksverify", "false")
                .config("lfs.forceprogress", "true")
                .config("lfs.transfer.maxretries", "3")
                .config("remote.origin.url", repo.address());
            if repo.scheme() == Scheme::File { command.writes(repo.address()) } else { command }
        });
        match pushed {
            Ok(_) => {}
            Err(Failure::Git(said)) => {
                let sentence = format!(
                    "the LFS server of {repo} does not take the files: {said}; nothing was pushed, so deliver again when it does"
                );
                return Err(Failure::told(Code::PushRejected, sentence));
            }
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// Leaves out no file, whatever the repository's `.lfsconfig` says.
fn everything(command: Command<'_>) -> Command<'_> {
    command.config("lfs.fetchinclude", "").config("lfs.fetchexclude", "")
}

/// The LFS server of a repository that names none.
fn endpoint_of(repo: &RepoUrl) -> String {
    let address = repo.address().trim_end_matches('/');
    let beside = |address: &str| format!("{}.git/info/lfs", address.trim_end_matches(".git"));
    match repo.scheme() {
        Scheme::Http | Scheme::Https => beside(address),
        Scheme::Git => beside(&address.replacen("git://", "https://", 1)),
        Scheme::File => format!("file://{address}"),
        // The host says where, when git-lfs asks it by ssh.
        Scheme::Ssh => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use contract::Policy;

    use super::*;

    #[test]
    fn the_server_of_a_repository_that_names_none() {
        for (repo, endpoint) in [
            ("https://me:pw@h/a/b", "https://h/a/b.git/info/lfs"),
            ("https://h:8443/a/b.git/", "https://h:8443/a/b.git/info/lfs"),
            ("git://h/a/b.git", "https://h/a/b.git/info/lfs"),
            ("ssh://git@h:22/a/b", "ssh://git@h:22/a/b"),
            ("git@h:a/b.git", "git@h:a/b.git"),
        ] {
            let repo = RepoUrl::parse(repo, &Policy::default()).unwrap();
            assert_eq!(endpoint_of(&repo), endpoint);
        }
    }
}
