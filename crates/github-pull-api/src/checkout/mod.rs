//! The checkout: made anew, or updated where it is.
//!
//! git never works in the `.git` of a checkout that is there: its configuration is not obeyed, and what it
//! refers to is looked at first. No lock of a mirror is held while the files of a checkout are touched.

mod config_file;
mod create;
mod existing;
mod files;
mod head;
mod left;
mod objects;
mod refs;
mod rollback;
mod safe_git_dir;
mod submodules;
mod tree;
mod update;
mod write;

use std::{borrow::Cow, path::Path};

use contract::{BranchName, Code};

pub(crate) use self::{
    create::{make, place},
    existing::{Existing, Found, look},
    left::LeftGit,
    submodules::{Submodule, submodules},
    update::{Update, update},
};
use crate::{
    failure::Failure,
    remote::{ObjectId, Wanted},
};

/// What there is at the end of a pull.
#[derive(Debug)]
pub(crate) struct Done {
    /// The branch that is checked out, if its name is one that callers can use.
    pub(crate) branch: Option<BranchName>,
    /// The commit that is checked out.
    pub(crate) commit: String,
}

impl Done {
    fn branch(name: &[u8], commit: &ObjectId) -> Self {
        let name = std::str::from_utf8(name).ok();
        let branch = name.and_then(|name| BranchName::parse(name).ok());
        Self { branch, commit: commit.to_string() }
    }

    fn wanted(wanted: &Wanted, commit: &ObjectId) -> Self {
        match wanted {
            Wanted::Branch(name, _) => Self::branch(name, commit),
            Wanted::Commit(..) => Self { branch: None, commit: commit.to_string() },
        }
    }
}

/// How a directory is refused that is no clone of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal<'a> {
    pub(crate) target: &'a Path,
}

impl Refusal<'_> {
    fn name(&self) -> Cow<'_, str> {
        self.target.file_name().unwrap_or_default().to_string_lossy()
    }

    /// The failure, with a reason that says what to do.
    pub(crate) fn because(&self, why: &str) -> Failure {
        let name = self.name();
        Failure::told(
            Code::NotARepository,
            format!("'{name}' is not a clone that can be updated: {why}"),
        )
    }

    /// The failure of a checkout whose `what` git cannot read, for the reason that git gives.
    fn unreadable(&self, what: &str, said: &str) -> Failure {
        let said = crate::failure::quote(said, &[]);
        self.because(&format!("git cannot read {what}: {said}; look at it with git status"))
    }
}
