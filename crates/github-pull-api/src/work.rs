//! The steps of a pull: look at the target, bring the mirror up to date, then make a checkout from it or
//! update the one that is there.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use contract::{BranchName, Code, FileRepositories, JobId, PullRequest, RepoUrl, Scheme};
use workspace::{UserIds, Workspace, take_back_if_left};

use crate::{
    Config,
    checkout::{self, Done, Found, Submodule, Update},
    failure::{Failure, Result, quote},
    git::Git,
    lock::Lock,
    monitor::Monitor,
    remote::{self, Access, Extent, Freshness, Mirror, ObjectId, Transport},
    staging::Staging,
};

/// One pull.
pub(crate) struct Work {
    pub(crate) config: Arc<Config>,
    pub(crate) id: JobId,
    pub(crate) workspace: Workspace,
    pub(crate) request: PullRequest,
    pub(crate) target: PathBuf,
    pub(crate) monitor: Monitor,
    /// How long the job may run.
    pub(crate) deadline: Duration,
}

/// How deep submodules may be nested, and how many there may be at each level.
const DEEPEST: usize = 8;
const MOST_SUBMODULES: usize = 200;

/// Clones or updates. Blocks; call it within a runtime.
///
/// # Errors
/// Why there is no checkout; the target is as it was, but for submodules that came before.
pub(crate) fn run(work: &Work, access: &Access<'_>) -> Result<Done> {
    let Work { config, request, target, monitor, workspace, .. } = work;
    let repo = &request.repo_url;
    if repo.scheme() == Scheme::File && config.policy.file_repositories == FileRepositories::Refused
    {
        let sentence =
            "repositories on the server's own disk are not allowed here: use https or ssh";
        return Err(Failure::told(Code::SchemeNotAllowed, sentence));
    }
    let staging = Staging::create(monitor, workspace.temporary().join(work.id.to_string()))?;
    let git = Git::new(config, monitor.clone(), &staging, work.deadline)?;
    let _turn = work.lock_target()?;
    work.take_back_target()?;
    let mut lfs = request.options.lfs;
    if lfs && let Some(obstacle) = remote::lfs_obstacle(&git)? {
        monitor.message(format!("Files in Git LFS stay pointers: {obstacle}"));
        lfs = false;
    }
    Site { work, access, git, staging, lfs }.pull(repo, request.branch.as_ref(), target, 0)
}

/// Where a pull works.
struct Site<'a> {
    work: &'a Work,
    access: &'a Access<'a>,
    git: Git,
    staging: Staging,
    /// Whether files in LFS are fetched.
    lfs: bool,
}

