//! The steps of a pull: look at the target, bring the mirror up to date, then make a checkout from it or
//! update the one that is there.

use std::{path::PathBuf, sync::Arc, time::Duration};

use contract::{Code, FileRepositories, JobId, PullRequest, Scheme};
use workspace::Workspace;

use crate::{
    Config,
    checkout::{self, Done, Found, Update},
    connector::Connector,
    failure::{Failure, Result, quote},
    git::Git,
    lock::Lock,
    monitor::Monitor,
    remote::{self, Freshness, Mirror, Transport},
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

/// Clones or updates. Blocks; call it within a runtime.
///
/// # Errors
/// Why there is no checkout; the target is as it was.
pub(crate) fn run(work: &Work, connector: Connector) -> Result<Done> {
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
    let transport = Transport::new(config, repo, connector);
    let _turn = work.lock_target()?;
    // Before anything is asked of the network: a target that cannot be used fails at once.
    checkout::look(target, repo)?;
    let mut freshness = Freshness::Update;
    loop {
        monitor.check_stop()?;
        let mirror = Mirror::fetch(&git, &transport, workspace, &staging, freshness)?;
        let found = checkout::look(target, repo)?;
        let result = match &found {
            Found::Nothing | Found::EmptyDirectory => {
                let branch = request.branch.as_ref();
                mirror.find(repo, branch).and_then(|wanted| {
                    checkout::create(&git, &staging, mirror, &wanted, repo.address(), target)
                })
            }
            Found::Checkout(existing) => {
                let update = Update {
                    git: &git,
                    staging: &staging,
                    target,
                    existing,
                    repo,
                    branch: request.branch.as_ref(),
                    reset: request.options.reset.then_some(work.id),
                };
                checkout::update(&update, mirror).map(Some)
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

impl Work {
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
