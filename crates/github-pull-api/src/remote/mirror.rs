//! The mirror of a repository: shared by all pulls of it, and the only thing that talks to the network.
//!
//! A mirror on the volume is data: objects, and files with what refers to them. git works on it in a control directory of ours,
//! which is not on the volume, and borrows its objects. So git obeys nothing that somebody puts into a mirror, whenever that is.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use contract::{CloneFilter, Code, RepoUrl};
use sha2::{Digest as _, Sha256};
use workspace::Workspace;

use super::{
    Extent, Lfs, ObjectFormat, ObjectId, Refs, Transport,
    damage::{check_packs, clean},
    layout::{UNREACHABLE, borrow_objects, read_if_there},
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
    pub(super) path: PathBuf,
    /// Where git works on it.
    pub(super) control: PathBuf,
    pub(super) refs: Refs,
    /// The contents of `HEAD`.
    pub(super) head: Vec<u8>,
    pub(super) extent: Extent,
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
        let (refs, head, control) = (Refs::new(), Vec::new(), PathBuf::new());
        let mut mirror = Self { git, path, control, refs, head, extent, lfs, _lock: lock };
        let mut is_fresh = false;
        let is_there = fs::symlink_metadata(&mirror.path).is_ok_and(|found| found.is_dir());
        if freshness == Freshness::Update && is_there {
            monitor.message("Updating the mirror");
            match mirror.update(transport) {
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
        self.place(self.git.command(arguments))
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
        self.unmark_unreachable()
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
        let text = read_if_there(&self.control.join("shallow"))?.unwrap_or_default();
        Ok(text.split(|byte| *byte == b'\n').filter_map(ObjectId::parse).collect())
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
                self.place(command).input([input.as_slice(), b"\n"].concat())
            })
            .map(drop)
    }

    fn update(&mut self, transport: &Transport<'_>) -> Result<()> {
        clean(&self.path)?;
        check_packs(&self.path.join("objects/pack"))?;
        let git = self.git;
        let listed = transport.run(git, &["ls-remote", "--symref"], &[], |command| command)?.stdout;
        let mut wanted = refs::parse(&listed, b'\t');
        let detached = wanted.remove(b"HEAD".as_slice());
        wanted
            .retain(|name, _| name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/"));
        let format = wanted.values().next().map_or(ObjectFormat::Sha1, ObjectId::format);
        let symbolic = listed.split(|byte| *byte == b'\n').find_map(|line| {
            line.strip_prefix(b"ref: ").and_then(|line| line.strip_suffix(b"\tHEAD"))
        });
        self.head = match (symbolic, detached) {
            (Some(name), _) if name.starts_with(b"refs/heads/") => [b"ref: ", name, b"\n"].concat(),
            (_, Some(id)) => format!("{id}\n").into_bytes(),
            (_, None) => NO_HEAD.to_vec(),
        };
        let before = self.read_refs(&self.path)?;
        let shallow = read_if_there(&self.path.join("shallow"))?;
        self.control = git.private("mirror")?;
        self.write_control(transport, format, &before, shallow.as_deref())?;
        self.refs = before.clone();
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
            // What a killed pull has fetched may be taken away upstream before the next one.
            let was_marked = self.mark_unreachable()?;
            transport.run(git, &first, &[], |command| self.place(command).input(specs.clone()))?;
            self.refs = self.read_refs(&self.control)?;
            let is_marked = was_marked || self.has_lost(&before)?;
            self.publish(&self.path)?;
            return if is_marked { Ok(()) } else { self.unmark_unreachable() };
        }
        self.publish(&self.path)
    }

    /// Whether something that the references led to `before` is reachable no more.
    fn has_lost(&self, before: &Refs) -> Result<bool> {
        let changed = || before.iter().filter(|(name, id)| self.refs.get(*name) != Some(*id));
        let gone: BTreeSet<&ObjectId> = changed().map(|(_, id)| id).collect();
        // Most have just moved on, which is cheaper to see than what all references lead to.
        let moved: BTreeSet<&ObjectId> =
            changed().filter_map(|(name, _)| self.refs.get(name)).collect();
        Ok(!(gone.is_empty()
            || self.lead_to(&moved, &gone)?
            || self.lead_to(&self.refs.values().collect(), &gone)?))
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

    /// Makes a mirror in `staging` and renames it into place, so that half a mirror is never there.
    fn create(&mut self, transport: &Transport<'_>, staging: &Staging) -> Result<()> {
        let making = staging.directory("mirror")?;
        let objects = making.join("objects");
        fs::create_dir(&objects).map_err(Failure::io("create", &objects))?;
        self.control = self.git.private("mirror")?;
        let extent = self.extent.options();
        let first = ["clone", "--bare", "--no-local", "--template=", "--progress"].into_iter();
        let first: Vec<_> = first.chain(extent.iter().map(String::as_str)).chain(["--"]).collect();
        let cloned = transport.run(self.git, &first, &[self.control.as_os_str()], |command| {
            borrow_objects(command.writes(&self.control), &making)
        });
        match cloned {
            Err(Failure::Git(what)) => return Err(super::unusable(transport.repo, &what)),
            other => other?,
        };
        self.refs = self.read_refs(&self.control)?;
        let file = self.control.join("HEAD");
        self.head = fs::read(&file).map_err(Failure::io("read", &file))?;
        let format = self.refs.values().next().map_or(ObjectFormat::Sha1, ObjectId::format);
        self.write_control(transport, format, &self.refs, None)?;
        self.publish(&making)?;
        let old = staging.join("old-mirror");
        match fs::rename(&self.path, &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::io("move away", &self.path)(error));
            }
            _ => {}
        }
        fs::rename(&making, &self.path).map_err(Failure::io("put in place", &self.path))
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
