//! Git's work, all of it blocking: nothing outside this module uses `git2`, and it runs on a thread
//! of the blocking pool.
//!
//! A pull is: look at the target, bring the mirror up to date ([`mirror`]), then make a checkout from
//! it ([`clone`]) or update the one that is there ([`update`]).

mod aside;
mod changes;
mod clone;
mod existing;
mod fetch;
mod lock;
mod mirror;
mod movement;
mod origin;
mod refs;
mod settings;
mod shadow;
mod signals;
mod swap;
mod trouble;
mod update;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use contract::{BranchName, Code, FileRepositories, JobId, RepoUrl, Scheme};
use oneshot::Stop;
use workspace::Workspace;

use self::{
    aside::Aside,
    existing::Found,
    lock::Lock,
    mirror::{Freshness, Mirror},
    signals::Quiet,
};
use crate::{
    Config,
    failure::{Failure, Result},
    report::Reporter,
};

pub(crate) use self::trouble::stalled;

/// One pull.
pub(crate) struct Job {
    pub(crate) config: Arc<Config>,
    pub(crate) id: JobId,
    pub(crate) workspace: Workspace,
    pub(crate) repo: RepoUrl,
    pub(crate) branch: Option<BranchName>,
    pub(crate) target: PathBuf,
    pub(crate) reporter: Reporter,
    pub(crate) stop: Stop,
}

/// What there is at the end of a pull.
#[derive(Debug)]
pub(crate) struct Done {
    /// The branch that is checked out, if its name is one that callers can use.
    pub(crate) branch: Option<BranchName>,
    /// The commit that is checked out.
    pub(crate) commit: String,
}

impl Job {
    /// Where things in the making are; gone when the pull ends.
    pub(crate) fn aside(&self) -> PathBuf {
        self.workspace.temporary().join(self.id.to_string())
    }

    fn should_stop(&self) -> bool {
        self.stop.reason().is_some() || self.reporter.is_abandoned()
    }

    fn check_stop(&self) -> Result<()> {
        if self.should_stop() { Err(Failure::Stopped) } else { Ok(()) }
    }

    fn message(&self, text: impl Into<String>) {
        self.reporter.message(text);
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
        Lock::take(self, &path, "Waiting for another pull into this directory").map(Some)
    }
}

/// Clones or updates.
///
/// # Errors
/// Why there is no checkout; the target is as it was.
pub(crate) fn run(job: &Job) -> Result<Done> {
    let _quiet = Quiet::begin();
    settings::apply_once(job.config.stall)?;
    if job.repo.scheme() == Scheme::File
        && job.config.policy.file_repositories == FileRepositories::Refused
    {
        let sentence =
            "repositories on the server's own disk are not allowed here: use https or ssh";
        return Err(Failure::told(Code::SchemeNotAllowed, sentence));
    }
    let aside = Aside::create(job)?;
    let _turn = job.lock_target()?;
    // Before anything is asked of the network: a target that cannot be used fails at once.
    existing::look(job)?;
    let mut freshness = Freshness::Update;
    loop {
        job.check_stop()?;
        let mirror = Mirror::fetch(job, &aside, freshness)?;
        let found = existing::look(job)?;
        let result = match &found {
            Found::Nothing | Found::EmptyDirectory => clone::clone(job, &aside, mirror),
            Found::Checkout(checkout) => update::update(job, &aside, mirror, checkout).map(Some),
        };
        match (result, freshness) {
            (Ok(Some(done)), _) => return Ok(done),
            // The target appeared meanwhile.
            (Ok(None), _) => {}
            (Err(Failure::Damaged(what)), Freshness::Update) => {
                tracing::warn!(job = %job.id, %what, "building the mirror anew");
                job.message("The mirror is damaged: building it anew");
                freshness = Freshness::Rebuild;
            }
            (Err(Failure::Damaged(what)), Freshness::Rebuild)
                if matches!(found, Found::Checkout(_)) =>
            {
                tracing::warn!(job = %job.id, %what, "the checkout is damaged");
                return Err(not_a_repository(
                    &job.target,
                    "git cannot read it: remove the directory, then send the job again",
                ));
            }
            (Err(failure), _) => return Err(failure),
        }
        aside.clear()?;
    }
}

/// Removes what a pull left behind whose thread is still stuck.
pub(crate) fn remove_leftovers(aside: PathBuf) {
    // In a thread of its own: the one who calls is not to wait for a slow volume. The next pull
    // removes what this one does not get done before the process ends.
    std::thread::spawn(move || aside::remove(&aside));
}

fn not_a_repository(target: &Path, why: &str) -> Failure {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    Failure::told(
        Code::NotARepository,
        format!("'{name}' is not a clone that can be updated: {why}"),
    )
}

/// Creates a directory unless it is there.
fn create_dir(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Failure::io("create", path)(error))
        }
        _ => Ok(()),
    }
}
