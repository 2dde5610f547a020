//! Updating a checkout that is there.

use std::{collections::BTreeSet, fs, os::unix::ffi::OsStrExt as _, path::Path};

use cap_std::{ambient_authority, fs::Dir};
use contract::{BranchName, Code, JobId, RepoUrl};

use super::{
    Done, Existing, Refusal, files,
    files::{is_absent, path},
    refs::{self, Locked},
    rollback::Rollback,
    safe_git_dir::SafeGitDir,
    tree::Changes,
};
use crate::{
    failure::{Failure, Result},
    git::{Git, Output},
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

/// Where `HEAD` is.
enum Head {
    /// On a branch, which has a commit or not yet.
    Branch(Vec<u8>, Option<ObjectId>),
    Detached(ObjectId),
}

impl Head {
    fn commit(&self) -> Option<&ObjectId> {
        match self {
            Self::Branch(_, commit) => commit.as_ref(),
            Self::Detached(commit) => Some(commit),
        }
    }

    fn branch(&self) -> Option<&[u8]> {
        match self {
            Self::Branch(name, _) => Some(name),
            Self::Detached(_) => None,
        }
    }
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
    let head = read_head(existing, &refusal, &current)?;
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
    let new_objects = fetch(staging, &mirror, &current, wanted.as_ref())?;
    let format = mirror.refs().values().next().map_or(refs_format(&current), ObjectId::format);
    if new_objects {
        publish_objects(existing, staging)?;
    }
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
    let control = SafeGitDir::make(git, staging, &refusal, existing, head.commit(), format)?
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
        self.check_traps(control, &changes, tip)?;
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

    /// Makes sure that git finds no pipe or device where it looks for a file of its own in the tree.
    fn check_traps(
        &self,
        control: &SafeGitDir<'_>,
        changes: &Changes,
        tip: &ObjectId,
    ) -> Result<()> {
        let listed = control
            .command(&["ls-tree", "-r", "-d", "-z", "--name-only", tip.as_str()])
            .output()?;
        let mut directories: BTreeSet<&[u8]> = listed.split(|byte| *byte == 0).collect();
        for path in &changes.paths {
            let mut path = path.as_slice();
            while let Some(end) = path.iter().rposition(|byte| *byte == b'/') {
                path = path.get(..end).unwrap_or_default();
                directories.insert(path);
            }
        }
        for directory in directories {
            for name in [".gitattributes", ".gitignore", ".lfsconfig"] {
                let path = path(directory).join(name);
                match self.existing.files.symlink_metadata(&path) {
                    Ok(metadata)
                        if metadata.is_file() || metadata.is_symlink() || metadata.is_dir() => {}
                    // Not even to be looked at: a way that leads out of the checkout.
                    Err(error) if !is_absent(&error) => {}
                    Err(_) => {}
                    Ok(_) => {
                        let sentence = format!(
                            "'{}' is a pipe, a socket or a device: remove it, then send the job again",
                            path.display()
                        );
                        return Err(Failure::told(Code::CheckoutConflict, sentence));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Lets git write the files of `tip`, which it does only if no local change is in the way.
fn check_out(control: &SafeGitDir<'_>, tip: &ObjectId) -> Result<()> {
    let arguments = ["checkout", "--detach", "--no-overwrite-ignore", "--progress", tip.as_str()];
    let mut output = control.command(&arguments).run()?;
    if !output.status.success() {
        let conflicts = conflicts(&output);
        if !conflicts.is_empty() && adopt(control, tip, &conflicts)? {
            output = control.command(&arguments).run()?;
        }
    }
    if output.status.success() { Ok(()) } else { Err(explain(&output)) }
}

/// Why git did not write the files.
fn explain(output: &Output) -> Failure {
    let conflict = |sentence: String| Failure::told(Code::CheckoutConflict, sentence);
    let said = output.stderr.as_str();
    let conflicts = conflicts(output);
    if !conflicts.is_empty() {
        let mut names: Vec<_> = conflicts.iter().take(10).map(|name| format!("'{name}'")).collect();
        if conflicts.len() > names.len() {
            names.push(format!("{} more", conflicts.len() - names.len()));
        }
        return conflict(format!(
            "local changes are in the way of incoming ones: {}; commit, move or remove them, then send \
             the job again",
            names.join(", ")
        ));
    }
    if said.contains("resolve your current index first") {
        return conflict(
            "a merge in the directory has conflicts: resolve them and commit, then send the job again"
                .into(),
        );
    }
    output.failure()
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

fn refs_format(current: &Refs) -> crate::remote::ObjectFormat {
    current.values().next().map_or(crate::remote::ObjectFormat::Sha1, ObjectId::format)
}

/// The paths that git says are in the way: each on a line of its own, behind a tab.
fn conflicts(output: &Output) -> Vec<String> {
    output.stderr.lines().filter_map(|line| line.strip_prefix('\t')).map(str::to_owned).collect()
}

/// Takes those of `conflicts` whose files already are as they come for changes that were made here too, as
/// after an update that was killed. Whether it took any.
fn adopt(control: &SafeGitDir<'_>, tip: &ObjectId, conflicts: &[String]) -> Result<bool> {
    let incoming = control.path().join("incoming");
    let with = |first: &[&str]| {
        let arguments: Vec<&str> = ["--literal-pathspecs"].iter().chain(first).copied().collect();
        control.command(&arguments).env("GIT_INDEX_FILE", &incoming)
    };
    with(&["read-tree", tip.as_str()]).output()?;
    let names: Vec<&str> = conflicts.iter().take(1000).map(String::as_str).collect();
    let diff =
        ["diff", "--name-only", "-z", "--no-ext-diff", "--no-textconv", "--no-renames", "--"];
    let differing = with(&[diff.as_slice(), &names].concat()).output()?;
    let differing: BTreeSet<&[u8]> = differing.split(|byte| *byte == 0).collect();
    // Exactly these: a directory that is in the way is not the files that belong beneath it.
    let entries = with(&[&["ls-files", "-s", "-z", "--"], names.as_slice()].concat()).output()?;
    let path = |entry: &[u8]| entry.splitn(2, |byte| *byte == b'\t').nth(1).map(<[u8]>::to_vec);
    let is_same = |entry: &&[u8]| {
        path(entry).is_some_and(|path| {
            names.iter().any(|name| name.as_bytes() == path) && !differing.contains(path.as_slice())
        })
    };
    let same: Vec<&[u8]> = entries.split(|byte| *byte == 0).filter(is_same).collect();
    if same.is_empty() {
        return Ok(false);
    }
    let entries = [same.join(&0), vec![0]].concat();
    control.command(&["update-index", "-z", "--index-info"]).input(entries).output()?;
    Ok(true)
}

fn read_head(existing: &Existing, refusal: &Refusal<'_>, current: &Refs) -> Result<Head> {
    let text = files::read(&existing.git, Path::new("HEAD"), 8192, refusal)?.unwrap_or_default();
    let text = text.trim_ascii();
    if let Some(name) = text.strip_prefix(b"ref: refs/heads/").filter(|name| is_plain(name)) {
        let commit = current.get([b"refs/heads/", name].concat().as_slice()).cloned();
        return Ok(Head::Branch(name.to_vec(), commit));
    }
    let id = ObjectId::parse(text).ok_or_else(|| refusal.because("its HEAD names no branch"))?;
    Ok(Head::Detached(id))
}

/// A name that leads nowhere else.
fn is_plain(name: &[u8]) -> bool {
    let part = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
    name.split(|byte| *byte == b'/').all(part) && !name.contains(&0)
}

/// Packs the objects of the mirror that the checkout does not have into the staging directory. Whether
/// there are any.
fn fetch(
    staging: &Staging,
    mirror: &Mirror<'_>,
    current: &Refs,
    wanted: Option<&Wanted>,
) -> Result<bool> {
    let known: BTreeSet<&ObjectId> = current.values().collect();
    let tips = mirror.refs().values().chain(wanted.map(Wanted::id));
    let new: BTreeSet<&ObjectId> = tips.filter(|id| !known.contains(id)).collect();
    if new.is_empty() {
        return Ok(false);
    }
    let packs = staging.directory("packs")?;
    let base = packs.join("pack");
    let pack = |known: &BTreeSet<&ObjectId>| {
        let lines = new.iter().map(|id| format!("{id}\n"));
        let lines = lines.chain(known.iter().map(|id| format!("^{id}\n")));
        let arguments =
            ["pack-objects", "--revs", "--delta-base-offset", "--no-use-bitmap-index", "-q"];
        let partial = mirror.filter().map(|_| std::ffi::OsStr::new("--missing=allow-any"));
        let arguments = arguments
            .map(std::ffi::OsStr::new)
            .into_iter()
            .chain(partial)
            .chain([base.as_os_str()]);
        let input = lines.collect::<String>().into_bytes();
        mirror.command(arguments).writes(&packs).input(input).output()
    };
    let of_mirror: BTreeSet<&ObjectId> = current
        .iter()
        .filter(|(name, id)| {
            name.starts_with(b"refs/remotes/origin/") || mirror.refs().get(*name) == Some(*id)
        })
        .map(|(_, id)| id)
        .collect();
    match pack(&of_mirror) {
        // The mirror does not have one of them any more.
        Err(Failure::Git(_)) if !of_mirror.is_empty() => pack(&BTreeSet::new())?,
        other => other?,
    };
    if mirror.filter().is_some() {
        // A pack that may lead to what is missing says so, by an empty file of its name.
        let names = fs::read_dir(&packs).map_err(Failure::io("list", &packs))?.flatten();
        for pack in names.map(|it| it.path()).filter(|it| it.extension() == Some("pack".as_ref())) {
            let mark = pack.with_extension("promisor");
            fs::write(&mark, "").map_err(Failure::io("write", &mark))?;
        }
    }
    Ok(true)
}

/// Moves the packs in the staging directory into the checkout.
fn publish_objects(existing: &Existing, staging: &Staging) -> Result<()> {
    let path = staging.join("packs");
    let failed = |error| Failure::io("move into the checkout", &path)(error);
    let packs = Dir::open_ambient_dir(&path, ambient_authority()).map_err(failed)?;
    existing.git.create_dir_all("objects/pack").map_err(failed)?;
    let mut names: Vec<_> =
        packs.entries().map_err(failed)?.flatten().map(|entry| entry.file_name()).collect();
    // A pack is looked for by its index, so that one comes last.
    names.sort_by_key(|name| name.as_bytes().ends_with(b".idx"));
    for name in names {
        let to = Path::new("objects/pack").join(&name);
        // A link to a file that was made for this checkout and loses its other name soon.
        match packs.hard_link(&name, &existing.git, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(_) => {
                packs.copy(&name, &existing.git, &to).map_err(failed)?;
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Writes a file of `.git`.
fn place(git: &Dir, name: &Path, content: &[u8]) -> Result<()> {
    let mut lock = Locked::take(git, name)?;
    lock.write(content)?;
    lock.place()
}

/// Makes sure that nothing is under way in the checkout that a pull would disturb.
fn check_idle(git: &Dir) -> Result<()> {
    const UNDER_WAY: [(&str, &str); 6] = [
        ("MERGE_HEAD", "a merge"),
        ("CHERRY_PICK_HEAD", "a cherry-pick"),
        ("REVERT_HEAD", "a revert"),
        ("rebase-merge", "a rebase"),
        ("rebase-apply", "a rebase"),
        ("BISECT_LOG", "a bisection"),
    ];
    match UNDER_WAY.iter().find(|(name, _)| git.symlink_metadata(name).is_ok()) {
        None => Ok(()),
        Some((_, what)) => Err(Failure::told(
            Code::CheckoutConflict,
            format!(
                "{what} in the directory is not finished: finish or abort it, then send the job again"
            ),
        )),
    }
}

/// Makes sure that a new branch stands where no other is, and beneath none.
fn check_name(current: &Refs, branch: &[u8]) -> Result<()> {
    let is_beneath = |one: &[u8], other: &[u8]| {
        one.strip_prefix(other).is_some_and(|rest| rest.starts_with(b"/"))
    };
    let mut branches = current.keys().filter_map(|name| name.strip_prefix(b"refs/heads/"));
    match branches.find(|name| is_beneath(name, branch) || is_beneath(branch, name)) {
        None => Ok(()),
        Some(name) => Err(Failure::told(
            Code::CheckoutConflict,
            format!(
                "the branch '{}' of the checkout leaves no room for '{}': rename it",
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(branch)
            ),
        )),
    }
}

/// Makes sure that no commit is lost when `HEAD` leaves it.
fn keep_detached(
    control: &SafeGitDir<'_>,
    head: &Head,
    tip: &ObjectId,
    current: &Refs,
) -> Result<()> {
    let Head::Detached(commit) = head else { return Ok(()) };
    if current.values().any(|id| id == commit) {
        return Ok(());
    }
    let mut input = format!("{commit}\n^{tip}\n");
    for id in current.values() {
        input.push_str(&format!("^{id}\n"));
    }
    let left = control
        .command(&["rev-list", "--max-count=1", "--ignore-missing", "--stdin"])
        .input(input.into_bytes())
        .output()?;
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::told(
        Code::CheckoutConflict,
        format!("HEAD is at {commit}, which is on no branch: make a branch of it first"),
    ))
}
