//! The steps of a delivery.

use contract::{Code, Commits, Deliver, DeliverMode, DeliveryBranch};

use super::{
    Delivered,
    branch::{self, Owner},
    check,
    commit::{Committer, Words},
    forge::Asked,
    placement::Placement,
    push::{self, Push, Pushed},
    refuse,
    rules::{self, SHOWN},
    source::Source,
};
use crate::{
    changes::{self, Skipped},
    drive::Site,
    failure::{Failure, Result},
    git::Git,
    remote::{Freshness, Mirror, ObjectId, Transport},
    staging::Staging,
};

/// How often a branch that moves while it is pushed is looked at again.
const TRIES: usize = 3;

/// Delivers. Blocks; call it within a runtime.
///
/// # Errors
/// Why nothing was pushed, or why there is no pull request for what was pushed.
pub(super) fn run(site: &Site<'_>, source: &Source, deliver: &Deliver) -> Result<Delivered> {
    push::check_scheme(source)?;
    site.access.check_push(&source.repo)?;
    let settings = &site.config.deliver;
    // Before anything is pushed: a host that cannot be asked is no surprise afterwards.
    let forge = match deliver.mode {
        DeliverMode::Branch => None,
        DeliverMode::PullRequest => Some(settings.forges.of(&source.repo)?.connect(site, source)?),
    };
    let words = Words::of(source, deliver);
    check::check_words(site, source, &words)?;
    let staging = site.staging()?;
    let git = site.git(&staging)?;
    let transport = Transport::new(&site.access, &source.repo);
    let delivery = Delivery {
        site,
        source,
        deliver,
        words,
        git: &git,
        staging: &staging,
        transport: &transport,
        forge,
    };
    let mut tries = 0;
    loop {
        match delivery.attempt()? {
            Attempt::Delivered(delivered) => return Ok(delivered),
            Attempt::Moved(failure) => {
                tries += 1;
                if tries == TRIES {
                    return Err(failure);
                }
            }
        }
        site.monitor.message("The branch has just been changed by somebody else: looking again");
    }
}

struct Delivery<'a> {
    site: &'a Site<'a>,
    source: &'a Source,
    deliver: &'a Deliver,
    words: Words,
    git: &'a Git,
    staging: &'a Staging,
    transport: &'a Transport<'a>,
    forge: Option<Asked<'a>>,
}

enum Attempt {
    Delivered(Delivered),
    /// The branch was moved meanwhile. This is what the host said.
    Moved(Failure),
}

/// The repository as it is now.
struct Upstream {
    /// The branch that the result is based on.
    base: Option<(DeliveryBranch, ObjectId)>,
    /// The last commit of the branch to be pushed.
    tip: Option<ObjectId>,
}

