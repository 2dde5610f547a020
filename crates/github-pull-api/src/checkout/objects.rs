//! Objects on their way from the mirror into a checkout that is there.

use std::{collections::BTreeSet, ffi::OsStr, fs, io, os::unix::ffi::OsStrExt as _, path::Path};

use cap_std::{ambient_authority, fs::Dir};

use super::{Existing, Refusal, refs::Locked, safe_git_dir::SafeGitDir};
use crate::{
    failure::{Failure, Result},
    git::Git,
    remote::{Mirror, ObjectId, Refs, Wanted},
    staging::Staging,
};

/// The way of objects into a checkout.
pub(super) struct Delivery<'a> {
    pub(super) git: &'a Git,
    pub(super) staging: &'a Staging,
    pub(super) refusal: &'a Refusal<'a>,
    pub(super) existing: &'a Existing,
    pub(super) mirror: &'a Mirror<'a>,
    /// The references of the checkout.
    pub(super) current: &'a Refs,
    /// What is checked out.
    pub(super) head: Option<&'a ObjectId>,
}

impl Delivery<'_> {
    /// Adds what the references of the mirror and `wanted` lead to.
    ///
    /// # Errors
    /// If git cannot pack it, or it cannot be put in place.
    pub(super) fn deliver(&self, wanted: Option<&Wanted>) -> Result<()> {
        let known: BTreeSet<&ObjectId> = self.current.values().collect();
        let tips = self.mirror.refs().values().chain(wanted.map(Wanted::id));
        let new: BTreeSet<&ObjectId> = tips.filter(|id| !known.contains(id)).collect();
        if !new.is_empty() {
            self.mark_shallow()?;
            self.pack_history(&new)?;
            self.publish()?;
        }
        match wanted {
            Some(wanted) if self.existing.is_partial && self.head != Some(wanted.id()) => {
                self.deliver_files(wanted.id())
            }
            _ => Ok(()),
        }
    }

    /// Packs what leads to `new` and is not in the checkout.
    fn pack_history(&self, new: &BTreeSet<&ObjectId>) -> Result<()> {
        let refs = self.mirror.refs();
        let of_mirror = self.current.iter().filter(|(name, id)| {
            name.starts_with(b"refs/remotes/origin/") || refs.get(*name) == Some(*id)
        });
        let known: BTreeSet<&ObjectId> = of_mirror.map(|(_, id)| id).collect();
        // The checkout has nothing that is older than these.
        let shallow = self.existing.shallow.iter().map(|id| format!("--shallow {id}\n"));
        let wish: String = shallow.chain(new.iter().map(|id| format!("{id}\n"))).collect();
        let without: String = known.iter().map(|id| format!("^{id}\n")).collect();
        match self.pack(&["--revs"], wish.clone() + &without) {
            // The mirror does not have one of them any more.
            Err(Failure::Git(_)) if !known.is_empty() => self.pack(&["--revs"], wish),
            other => other,
        }
    }

    /// Adds the files of the commit `id` that a partial checkout does not have.
    fn deliver_files(&self, id: &ObjectId) -> Result<()> {
        let control = self.control(id)?;
        let list = ["rev-list", "--objects", "--no-walk", "--missing=print", id.as_str()];
        let listed = control.command(&list).output()?;
        let lines = listed.split(|byte| *byte == b'\n');
        let missing: Vec<&[u8]> = lines.filter_map(|line| line.strip_prefix(b"?")).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing = String::from_utf8_lossy(&missing.join(&b'\n')).into_owned() + "\n";
        self.pack(&[], missing)?;
        self.publish()
    }

    /// Notes where the history ends that is to come.
    fn mark_shallow(&self) -> Result<()> {
        let ends = self.mirror.shallow()?;
        let unknown: Vec<&ObjectId> =
            ends.iter().filter(|id| !self.existing.shallow.contains(id)).collect();
        let Some(first) = unknown.first() else { return Ok(()) };
        let input = unknown.iter().flat_map(|id| format!("{id}\n").into_bytes()).collect();
        let control = self.control(first)?;
        let found = control.command(&["cat-file", "--batch-check"]).input(input).output()?;
        let found = String::from_utf8_lossy(&found);
        let new: BTreeSet<&str> =
            found.lines().filter_map(|line| line.strip_suffix(" missing")).collect();
        if new.is_empty() {
            return Ok(());
        }
        let ends = self.existing.shallow.iter().map(ObjectId::as_str).chain(new);
        let text: String = ends.map(|id| format!("{id}\n")).collect();
        let mut lock = Locked::take(&self.existing.git, Path::new("shallow"))?;
        lock.write(text.as_bytes())?;
        lock.place()
    }

    fn control(&self, id: &ObjectId) -> Result<SafeGitDir<'_>> {
        let Self { git, staging, refusal, existing, .. } = *self;
        SafeGitDir::make(git, staging, refusal, existing, None, id.format())
    }

    /// Packs the objects of the mirror that `input` names into the staging directory.
    fn pack(&self, options: &[&str], input: String) -> Result<()> {
        let packs = self.staging.directory("packs")?;
        let base = packs.join("pack");
        let partial = self.existing.is_partial.then_some("--missing=allow-any");
        let arguments = ["pack-objects", "--delta-base-offset", "--no-use-bitmap-index", "-q"];
        let arguments = arguments.iter().chain(options).copied().chain(partial).map(OsStr::new);
        let arguments = arguments.chain([base.as_os_str()]);
        self.mirror.command(arguments).writes(&packs).input(input.into_bytes()).output()?;
        if self.existing.is_partial {
            // A pack that may lead to what is missing says so, by an empty file of its name.
            let entries = fs::read_dir(&packs).map_err(Failure::io("list", &packs))?.flatten();
            let is_pack = |path: &std::path::PathBuf| path.extension() == Some("pack".as_ref());
            for pack in entries.map(|entry| entry.path()).filter(is_pack) {
                let mark = pack.with_extension("promisor");
                fs::write(&mark, "").map_err(Failure::io("write", &mark))?;
            }
        }
        Ok(())
    }

    /// Moves the packs in the staging directory into the checkout.
    fn publish(&self) -> Result<()> {
        let git = &self.existing.git;
        let path = self.staging.join("packs");
        let failed = |error| Failure::io("move into the checkout", &path)(error);
        let packs = Dir::open_ambient_dir(&path, ambient_authority()).map_err(failed)?;
        git.create_dir_all("objects/pack").map_err(failed)?;
        let mut names: Vec<_> =
            packs.entries().map_err(failed)?.flatten().map(|entry| entry.file_name()).collect();
        // A pack is looked for by its index, so that one comes last.
        names.sort_by_key(|name| name.as_bytes().ends_with(b".idx"));
        for name in names {
            let to = Path::new("objects/pack").join(&name);
            // A link to a file that was made for this checkout and loses its other name soon.
            match packs.hard_link(&name, git, &to) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(_) => {
                    packs.copy(&name, git, &to).map_err(failed)?;
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }
}