impl Site<'_> {
    /// Makes `target` a checkout of `repo`. `level` counts the checkouts that it lies in.
    fn pull(
        &self,
        repo: &RepoUrl,
        branch: Option<&BranchName>,
        target: &Path,
        level: usize,
    ) -> Result<Done> {
        let Self { work, git, staging, .. } = self;
        let monitor = &work.monitor;
        let transport = Transport::new(self.access, repo);
        let options = &work.request.options;
        // A submodule's commit need not be among the last ones.
        let depth = options.depth.filter(|_| level == 0);
        let asked = Extent { depth, filter: options.filter, lfs: self.lfs };
        let mut freshness = Freshness::Update;
        loop {
            monitor.check_stop()?;
            // Before anything is asked of the network: a target that cannot be used fails at once.
            let found = checkout::look(git, target, repo)?;
            let extent = found.extent(asked);
            let mirror =
                Mirror::fetch(git, &transport, &work.workspace, staging, extent, freshness)?;
            let result = match &found {
                Found::Nothing | Found::EmptyDirectory => {
                    self.create(mirror, &transport, branch, target, level)
                }
                Found::Checkout(existing) => {
                    let reset = options.reset.then_some(work.id);
                    let transport = &transport;
                    let update =
                        Update { git, staging, target, existing, repo, transport, branch, reset };
                    checkout::update(&update, mirror).and_then(|done| {
                        self.pull_submodules(repo, &done, target, level)?;
                        Ok(Some(done))
                    })
                }
            };
            match (result, freshness) {
                (Ok(Some(done)), _) => return Ok(done),
                // The target appeared meanwhile.
                (Ok(None), _) => {}
                (Err(Failure::Git(what)), Freshness::Update) => {
                    tracing::warn!(job = %work.id, %what, "building the mirror anew");
                    monitor.message("The mirror is damaged: building it anew");
                    freshness = Freshness::Rebuild;
                }
                (Err(Failure::Git(what)), Freshness::Rebuild) => {
                    return Err(remote::unusable(repo, &quote(&what, &[])));
                }
                (Err(failure), _) => return Err(failure),
            }
        }
    }

    fn create(
        &self,
        mirror: Mirror<'_>,
        transport: &Transport<'_>,
        branch: Option<&BranchName>,
        target: &Path,
        level: usize,
    ) -> Result<Option<Done>> {
        let repo = transport.repo;
        let making = self.staging.directory(&format!("checkout-{level}"))?;
        let wanted = mirror.find(repo, branch)?;
        mirror.complete(transport, wanted.id())?;
        let done = checkout::make(&self.git, mirror, &wanted, repo.address(), &making)?;
        self.pull_submodules(repo, &done, &making, level)?;
        let placed = checkout::place(&self.work.monitor, &making, target)?;
        Ok(placed.then_some(done))
    }

    /// Makes the submodules of a checkout what its commit says, if they are asked for.
    fn pull_submodules(
        &self,
        repo: &RepoUrl,
        done: &Done,
        target: &Path,
        level: usize,
    ) -> Result<()> {
        if !self.work.request.options.submodules {
            return Ok(());
        }
        let found = checkout::look(&self.git, target, repo)?;
        let Found::Checkout(existing) = found else { return Ok(()) };
        let Some(id) = ObjectId::parse(done.commit.as_bytes()) else { return Ok(()) };
        let policy = &self.work.config.policy;
        let (git, staging) = (&self.git, &self.staging);
        let found = checkout::submodules(git, staging, &existing, (target, repo), &id, policy)?;
        if found.len() > MOST_SUBMODULES || (level >= DEEPEST && !found.is_empty()) {
            let sentence = format!(
                "{repo} has more submodules than are checked out: {MOST_SUBMODULES} of them, {DEEPEST} levels \
                 deep"
            );
            return Err(Failure::told(Code::RepositoryInvalid, sentence));
        }
        for Submodule { path, repo, id } in found {
            let path = Path::new(OsStr::from_bytes(&path));
            self.work.monitor.message(format!("Submodule {}", path.display()));
            let commit = BranchName::parse(id.as_str()).map_err(Failure::Git)?;
            self.pull(&repo, Some(&commit), &target.join(path), level + 1)?;
        }
        Ok(())
    }
}

impl Work {
    /// Takes the target back from an agent whose replica was killed: git runs without the rights to work in it.
    fn take_back_target(&self) -> Result<()> {
        let Some(agent) = &self.config.agent_user else { return Ok(()) };
        let agent = UserIds { uid: agent.uid, gid: agent.gid };
        let check = || {
            let stopped = self.monitor.should_stop();
            if stopped { Err(std::io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        };
        let taken = take_back_if_left(&self.target, agent, &check);
        self.monitor.check_stop()?;
        taken.map_err(Failure::io("take back", &self.target))
    }

    /// The lock of the target, if others can name it too: two pulls into one directory take turns.
    fn lock_target(&self) -> Result<Option<Lock>> {
        if self.target.parent() != Some(self.workspace.root()) {
            return Ok(None);
        }
        let Some(name) = self.target.file_name() else { return Ok(None) };
        let mut name = name.to_owned();
        name.push(".pull");
        let path = self.workspace.checkouts().join(name);
        Lock::take(&self.monitor, &path, "Waiting for another pull into this directory").map(Some)
    }
}
