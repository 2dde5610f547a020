//! The steps of a delivery.

use contract::{Code, Commits, Deliver, DeliverMode, DeliveryBranch, SkipReason};

use super::{
    Delivered,
    commit::{self, Committer, Owner, Words},
    forge::Forge,
    push::{self, Push, Pushed},
    refuse, rules,
    source::Source,
};
use crate::{
    changes::{self, Skipped, Taken},
    drive::Site,
    failure::{Failure, Result},
    git::Git,
    remote::{Freshness, Logins, Mirror, ObjectId, Transport},
    staging::Staging,
};

/// How often a branch that moves while it is pushed is looked at again.
const TRIES: usize = 3;
/// How many paths a message names.
const SHOWN: usize = 5;

/// Delivers. Blocks; call it within a runtime.
///
/// # Errors
/// Why nothing was pushed, or why there is no pull request for what was pushed.
pub(super) fn run(site: &Site<'_>, source: &Source, deliver: &Deliver) -> Result<Delivered> {
    push::check_scheme(source)?;
    let settings = &site.config.deliver;
    let forge = match deliver.mode {
        DeliverMode::Branch => None,
        // Before anything is pushed: a host that cannot be asked is no surprise afterwards.
        DeliverMode::PullRequest => Some(settings.forges.of(&source.repo)?),
    };
    let staging = site.staging()?;
    let git = site.git(&staging)?;
    let transport = Transport::new(&site.config, &source.repo, site.connector);
    let delivery =
        Delivery { site, source, deliver, git: &git, staging: &staging, transport: &transport };
    for _ in 0..TRIES {
        if let Some(delivered) = delivery.attempt(forge.as_ref())? {
            return Ok(delivered);
        }
        site.monitor.message("The branch has just been changed by somebody else: looking again");
    }
    refuse(Code::PushRejected, "the branch changes all the time: deliver to another branch")
}

struct Delivery<'a> {
    site: &'a Site<'a>,
    source: &'a Source,
    deliver: &'a Deliver,
    git: &'a Git,
    staging: &'a Staging,
    transport: &'a Transport<'a>,
}

/// The repository as it is now.
struct Upstream {
    /// The branch that the result is based on.
    base: Option<(DeliveryBranch, ObjectId)>,
    /// The last commit of the branch to be pushed.
    tip: Option<ObjectId>,
}

