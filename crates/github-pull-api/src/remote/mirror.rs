//! The mirror of a repository: bare, shared by all pulls of it, and the only thing that talks to the
//! network.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use cap_std::{ambient_authority, fs::Dir};
use contract::{CloneFilter, Code, RepoUrl};
use sha2::{Digest as _, Sha256};
use workspace::Workspace;

use super::{
    Extent, Lfs, ObjectFormat, ObjectId, Refs, Transport,
    damage::{check_packs, remove_leftovers},
    foreign::{configuration, remove_foreign},
    refs,
};
use crate::{
    failure::{Failure, Result},
    git::{Command, Git},
    lock::Lock,
    staging::Staging,
};

/// What a mirror has of its repository.
const REFSPECS: &[u8] = b"+refs/heads/*:refs/heads/*\n+refs/tags/*:refs/tags/*\n";
/// So many references are fetched by their names. A host need not list all of its own for them.
const FEW: usize = 100;
/// `HEAD` of a mirror whose repository names no branch that is there.
const NO_HEAD: &[u8] = b"ref: refs/heads/.invalid\n";
/// Is there if the mirror may hold objects that no reference leads to any more.
pub(super) const UNREACHABLE: &str = "unreachable";
/// With more packs than this, looking objects up costs more than making one pack of them.
const MOST_PACKS: usize = 30;

/// Whether what is there is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Fetch what changed.
    Update,
    /// Fetch everything into a new mirror, which then replaces the old one.
    Rebuild,
}

/// A mirror as of now. No other pull reads or writes it while this lives.
pub(crate) struct Mirror<'a> {
    pub(super) git: &'a Git,
    path: PathBuf,
    refs: Refs,
    /// The contents of `HEAD`.
    pub(super) head: Vec<u8>,
    extent: Extent,
    lfs: Option<Lfs>,
    _lock: Lock,
}

