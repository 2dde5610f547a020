//! How much of a repository is fetched, and what of it is checked out.

use std::num::NonZeroU32;

use contract::{BranchName, CloneFilter, Code, RepoUrl};

use super::{Mirror, ObjectId};
use crate::failure::{Failure, Result};

/// How much of a repository is fetched. Mirrors of different extents have nothing to do with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// So many commits of history; all of them, if absent.
    pub(crate) depth: Option<NonZeroU32>,
    /// Which objects are left out until they are needed.
    pub(crate) filter: Option<CloneFilter>,
    /// Whether files in LFS are fetched with the commits that are checked out.
    pub(crate) lfs: bool,
}

impl Extent {
    /// What tells its mirror from others of the repository.
    pub(super) fn key(self) -> String {
        let depth = self.depth.map(|depth| format!(" depth={depth}")).unwrap_or_default();
        let filter = self.filter.map(|it| format!(" filter={}", it.as_str())).unwrap_or_default();
        depth + &filter
    }

    /// Options of `git clone`.
    pub(super) fn options(self) -> Vec<String> {
        let depth =
            self.depth.map(|depth| vec![format!("--depth={depth}"), "--no-single-branch".into()]);
        let filter = self.filter.map(|filter| format!("--filter={}", filter.as_str()));
        depth.into_iter().flatten().chain(filter).collect()
    }
}

/// What to check out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A branch, without `refs/heads/`.
    Branch(Vec<u8>, ObjectId),
    /// A tag or a commit, and how people call it.
    Commit(String, ObjectId),
}

impl Wanted {
    pub(crate) fn id(&self) -> &ObjectId {
        match self {
            Self::Branch(_, id) | Self::Commit(_, id) => id,
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Branch(name, _) => String::from_utf8_lossy(name).into_owned(),
            Self::Commit(name, _) => name.clone(),
        }
    }
}

impl Mirror<'_> {
    /// What `asked` or, without it, the remote's `HEAD` names.
    ///
    /// # Errors
    /// If there is no such branch, tag or commit.
    pub(crate) fn find(&self, repo: &RepoUrl, asked: Option<&BranchName>) -> Result<Wanted> {
        let Some(asked) = asked.map(BranchName::as_str) else {
            return self.find_default(repo);
        };
        if let Some(id) = self.tip(asked.as_bytes()) {
            return Ok(Wanted::Branch(asked.into(), id.clone()));
        }
        let tag = format!("refs/tags/{asked}");
        if self.refs().contains_key(tag.as_bytes()) {
            let id = self.command(["rev-parse", "--verify", &format!("{tag}^{{commit}}")]).output();
            if let Some(id) = id.ok().and_then(|id| ObjectId::parse(id.trim_ascii())) {
                return Ok(Wanted::Commit(asked.into(), id));
            }
        }
        let id = ObjectId::parse(asked.to_ascii_lowercase().as_bytes());
        if let Some(id) = id
            && self.is_reachable(&id)?
        {
            return Ok(Wanted::Commit(id.short().to_owned(), id));
        }
        Err(Failure::told(
            Code::BranchNotFound,
            format!("{repo} has no branch '{asked}': there is {}", self.some_branches()),
        ))
    }

    fn find_default(&self, repo: &RepoUrl) -> Result<Wanted> {
        if let Some(name) = self.default()
            && let Some(id) = self.tip(name)
        {
            return Ok(Wanted::Branch(name.to_vec(), id.clone()));
        }
        if let Some(id) = ObjectId::parse(self.head.trim_ascii()) {
            return Ok(Wanted::Commit(id.short().to_owned(), id));
        }
        Err(Failure::told(
            Code::BranchNotFound,
            format!(
                "{repo} names no default branch: ask for one of its own, like {}",
                self.some_branches()
            ),
        ))
    }

    fn some_branches(&self) -> String {
        let names = self.refs().keys().filter_map(|name| name.strip_prefix(b"refs/heads/"));
        let names: Vec<_> =
            names.take(10).map(|name| format!("'{}'", String::from_utf8_lossy(name))).collect();
        names.join(", ")
    }

    /// Whether a branch or a tag leads to the commit `id`: what else a mirror may hold was taken away
    /// upstream.
    fn is_reachable(&self, id: &ObjectId) -> Result<bool> {
        let contains = format!("--contains={id}");
        let output =
            self.command(["for-each-ref", "--count=1", "--format=x", contains.as_str()]).run()?;
        Ok(output.status.success() && !output.stdout.is_empty())
    }
}