impl Delivery<'_> {
    /// Delivers, or returns `None` if the branch has moved meanwhile.
    fn attempt(&self, forge: Option<&Forge>) -> Result<Option<Delivered>> {
        let Self { site, source, deliver, git, staging, transport } = self;
        let settings = &site.config.deliver;
        let workspace = site.workspace();
        let mirror =
            Mirror::fetch(git, transport, workspace, staging, source.extent, Freshness::Update)?;
        let branch = self.branch()?;
        let upstream = self.upstream(&mirror, &branch)?;
        let taken = changes::take(
            git,
            staging,
            &changes::Source {
                workspace,
                repo: &source.repo,
                extent: source.extent,
                checkout: &source.checkout,
                base: &source.base,
            },
        )?;
        // Its objects have second names now.
        drop(mirror);
        self.say_skipped(&taken.skipped);
        let (author, time) = (&settings.author, source.created.as_millisecond() / 1000);
        let committer = Committer { control: &taken.control, author, time };
        // What was taken away upstream is compared with a checkout of then, which does not have what came since.
        let base_tip = upstream.base.as_ref().map(|(_, tip)| tip);
        let base_tip = base_tip.filter(|tip| committer.has(tip));
        let owner = match &upstream.tip {
            Some(tip) if committer.has(tip) => {
                Some(commit::owner(&taken.control, tip, base_tip, source, author)?)
            }
            Some(_) => Some(Owner::Other),
            None => None,
        };
        let words = Words::of(source, deliver);
        let (parent, tree) = match (&upstream.tip, owner) {
            (_, Some(Owner::Delivered(commit))) => {
                site.monitor.message(format!("The branch '{branch}' has the result already"));
                let url = self.pull_request(forge, &branch, &upstream, &words, None)?;
                return Ok(Some(Delivered { branch, commit: commit.to_string(), url }));
            }
            (_, Some(Owner::Other)) => {
                let sentence = format!(
                    "the branch '{branch}' of {} exists and was not made by a delivery of this job or its session: \
                     deliver to another branch",
                    source.repo
                );
                return refuse(Code::BranchExists, sentence);
            }
            (Some(tip), _) => (tip.clone(), on_top_of(&committer, &taken, tip, base_tip)?),
            (None, _) => self.on_base(&committer, &taken, upstream.base.as_ref())?,
        };
        if tree == committer.tree_of(&parent)? {
            let sentence =
                "there is nothing to deliver: the agent changed no file that git does not ignore";
            return refuse(Code::NothingToDeliver, sentence);
        }
        let kept = match (deliver.commits, &upstream.tip) {
            (Commits::Squash, _) => None,
            (Commits::Keep, None) => self.keep(&committer, &taken, &parent, &tree, &words)?,
            (Commits::Keep, Some(_)) => {
                let why =
                    "The branch has an earlier result of this session: adding one commit to it";
                site.monitor.message(why);
                None
            }
        };
        let made = match kept {
            Some(made) => made,
            None => {
                let message = commit::message(source, &words, author);
                committer.make(&tree, Some(&parent), &message)?
            }
        };
        self.check(&taken, &parent, &made)?;
        site.monitor.message(format!("Pushing {} to {branch}", made.short()));
        let options = match (forge, &upstream.base) {
            (Some(forge), Some((base, _))) => {
                forge.push_options(base, deliver, &words, source, settings)
            }
            _ => Vec::new(),
        };
        let from = upstream.tip.as_ref();
        let push = Push { branch: &branch, from, to: &made, options: &options };
        match push.run(git, &taken.control, transport)? {
            Pushed::Moved => Ok(None),
            Pushed::Done(said) => {
                let url = self.pull_request(forge, &branch, &upstream, &words, Some(&said))?;
                Ok(Some(Delivered { branch, commit: made.to_string(), url }))
            }
        }
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

    /// The parent and the tree of the first commit of a branch: on the base as it is now if that is clean, and otherwise on
    /// the commit that the agent was given.
    fn on_base(
        &self,
        committer: &Committer<'_>,
        taken: &Taken<'_>,
        base: Option<&(DeliveryBranch, ObjectId)>,
    ) -> Result<(ObjectId, ObjectId)> {
        let as_it_is = || (taken.base.clone(), taken.tree.clone());
        let Some((name, tip)) = base.filter(|(_, tip)| *tip != taken.base) else {
            return Ok(as_it_is());
        };
        let monitor = &self.site.monitor;
        let given = committer.tree_of(&taken.base)?;
        // Nothing to move, and nothing to say.
        if given == taken.tree {
            return Ok(as_it_is());
        }
        let merged = match committer.tree_of(tip) {
            Ok(now) => committer.merge(&given, &taken.tree, &now),
            Err(other) => Err(other),
        };
        let merged = match merged {
            // Something of it is missing here, as in a partial clone.
            Err(Failure::Git(said)) => {
                tracing::info!(said, "a result cannot be moved to its base as it is now");
                None
            }
            merged => merged?,
        };
        Ok(match merged {
            Some(tree) => {
                monitor.message(format!(
                    "'{name}' has moved on since: the result is based on {} now",
                    tip.short()
                ));
                (tip.clone(), tree)
            }
            None => {
                monitor.message(format!(
                    "'{name}' has moved on since and conflicts with the result, which stays based on {}: merge them",
                    taken.base.short()
                ));
                as_it_is()
            }
        })
    }

    /// The agent's own commits on top of `parent`, and one with what it did not commit, so that the last one has `tree`. `None`
    /// if they cannot be kept.
    fn keep(
        &self,
        committer: &Committer<'_>,
        taken: &Taken<'_>,
        parent: &ObjectId,
        tree: &ObjectId,
        words: &Words,
    ) -> Result<Option<ObjectId>> {
        let Self { site, source, git, staging, .. } = self;
        let squash = |why: &str| {
            site.monitor.message(format!("Making one commit, because {why}"));
            Ok(None)
        };
        if taken.commits.is_empty() {
            return Ok(None);
        }
        let Some(line) = changes::adopt(git, staging, &source.checkout, taken)? else {
            return squash("the agent's commits are no line that begins at the base");
        };
        let mut old = committer.tree_of(&taken.base)?;
        let (mut last, mut new) = (parent.clone(), committer.tree_of(parent)?);
        for (id, theirs) in line.iter().zip(taken.commits.iter().rev()) {
            let next = committer.tree_of(id)?;
            let Some(merged) = committer.merge(&old, &next, &new)? else {
                return squash("one of the agent's commits conflicts with the base as it is now");
            };
            if merged != new {
                let message =
                    commit::message(source, &Words::of_commit(&theirs.message), committer.author);
                last = committer.make(&merged, Some(&last), &message)?;
            }
            (old, new) = (next, merged);
        }
        if new != *tree {
            let message = commit::message(source, words, committer.author);
            last = committer.make(tree, Some(&last), &message)?;
        }
        Ok(Some(last))
    }

    /// Refuses what must not leave the stack.
    fn check(&self, taken: &Taken<'_>, parent: &ObjectId, made: &ObjectId) -> Result<()> {
        let (site, settings) = (self.site, &self.site.config.deliver);
        let control = &taken.control;
        let files = changes::Files::between(control, parent, made)?;
        if !self.deliver.allow_protected {
            let paths = files.0.iter().flat_map(|file| [Some(&file.path), file.from.as_ref()]);
            settings.protected.check(paths.flatten().map(Vec::as_slice))?;
        }
        let patch = self.staging.join("delivery.patch");
        let size = changes::write_diff(control, parent, made, &patch)?;
        rules::check_size(settings, files.0.len(), size)?;
        let secrets = Logins::secrets(&site.config, &self.source.repo);
        let range = format!("^{parent}");
        let listed = control.command(&["rev-list", "--objects", made.as_str(), &range]).output()?;
        let ids: Vec<&[u8]> = listed
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.split(|byte| *byte == b' ').next())
            .filter(|id| !id.is_empty())
            .collect();
        let contents = control
            .command(&["cat-file", "--batch"])
            .input([ids.join(&b'\n'), b"\n".to_vec()].concat());
        let contents = contents.output()?;
        if rules::holds_secret(&contents, &secrets) || rules::holds_secret(&listed, &secrets) {
            return rules::secret_found();
        }
        Ok(())
    }

    fn say_skipped(&self, skipped: &[Skipped]) {
        let what = |reason| match reason {
            SkipReason::Repository => "a repository of its own",
            SkipReason::Submodule => "a submodule",
            SkipReason::Special => "no regular file",
            SkipReason::Unreadable => "not readable",
            SkipReason::RefusedName => "a name that git refuses",
        };
        for it in skipped.iter().take(SHOWN) {
            let path = crate::failure::quote(&rules::shown(&it.path), &[]);
            self.site.monitor.message(format!("Left out: {path} ({})", what(it.reason)));
        }
        if let more @ 1.. = skipped.len().saturating_sub(SHOWN) {
            self.site.monitor.message(format!("Left out: {more} more"));
        }
    }

    /// The pull request for the branch, if one is asked for. `said` is what the host answered to the push.
    fn pull_request(
        &self,
        forge: Option<&Forge>,
        branch: &DeliveryBranch,
        upstream: &Upstream,
        words: &Words,
        said: Option<&str>,
    ) -> Result<Option<String>> {
        let (Some(forge), Some((base, _))) = (forge, &upstream.base) else { return Ok(None) };
        forge.open(self.site, self.source, self.deliver, (branch, base), words, said).map(Some)
    }
}