impl Delivery<'_> {
    fn attempt(&self) -> Result<Attempt> {
        let Self { site, source, deliver, words, git, staging, transport, .. } = self;
        let settings = &site.config.deliver;
        let workspace = site.workspace();
        let mirror =
            Mirror::fetch(git, transport, workspace, staging, source.extent, Freshness::Update)?;
        let branch = self.branch()?;
        let upstream = self.upstream(&mirror, &branch)?;
        let author = &settings.author;
        let base_tip = upstream.base.as_ref().map(|(_, tip)| tip);
        let owner = match &upstream.tip {
            Some(tip) => Some(branch::owner(&mirror, tip, base_tip, source, author)?),
            None => None,
        };
        let fork = match owner {
            Some(Owner::Delivered { commit, is_merged }) => {
                return self.found(branch, &commit, is_merged, &upstream);
            }
            Some(Owner::Merged) => {
                let sentence = format!(
                    "the branch '{branch}' of {} was merged since: deliver to another branch",
                    source.repo
                );
                return refuse(Code::BranchExists, sentence);
            }
            Some(Owner::Other) => {
                let sentence = format!(
                    "the branch '{branch}' of {} exists, and its last commit is not that of a delivery of this job or its \
                     session: deliver to another branch",
                    source.repo
                );
                return refuse(Code::BranchExists, sentence);
            }
            Some(Owner::Session { fork }) => fork,
            None => None,
        };
        let checkout = source.checkout()?;
        // A mirror that leaves files out until they are needed has none of what came since the pull.
        for commit in [base_tip, upstream.tip.as_ref(), fork.as_ref()].into_iter().flatten() {
            mirror.complete_files(transport, commit)?;
        }
        let taken = changes::take(
            git,
            staging,
            &changes::Source {
                workspace,
                repo: &source.repo,
                extent: source.extent,
                uses_lfs: true,
                checkout,
                base: &source.base,
            },
        )?;
        // Its objects have second names now.
        drop(mirror);
        taken.check_whole()?;
        self.say_skipped(&taken.skipped);
        let time = source.created.as_millisecond() / 1000;
        let committer = Committer { control: &taken.control, author, given: &taken.base, time };
        let monitor = &site.monitor;
        let placement = Placement { monitor, git, staging, source, taken: &taken, committer };
        let (parent, tree) = match &upstream.tip {
            Some(tip) => (tip.clone(), placement.on_top_of(tip, fork.as_ref())?),
            None => placement.on_base(upstream.base.as_ref())?,
        };
        if tree == placement.committer.tree_of(&parent)? {
            let sentence =
                "there is nothing to deliver: the agent changed no file that git does not ignore";
            return refuse(Code::NothingToDeliver, sentence);
        }
        let kept = match (deliver.commits, &upstream.tip) {
            (Commits::Squash, _) => None,
            (Commits::Keep, None) => placement.keep(&parent, &tree, words)?,
            (Commits::Keep, Some(_)) => {
                let why =
                    "The branch has an earlier result of this session: adding one commit to it";
                monitor.message(why);
                None
            }
        };
        let line = match kept {
            Some(line) => line,
            None => placement.squash(&parent, &tree, words)?,
        };
        let what = (*git, *source, &taken.control);
        let uploads = check::check(site, staging, what, &line, deliver.allow_protected)?;
        // A pointer is nothing without what it points to.
        uploads.run(git, monitor, transport, &taken.control, &taken.base)?;
        monitor.message(format!("Pushing {} to {branch}", line.end.short()));
        let is_new = upstream.tip.is_none();
        let options = match (&self.forge, &upstream.base) {
            (Some(forge), Some((base, _))) => {
                forge.push_options(base, deliver, words, source, settings, is_new)
            }
            _ => Vec::new(),
        };
        let from = upstream.tip.as_ref();
        let push = Push { branch: &branch, from, to: &line.end, options: &options };
        Ok(match push.run(git, &taken.control, transport)? {
            Pushed::Moved(failure) => Attempt::Moved(failure),
            Pushed::Done(said) => {
                let url = self.pull_request(&branch, &upstream, Some(&said))?;
                let commit = line.end.to_string();
                Attempt::Delivered(Delivered { branch, commit, url })
            }
        })
    }

    /// The result is at the host already, as `commit`. Whatever became of the checkout since.
    fn found(
        &self,
        branch: DeliveryBranch,
        commit: &ObjectId,
        is_merged: bool,
        upstream: &Upstream,
    ) -> Result<Attempt> {
        let monitor = &self.site.monitor;
        let merged = if is_merged { ", and was merged" } else { "" };
        monitor.message(format!(
            "The branch '{branch}' has the result already{merged}: its commits stay as they are"
        ));
        let url = if is_merged { None } else { self.pull_request(&branch, upstream, None)? };
        Ok(Attempt::Delivered(Delivered { branch, commit: commit.to_string(), url }))
    }

    /// The branch that is pushed. All jobs that return to the checkout of a job have the same.
    fn branch(&self) -> Result<DeliveryBranch> {
        if let Some(branch) = &self.deliver.branch {
            return Ok(branch.clone());
        }
        let id = self.source.first.to_string();
        let end = id.get(id.len().saturating_sub(8)..).unwrap_or(&id);
        DeliveryBranch::parse(&format!("agent/{end}"))
            .map_err(|why| Failure::told(Code::Internal, why))
    }

    fn upstream(&self, mirror: &Mirror<'_>, branch: &DeliveryBranch) -> Result<Upstream> {
        let Self { source, deliver, .. } = self;
        let tip_of = |name: &str| mirror.tip(name.as_bytes()).cloned();
        let pulled = source.branch.as_ref().map(|name| name.as_str().to_owned());
        let default = mirror.default().map(|name| String::from_utf8_lossy(name).into_owned());
        if default.as_deref() == Some(branch.as_str()) {
            let sentence = format!(
                "'branch': '{branch}' is the default branch of {}: deliver to another branch",
                source.repo
            );
            return refuse(Code::BranchExists, sentence);
        }
        let name = match &deliver.base {
            Some(base) => Some(base.to_string()),
            // A tag or a commit was pulled. Only a pull request needs a branch to go to.
            None if pulled.is_none() && deliver.mode == DeliverMode::Branch => None,
            None => pulled.or(default),
        };
        let base = name.and_then(|name| Some((DeliveryBranch::parse(&name).ok()?, tip_of(&name)?)));
        if base.is_none() && (deliver.base.is_some() || deliver.mode == DeliverMode::PullRequest) {
            let what =
                deliver.base.as_ref().map_or("its own".to_owned(), |base| format!("'{base}'"));
            let sentence = format!(
                "{} has no branch {what} that the result could be based on: name one in \"base\"",
                source.repo
            );
            return refuse(Code::BranchNotFound, sentence);
        }
        if base.as_ref().is_some_and(|(base, _)| base == branch) {
            let sentence = format!(
                "'branch': '{branch}' is the branch that the result is based on: deliver to another branch"
            );
            return refuse(Code::BranchExists, sentence);
        }
        Ok(Upstream { base, tip: tip_of(branch.as_str()) })
    }

    fn say_skipped(&self, skipped: &[Skipped]) {
        for it in skipped.iter().take(SHOWN) {
            let path = crate::failure::quote(&rules::shown(&it.path), &[]);
            self.site.monitor.message(format!("Left out: {path} ({})", it.reason.words()));
        }
        if let more @ 1.. = skipped.len().saturating_sub(SHOWN) {
            self.site.monitor.message(format!("Left out: {more} more"));
        }
    }

    /// The pull request for the branch, if one is asked for. `said` is what the host answered to the push.
    fn pull_request(
        &self,
        branch: &DeliveryBranch,
        upstream: &Upstream,
        said: Option<&str>,
    ) -> Result<Option<String>> {
        let (Some(forge), Some((base, _))) = (&self.forge, &upstream.base) else { return Ok(None) };
        forge.open(self.site, self.source, self.deliver, (branch, base), &self.words, said)
    }
}
