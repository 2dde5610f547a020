//! Updating a checkout that is there.

use std::{fs, path::Path};

use cap_std::fs::Dir;
use contract::{BranchName, Code, JobId, RepoUrl};

use super::{
    Done, Existing, Refusal, files,
    files::path,
    head::{self, Head, check_idle, check_name, keep_detached},
    objects::Delivery,
    refs::{self, Locked},
    rollback::Rollback,
    safe_git_dir::SafeGitDir,
    tree::Changes,
    write::{check_out, check_traps},
};
use crate::{
    failure::{Failure, Result},
    git::Git,
    remote::{Mirror, ObjectId, Refs, Transport, Wanted},
    staging::Staging,
};

/// What a pull asks of a checkout that is there.
pub(crate) struct Update<'a> {
    pub(crate) git: &'a Git,
    pub(crate) staging: &'a Staging,
    pub(crate) target: &'a Path,
    pub(crate) existing: &'a Existing,
    pub(crate) repo: &'a RepoUrl,
    pub(crate) transport: &'a Transport<'a>,
    pub(crate) branch: Option<&'a BranchName>,
    /// The job, if commits that are only here are to be put aside under its name.
    pub(crate) reset: Option<JobId>,
}

/// Updates a checkout from `mirror`: fast-forward, or a switch to what is asked for.
///
/// # Errors
/// If the branch diverged, or local changes are in the way; then files, index, `HEAD` and branches are
/// as they were.
pub(crate) fn update(update: &Update<'_>, mirror: Mirror<'_>) -> Result<Done> {
    let Update { git, staging, target, existing, .. } = *update;
    let refusal = Refusal { target };
    let current = refs::read(&existing.git, &refusal)?;
    let head = head::read(&existing.git, &refusal, &current)?;
    let wanted = match (update.branch, &head) {
        (None, Head::Branch(name, Some(commit))) => match mirror.tip(name) {
            Some(tip) => Some(Wanted::Branch(name.clone(), tip.clone())),
            None => update.without_upstream(&mirror, name, commit, &current)?,
        },
        (asked, _) => Some(mirror.find(update.repo, asked)?),
    };
    if let Some(wanted) = &wanted {
        mirror.complete(update.transport, wanted.id())?;
    }
    let delivery = Delivery {
        git,
        staging,
        refusal: &refusal,
        existing,
        mirror: &mirror,
        current: &current,
        head: head.commit(),
    };
    delivery.deliver(wanted.as_ref())?;
    refs::publish(&existing.git, &refusal, &mirror, &current)?;
    let lfs = mirror.lfs();
    // Others may fetch while this one works on its files.
    drop(mirror);
    let Some(wanted) = wanted else {
        let (Some(name), Some(commit)) = (head.branch(), head.commit()) else {
            return Err(refusal.because("its HEAD is on no branch"));
        };
        let shown = String::from_utf8_lossy(name);
        git.monitor.message(format!("The branch '{shown}' is only here: kept as it is"));
        return Ok(Done::branch(name, commit));
    };

    let local = match &wanted {
        Wanted::Branch(name, _) => {
            current.get([b"refs/heads/", name.as_slice()].concat().as_slice())
        }
        Wanted::Commit(..) => None,
    };
    let is_there = match &wanted {
        Wanted::Branch(name, _) => head.branch() == Some(name),
        Wanted::Commit(..) => head.branch().is_none(),
    };
    if is_there && head.commit() == Some(wanted.id()) {
        git.monitor.message("Already up to date");
        return Ok(Done::wanted(&wanted, wanted.id()));
    }
    let control =
        SafeGitDir::make(git, staging, &refusal, existing, head.commit(), wanted.id().format())?
            .with_lfs(lfs);
    let (tip, only_here) = match local {
        Some(local) if local != wanted.id() => {
            update.fast_forward(&control, &refusal, &wanted, local)?
        }
        _ => (wanted.id().clone(), None),
    };
    if is_there && head.commit() == Some(&tip) {
        git.monitor.message("Already up to date, with commits that are only here");
        return Ok(Done::wanted(&wanted, &tip));
    }
    if let (Some(job), Some(commit)) = (update.reset, &only_here) {
        let name = format!("refs/wip/{job}");
        place(&existing.git, Path::new(&name), format!("{commit}\n").as_bytes())?;
        git.monitor.message(format!("Keeping the commits that are only here as {name}"));
    }
    keep_detached(&control, &head, &tip, &current)?;
    if local.is_none()
        && let Wanted::Branch(name, _) = &wanted
    {
        check_name(&current, name)?;
    }
    git.monitor.message(format!("Checking out {} at {}", wanted.name(), tip.short()));
    let movement = Move { head: &head, wanted: &wanted, local, tip: &tip };
    update.move_to(&control, &movement).map_err(|failure| match failure {
        Failure::Git(said) if is_about_index(&said) => refusal.unreadable("its index", &said),
        other => other,
    })?;
    Ok(Done::wanted(&wanted, &tip))
}

/// What is to become of a checkout.
struct Move<'a> {
    head: &'a Head,
    wanted: &'a Wanted,
    /// Where the branch was.
    local: Option<&'a ObjectId>,
    tip: &'a ObjectId,
}

