//! Where the result goes: the commit that it is put on, and the tree that it then has.

use contract::{Code, DeliveryBranch};

use super::{
    commit::{self, Committer, Words},
    refuse,
    source::Source,
};
use crate::{
    changes::{self, Taken},
    failure::{Failure, Result},
    git::Git,
    monitor::Monitor,
    remote::ObjectId,
    staging::Staging,
};

/// A line of new commits.
pub(super) struct Line {
    /// Each commit's parent, and the commit. Not empty.
    pub(super) steps: Vec<(ObjectId, ObjectId)>,
    /// The last commit.
    pub(super) end: ObjectId,
}

/// Makes commits of what was taken.
pub(super) struct Placement<'a> {
    pub(super) monitor: &'a Monitor,
    pub(super) git: &'a Git,
    pub(super) staging: &'a Staging,
    pub(super) source: &'a Source,
    pub(super) taken: &'a Taken<'a>,
    pub(super) committer: Committer<'a>,
}

impl Placement<'_> {
    /// The parent and the tree of the first commit of a branch: on the base as it is now if that is clean, and otherwise on
    /// the commit that the agent was given.
    ///
    /// # Errors
    /// If git cannot be run.
    pub(super) fn on_base(
        &self,
        base: Option<&(DeliveryBranch, ObjectId)>,
    ) -> Result<(ObjectId, ObjectId)> {
        let Self { taken, committer, monitor, .. } = self;
        let as_it_is = || (taken.base.clone(), taken.tree.clone());
        let Some((name, tip)) = base.filter(|(_, tip)| *tip != taken.base) else {
            return Ok(as_it_is());
        };
        let given = committer.tree_of(&taken.base)?;
        // Nothing to move, and nothing to say. And what was taken away upstream is compared with a checkout of then, which
        // does not have what came since.
        if given == taken.tree || !committer.has(tip)? {
            return Ok(as_it_is());
        }
        let merged = match committer.tree_of(tip) {
            Ok(now) => committer.merge(&given, &taken.tree, &now),
            Err(other) => Err(other),
        };
        let given = taken.base.short();
        let (placed, said) = match merged {
            Ok(Some(tree)) => {
                let said = format!(
                    "'{name}' has moved on since: the result is based on {} now",
                    tip.short()
                );
                ((tip.clone(), tree), said)
            }
            Ok(None) => {
                let said = format!(
                    "'{name}' has moved on since and conflicts with the result, which stays based on {given}: merge them"
                );
                (as_it_is(), said)
            }
            Err(Failure::Git(why)) => {
                tracing::info!(why, "a result cannot be moved to its base as it is now");
                let said = format!(
                    "'{name}' has moved on since, but git cannot compare it with the result, which stays based on {given}"
                );
                (as_it_is(), said)
            }
            Err(other) => return Err(other),
        };
        monitor.message(said);
        Ok(placed)
    }

    /// The tree of a commit on top of `tip`, which deliveries of the same session made since `fork`: what the agent has changed
    /// since.
    ///
    /// # Errors
    /// If that cannot be told from what others have changed.
    pub(super) fn on_top_of(&self, tip: &ObjectId, fork: Option<&ObjectId>) -> Result<ObjectId> {
        let Self { taken, committer, .. } = self;
        // From the same commit, with the same agent's changes only: the trees can be compared as they are.
        if fork == Some(&taken.base) && committer.has(tip)? {
            return Ok(taken.tree.clone());
        }
        let fork = match fork {
            Some(fork) if committer.has(fork)? && committer.has(tip)? => fork,
            _ => {
                let sentence = "it cannot be told any more where the branch with the earlier result began, because its \
                                history was rewritten or is not here: deliver to another branch";
                return refuse(Code::Diverged, sentence);
            }
        };
        // The earlier result as it was before it was moved, and then what came after it.
        let (fork, before) = (committer.tree_of(fork)?, committer.tree_of(tip)?);
        let earlier = committer.merge(&fork, &before, &committer.tree_of(&taken.base)?)?;
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

    /// One commit.
    ///
    /// # Errors
    /// If git cannot make it.
    pub(super) fn squash(&self, parent: &ObjectId, tree: &ObjectId, words: &Words) -> Result<Line> {
        let message = commit::message(self.source, words, self.committer.author);
        let end = self.committer.make(tree, Some(parent), &message)?;
        Ok(Line { steps: vec![(parent.clone(), end.clone())], end })
    }

    /// The agent's own commits on top of `parent`, and one with what it did not commit, so that the last one has `tree`. `None`
    /// if they cannot be kept.
    ///
    /// # Errors
    /// If git cannot be run.
    pub(super) fn keep(
        &self,
        parent: &ObjectId,
        tree: &ObjectId,
        words: &Words,
    ) -> Result<Option<Line>> {
        let Self { monitor, git, staging, source, taken, committer } = self;
        let squash = |why: &str| {
            monitor.message(format!("Making one commit, because {why}"));
            Ok(None)
        };
        if taken.commits.is_empty() {
            return Ok(None);
        }
        let Some(theirs) = changes::adopt(git, staging, source.checkout()?, taken)? else {
            return squash("the agent's commits are no line that begins at the base");
        };
        let mut old = committer.tree_of(&taken.base)?;
        let mut new = committer.tree_of(parent)?;
        let mut line = Line { steps: Vec::new(), end: parent.clone() };
        let mut add = |tree: &ObjectId, words: &Words| {
            let message = commit::message(source, words, committer.author);
            let made = committer.make(tree, Some(&line.end), &message)?;
            line.steps.push((std::mem::replace(&mut line.end, made.clone()), made));
            Result::Ok(())
        };
        for (id, commit) in theirs.iter().zip(taken.commits.iter().rev()) {
            let next = committer.tree_of(id)?;
            // A tree that was taken has none of its own either.
            if self.changes_submodule(&old, &next)? {
                return squash("one of the agent's commits changes a submodule");
            }
            let Some(merged) = committer.merge(&old, &next, &new)? else {
                return squash("one of the agent's commits conflicts with the base as it is now");
            };
            if merged != new {
                add(&merged, &Words::of_commit(&commit.message))?;
            }
            (old, new) = (next, merged);
        }
        if new != *tree {
            add(tree, words)?;
        }
        Ok(Some(line))
    }

    /// Whether an entry that is a commit of another repository differs.
    fn changes_submodule(&self, old: &ObjectId, new: &ObjectId) -> Result<bool> {
        const MODE: &[u8] = b"160000";
        let command = ["diff-tree", "-r", "--raw", "--no-renames", old.as_str(), new.as_str()];
        let printed = self.taken.control.command(&command).output()?;
        // `:MODE MODE ID ID STATUS`, a tab, and the path.
        let mut modes = printed.split(|byte| *byte == b'\n').filter_map(|line| line.get(1..14));
        Ok(modes.any(|modes| modes.split(|byte| *byte == b' ').any(|mode| mode == MODE)))
    }
}