impl<'a> Mirror<'a> {
    /// Brings the mirror of the transport's repository up to date, with the credentials of this pull.
    ///
    /// # Errors
    /// If the fetch fails: what the mirror already holds serves nobody who may not fetch it.
    pub(crate) fn fetch(
        git: &'a Git,
        transport: &Transport<'_>,
        workspace: &Workspace,
        staging: &Staging,
        extent: Extent,
        freshness: Freshness,
    ) -> Result<Self> {
        let path = location(workspace, transport.repo, extent);
        let lock = path.with_extension("lock");
        let monitor = &git.monitor;
        let lock = Lock::take(monitor, &lock, "Waiting for another pull of this repository")?;
        lock.mark_used();
        let lfs = extent.lfs.then(|| Lfs::new(&path, staging)).transpose()?;
        let (refs, head) = (Refs::new(), Vec::new());
        let mut mirror = Self { git, path, refs, head, extent, lfs, _lock: lock };
        let mut is_fresh = false;
        let is_there = fs::symlink_metadata(&mirror.path).is_ok_and(|found| found.is_dir());
        if freshness == Freshness::Update && is_there {
            remove_foreign(&mirror.path, extent)?;
            remove_leftovers(&mirror.path);
            monitor.message("Updating the mirror");
            match mirror.update(transport, staging) {
                Err(Failure::Git(what)) => {
                    tracing::warn!(%what, mirror = %mirror.path.display(), "a mirror is damaged");
                    monitor.message("The mirror is damaged: building it anew");
                }
                updated => is_fresh = updated.map(|()| true)?,
            }
        }
        if !is_fresh {
            monitor.message(format!("Cloning {}", transport.repo));
            mirror.create(transport, staging)?;
        }
        if !mirror.refs.keys().any(|name| name.starts_with(b"refs/heads/")) {
            return Err(Failure::told(
                Code::EmptyRepository,
                format!(
                    "{} has no commit yet: check the URL, or push one, then send the job again",
                    transport.repo
                ),
            ));
        }
        Ok(mirror)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Every branch and tag.
    pub(crate) fn refs(&self) -> &Refs {
        &self.refs
    }

    /// The remote's default branch, without `refs/heads/`.
    pub(crate) fn default(&self) -> Option<&[u8]> {
        let name = self.head.trim_ascii().strip_prefix(b"ref: refs/heads/")?;
        self.tip(name).is_some().then_some(name)
    }

    /// The commit of a branch, if the branch is there.
    pub(crate) fn tip(&self, branch: &[u8]) -> Option<&ObjectId> {
        self.refs.get([b"refs/heads/", branch].concat().as_slice())
    }

    /// A command on the mirror.
    pub(crate) fn command<'s>(
        &'s self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Command<'s> {
        self.git.command(arguments).git_dir(&self.path)
    }

    /// Makes sure that the mirror holds what its references lead to, in few packs, and nothing else: what
    /// was taken away upstream is to be in no new checkout.
    ///
    /// # Errors
    /// If git cannot repack.
    pub(crate) fn tidy(&self) -> Result<()> {
        let packs = self.path.join("objects/pack");
        let packs = fs::read_dir(&packs).map_err(Failure::io("list", &packs))?;
        let is_pack = |name: &OsStr| Path::new(name).extension() == Some(OsStr::new("pack"));
        let packs = packs.flatten().filter(|entry| is_pack(&entry.file_name())).count();
        let marker = self.path.join(UNREACHABLE);
        if packs <= MOST_PACKS && !marker.exists() {
            return Ok(());
        }
        self.command(["-c", "repack.writeBitmaps=false", "repack", "-a", "-d", "-n", "-q"])
            .output()?;
        self.command(["prune", "--expire=now"]).output()?;
        match fs::remove_file(&marker) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::io("remove", &marker)(error))
            }
            _ => Ok(()),
        }
    }

    /// Which objects the mirror leaves out until they are needed.
    pub(crate) fn filter(&self) -> Option<CloneFilter> {
        self.extent.filter
    }

    /// The commits whose parents it does not have.
    ///
    /// # Errors
    /// If the list of them cannot be read.
    pub(crate) fn shallow(&self) -> Result<Vec<ObjectId>> {
        let path = self.path.join("shallow");
        match fs::read(&path) {
            Ok(text) => Ok(text.split(|byte| *byte == b'\n').filter_map(ObjectId::parse).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(Failure::io("read", &path)(error)),
        }
    }

    /// What it takes to check out files in LFS, if they were asked for.
    pub(crate) fn lfs(&self) -> Option<Lfs> {
        self.lfs.clone()
    }

    /// Fetches the files of `id` that a filter has left out, and those in LFS if they were asked for.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub(crate) fn complete(&self, transport: &Transport<'_>, id: &ObjectId) -> Result<()> {
        self.complete_files(transport, id)?;
        if self.lfs.is_some() { self.fetch_lfs(transport, id) } else { Ok(()) }
    }

    /// Fetches the files of `id` that a filter has left out.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub(crate) fn complete_files(&self, transport: &Transport<'_>, id: &ObjectId) -> Result<()> {
        let Some(filter) = self.extent.filter else { return Ok(()) };
        self.fetch_missing(transport, id, filter)
    }

    fn fetch_missing(
        &self,
        transport: &Transport<'_>,
        id: &ObjectId,
        filter: CloneFilter,
    ) -> Result<()> {
        let listed = self
            .command(["rev-list", "--objects", "--no-walk", "--missing=print", id.as_str()])
            .output()?;
        let missing: Vec<&[u8]> = listed
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.strip_prefix(b"?"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let filter = format!("--filter={}", filter.as_str());
        // As git itself fetches what is missing, but all of it at once. `origin` has the address.
        let first = [
            "-c",
            "fetch.negotiationAlgorithm=noop",
            "fetch",
            "--progress",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--no-recurse-submodules",
            filter.as_str(),
            "--stdin",
            "origin",
        ];
        let input = missing.join(&b'\n');
        transport
            .run_at(self.git, &first, &[], None, |command| {
                command.git_dir(&self.path).input([input.as_slice(), b"\n"].concat())
            })
            .map(drop)
    }

    fn update(&mut self, transport: &Transport<'_>, staging: &Staging) -> Result<()> {
        let git = self.git;
        let path = self.path.clone();
        check_packs(&path.join("objects/pack"))?;
        let listed = transport.run(git, &["ls-remote", "--symref"], &[], |command| command)?.stdout;
        let mut wanted = refs::parse(&listed, b'\t');
        let detached = wanted.remove(b"HEAD".as_slice());
        wanted
            .retain(|name, _| name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/"));
        let format = wanted.values().next().map_or(ObjectFormat::Sha1, ObjectId::format);
        self.configure(transport, staging, format)?;
        let before = self.read_refs()?;
        if wanted != before {
            let first = [
                "fetch",
                "--progress",
                "--prune",
                "--no-tags",
                "--force",
                "--update-shallow",
                "--no-write-fetch-head",
                "--no-auto-maintenance",
                "--no-recurse-submodules",
                "--stdin",
            ];
            let specs = refspecs(&before, &wanted);
            transport
                .run(git, &first, &[], |command| command.git_dir(&path).input(specs.clone()))?;
        }
        self.refs = if wanted == before { before.clone() } else { self.read_refs()? };
        self.note_unreachable(&before)?;
        let symbolic = listed.split(|byte| *byte == b'\n').find_map(|line| {
            line.strip_prefix(b"ref: ").and_then(|line| line.strip_suffix(b"\tHEAD"))
        });
        let head = match (symbolic, detached) {
            (Some(name), _) if name.starts_with(b"refs/heads/") => [b"ref: ", name, b"\n"].concat(),
            (_, Some(id)) => format!("{id}\n").into_bytes(),
            (_, None) => NO_HEAD.to_vec(),
        };
        let file = self.path.join("HEAD");
        self.head = fs::read(&file).map_err(Failure::io("read", &file))?;
        if self.head != head {
            let new = self.path.join("HEAD.lock");
            fs::write(&new, &head).map_err(Failure::io("write", &new))?;
            fs::rename(&new, &file).map_err(Failure::io("put in place", &file))?;
            self.head = head;
        }
        Ok(())
    }

    /// Puts our configuration in the place of whatever is there.
    fn configure(
        &self,
        transport: &Transport<'_>,
        staging: &Staging,
        format: ObjectFormat,
    ) -> Result<()> {
        let new = staging.join("mirror-config");
        let text = configuration(transport.repo, format, self.extent);
        fs::write(&new, text).map_err(Failure::io("write", &new))?;
        let file = self.path.join("config");
        fs::rename(&new, &file).map_err(Failure::io("put in place", &file))
    }

    /// Leaves a mark if something that the references led to before is reachable no more.
    fn note_unreachable(&self, before: &Refs) -> Result<()> {
        let changed = || before.iter().filter(|(name, id)| self.refs.get(*name) != Some(*id));
        let gone: BTreeSet<&ObjectId> = changed().map(|(_, id)| id).collect();
        // Most have just moved on, which is cheaper to see than what all references lead to.
        let moved: BTreeSet<&ObjectId> =
            changed().filter_map(|(name, _)| self.refs.get(name)).collect();
        if gone.is_empty()
            || self.lead_to(&moved, &gone)?
            || self.lead_to(&self.refs.values().collect(), &gone)?
        {
            return Ok(());
        }
        let marker = self.path.join(UNREACHABLE);
        fs::write(&marker, "").map_err(Failure::io("write", &marker))
    }

    /// Whether `tips` lead to everything that `ids` lead to.
    fn lead_to(&self, tips: &BTreeSet<&ObjectId>, ids: &BTreeSet<&ObjectId>) -> Result<bool> {
        let lines = ids.iter().map(|id| format!("{id}\n"));
        let lines = lines.chain(tips.iter().map(|id| format!("^{id}\n")));
        let input = lines.collect::<String>().into_bytes();
        let command = self.command(["rev-list", "--max-count=1", "--ignore-missing", "--stdin"]);
        let output = command.input(input).run()?;
        Ok(output.status.success() && output.stdout.is_empty())
    }

    fn read_refs(&self) -> Result<Refs> {
        let failed = |error| Failure::io("read the references of", &self.path)(error);
        let directory = Dir::open_ambient_dir(&self.path, ambient_authority()).map_err(failed)?;
        let read = |name: &Path, _| match directory.read(name) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        };
        // Whatever is wrong with them, a new mirror has better ones.
        let refs = refs::read(&directory, &read);
        let refs = refs.map_err(|failure| Failure::Git(failure.to_string()))?;
        let is_ours =
            |name: &Vec<u8>| name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/");
        match refs.keys().find(|name| !is_ours(name)) {
            // What it leads to would be taken for the remote's.
            Some(name) => {
                Err(Failure::Git(format!("{} is not of a mirror", String::from_utf8_lossy(name))))
            }
            None => Ok(refs),
        }
    }

    /// Makes a mirror in `staging` and renames it into place, so that half a mirror is never there.
    fn create(&mut self, transport: &Transport<'_>, staging: &Staging) -> Result<()> {
        let making = staging.directory("mirror")?;
        let extent = self.extent.options();
        let first = ["clone", "--bare", "--no-local", "--template=", "--progress"].into_iter();
        let first: Vec<_> = first.chain(extent.iter().map(String::as_str)).chain(["--"]).collect();
        let cloned = transport
            .run(self.git, &first, &[making.as_os_str()], |command| command.writes(&making));
        match cloned {
            Err(Failure::Git(what)) => return Err(super::unusable(transport.repo, &what)),
            other => other?,
        };
        let old = staging.join("old-mirror");
        match fs::rename(&self.path, &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::io("move away", &self.path)(error));
            }
            _ => {}
        }
        fs::rename(&making, &self.path).map_err(Failure::io("put in place", &self.path))?;
        self.refs = self.read_refs()?;
        let format = self.refs.values().next().map_or(ObjectFormat::Sha1, ObjectId::format);
        self.configure(transport, staging, format)?;
        let file = self.path.join("HEAD");
        self.head = fs::read(&file).map_err(Failure::io("read", &file))?;
        Ok(())
    }
}

/// Where the mirror of so much of `repo` is, or would be.
pub(crate) fn location(workspace: &Workspace, repo: &RepoUrl, extent: Extent) -> PathBuf {
    let name: String = Sha256::digest(repo.mirror_key() + &extent.key())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    workspace.mirrors().join(name + ".git")
}

/// What to fetch to make `wanted` of `before`: all references if some are gone or many have changed.
fn refspecs(before: &Refs, wanted: &Refs) -> Vec<u8> {
    let changed: Vec<&Vec<u8>> = wanted
        .iter()
        .filter(|(name, id)| before.get(*name) != Some(*id))
        .map(|(name, _)| name)
        .collect();
    if changed.len() > FEW || before.keys().any(|name| !wanted.contains_key(name)) {
        return REFSPECS.to_vec();
    }
    changed
        .into_iter()
        .flat_map(|name| [b"+", name.as_slice(), b":", name, b"\n"].concat())
        .collect()
}