impl Update<'_> {
    /// What to check out in the place of a branch that the repository does not have: nothing else, if it
    /// was made here; the new default branch, if it was the old one and nothing was added to it.
    fn without_upstream(
        &self,
        mirror: &Mirror<'_>,
        name: &[u8],
        commit: &ObjectId,
        current: &Refs,
    ) -> Result<Option<Wanted>> {
        let upstream = current.get([b"refs/remotes/origin/", name].concat().as_slice());
        let Some(upstream) = upstream else { return Ok(None) };
        let head = Path::new("refs/remotes/origin/HEAD");
        let head = files::read(&self.existing.git, head, 8192, &Refusal { target: self.target })?;
        let was_default = head
            .is_some_and(|head| head.trim_ascii() == [b"ref: refs/remotes/origin/", name].concat());
        let shown = String::from_utf8_lossy(name);
        if was_default && upstream == commit && mirror.default().is_some() {
            let wanted = mirror.find(self.repo, None)?;
            let new = wanted.name();
            self.git.monitor.message(format!("The default branch '{shown}' is now '{new}'"));
            return Ok(Some(wanted));
        }
        let sentence = format!(
            "{} has no branch '{shown}' any more: ask for the branch to work on",
            self.repo
        );
        Err(Failure::told(Code::BranchNotFound, sentence))
    }

    /// Where a branch goes that is at `local`: to `wanted`, unless it already has that and more. With it,
    /// its old commit if that has something which is only here and is left.
    fn fast_forward(
        &self,
        control: &SafeGitDir<'_>,
        refusal: &Refusal<'_>,
        wanted: &Wanted,
        local: &ObjectId,
    ) -> Result<(ObjectId, Option<ObjectId>)> {
        let upstream = wanted.id();
        let range = format!("{local}...{upstream}");
        let counts = control
            .command(&["rev-list", "--left-right", "--count", &range])
            .output()
            .map_err(|failure| match failure {
                Failure::Git(said) => refusal.unreadable("the commit that is checked out", &said),
                other => other,
            })?;
        let counts = String::from_utf8_lossy(&counts);
        let mut counts = counts.split_whitespace();
        match (counts.next(), counts.next()) {
            (Some("0"), Some(_)) => Ok((upstream.clone(), None)),
            (Some(_), Some("0")) if self.reset.is_none() => Ok((local.clone(), None)),
            _ if self.reset.is_some() => Ok((upstream.clone(), Some(local.clone()))),
            _ => Err(Failure::told(
                Code::Diverged,
                format!(
                    "'{}' has commits that the repository does not have, and the other way round: push, \
                     rebase or remove them, ask for a reset, or use another directory",
                    wanted.name()
                ),
            )),
        }
    }

    /// Moves files, index, `HEAD` and the branch, or none of them.
    fn move_to(&self, control: &SafeGitDir<'_>, movement: &Move<'_>) -> Result<()> {
        let Move { head, wanted, local, tip } = *movement;
        let git = &self.existing.git;
        check_idle(git)?;
        let mut index = Locked::take(git, Path::new("index"))?;
        let mut head_file = None;
        let mut branch = None;
        if let Wanted::Branch(name, _) = wanted {
            let lock = Locked::take(git, path(&[b"refs/heads/", name.as_slice()].concat()))?;
            lock.write(format!("{tip}\n").as_bytes())?;
            branch = Some(lock);
        }
        let new_head = match wanted {
            Wanted::Branch(name, _) => [b"ref: refs/heads/", name.as_slice(), b"\n"].concat(),
            Wanted::Commit(..) => format!("{tip}\n").into_bytes(),
        };
        if head.branch() != wanted_branch(wanted) || head.branch().is_none() {
            let lock = Locked::take(git, Path::new("HEAD"))?;
            lock.write(&new_head)?;
            head_file = Some(lock);
        }

        let command = |arguments: &[&str]| control.command(arguments);
        let changes = Changes::between(command, head.commit(), tip)?;
        self.git.check_size(changes.size(command)?)?;
        check_traps(control, &self.existing.files, &changes, tip)?;
        let saved = self.staging.directory("saved")?;
        // git is still ended when the pull is to stop; then the files are put back first.
        let _settling = self.git.monitor.settle()?;
        let rollback = Rollback::prepare(&self.existing.files, &changes.paths, &saved)?;
        let placed = (|| {
            check_out(control, tip)?;
            let new_index = control.path().join("index");
            let bytes = fs::read(&new_index).map_err(Failure::io("read", &new_index))?;
            let time = fs::metadata(&new_index).and_then(|metadata| metadata.modified());
            index.write(&bytes)?;
            index.set_time(time.map_err(Failure::io("look at", &new_index))?)?;
            // The branch comes first: it is the one that may have no room.
            for lock in [&mut branch, &mut head_file].into_iter().flatten() {
                lock.place()?;
            }
            index.place()
        })();
        if let Err(failure) = placed {
            rollback.roll_back();
            return Err(failure);
        }
        refs::log(git, wanted_branch(wanted), head.commit(), tip);
        if let (Wanted::Branch(name, _), None) = (wanted, local) {
            refs::track(git, name);
        }
        Ok(())
    }
}

fn is_about_index(said: &str) -> bool {
    ["index file", "bad index", "index uses", "bad signature"].iter().any(|it| said.contains(it))
}

fn wanted_branch(wanted: &Wanted) -> Option<&[u8]> {
    match wanted {
        Wanted::Branch(name, _) => Some(name),
        Wanted::Commit(..) => None,
    }
}

/// Writes a file of `.git`.
fn place(git: &Dir, name: &Path, content: &[u8]) -> Result<()> {
    let mut lock = Locked::take(git, name)?;
    lock.write(content)?;
    lock.place()
}