/// The tree of a commit on top of `tip`, which a delivery of the same session made: what the agent has changed since.
fn on_top_of(
    committer: &Committer<'_>,
    taken: &Taken<'_>,
    tip: &ObjectId,
    base_tip: Option<&ObjectId>,
) -> Result<ObjectId> {
    let given = committer.tree_of(&taken.base)?;
    let before = committer.tree_of(tip)?;
    // Where the branch left the base. If that is where the agent began, the trees can be compared as they are.
    let fork = match base_tip {
        Some(base) => {
            let found =
                taken.control.command(&["merge-base", base.as_str(), tip.as_str()]).run()?;
            if found.status.success() { Some(commit::id_in(&found.stdout)?) } else { None }
        }
        None => None,
    };
    let Some(fork) = fork.filter(|fork| *fork != taken.base) else {
        return Ok(taken.tree.clone());
    };
    // The earlier result as it was before it was moved, and then what came after it.
    let fork = committer.tree_of(&fork)?;
    let earlier = committer.merge(&fork, &before, &given)?;
    let merged = match earlier {
        Some(earlier) => committer.merge(&earlier, &taken.tree, &before)?,
        None => None,
    };
    match merged {
        Some(tree) => Ok(tree),
        None => refuse(
            Code::Diverged,
            "the result conflicts with what its branch has become: deliver it to another branch, and merge them",
        ),
    }
}
