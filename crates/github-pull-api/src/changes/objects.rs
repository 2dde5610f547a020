//! Where the objects of the base come from.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use contract::CloneFilter;

use super::{Control, Source, claimed};
use crate::{
    checkout::LeftGit,
    failure::{Failure, Result},
    git::Git,
    monitor::Monitor,
    remote::{Extent, ObjectId, mirror_location},
    staging::Staging,
};

/// How often the files of a mirror are listed that another pull is changing.
const MOST_TRIES: usize = 5;

/// A place that may have the base.
pub(super) enum Origin<'a> {
    Mirror(PathBuf, Option<CloneFilter>),
    Checkout(&'a LeftGit),
}

impl<'a> Origin<'a> {
    /// All of them, in the order in which they are tried. A checkout that is there goes on as it was made, so its mirror
    /// may be another one than that of what the pull asked for.
    pub(super) fn all(source: &Source<'_>, left: Option<&'a LeftGit>) -> Vec<Self> {
        let Extent { depth, filter, lfs } = source.extent;
        let mut mirrors: Vec<Self> = Vec::new();
        for filter in [filter, None, Some(CloneFilter::BlobNone)] {
            for depth in [depth, None] {
                let extent = Extent { depth, filter, lfs };
                let path = mirror_location(source.workspace, source.repo, extent);
                let is_known = |it: &Self| matches!(it, Self::Mirror(known, _) if *known == path);
                if !mirrors.iter().any(is_known) {
                    mirrors.push(Self::Mirror(path, filter));
                }
            }
        }
        mirrors.extend(left.map(Self::Checkout));
        mirrors
    }
}

/// The objects of a base, in a directory that git only reads.
pub(super) struct Base {
    pub(super) objects: PathBuf,
    pub(super) filter: Option<CloneFilter>,
    /// The commits whose parents are not there.
    pub(super) shallow: Vec<ObjectId>,
}

impl Base {
    /// The objects of `origin`, if it has the base.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(super) fn find(
        git: &Git,
        staging: &Staging,
        source: &Source<'_>,
        origin: &Origin<'_>,
    ) -> Result<Option<Self>> {
        let found = match origin {
            Origin::Mirror(path, filter) => Self::of_mirror(git, staging, path, *filter)?,
            Origin::Checkout(left) => Self::of_checkout(git, staging, source, left)?,
        };
        let Some(found) = found else { return Ok(None) };
        let format = source.base.format();
        let places = (found.objects.as_path(), source.checkout);
        let control = Control::make(git, staging, "look", format, found.filter, places, &[])?;
        let tree = format!("{}^{{tree}}", source.base);
        let is_there = control.command(&["cat-file", "-e", &tree]).run()?.status.success();
        Ok(is_there.then_some(found))
    }

    /// Second names of the mirror's packs: they stay as they are whatever other pulls do to the mirror meanwhile, so
    /// nobody waits for its lock.
    fn of_mirror(
        git: &Git,
        staging: &Staging,
        mirror: &Path,
        filter: Option<CloneFilter>,
    ) -> Result<Option<Self>> {
        for _ in 0..MOST_TRIES {
            let objects = staging.directory("base")?;
            let linked = link_objects(&git.monitor, &mirror.join("objects"), &objects);
            match linked.and_then(|()| read_shallow(mirror)) {
                Ok(shallow) => return Ok(Some(Self { objects, filter, shallow })),
                // It is not there, or is being repacked.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !mirror.exists() => {
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::io("read", mirror)(error)),
            }
        }
        Ok(None)
    }

    /// A pack of the base alone, whose objects get the names that their contents have.
    fn of_checkout(
        git: &Git,
        staging: &Staging,
        source: &Source<'_>,
        left: &LeftGit,
    ) -> Result<Option<Self>> {
        let base = source.base;
        let places = (left.objects(), source.checkout);
        let places = (places.0.as_path(), places.1);
        let theirs = Control::make(git, staging, "theirs", base.format(), None, places, &[])?;
        let list = ["rev-list", "--objects", "--no-walk", "--missing=print", base.as_str()];
        let listed = claimed(theirs.command(&list).output().map(Some))?;
        let Some(listed) = listed else { return Ok(None) };
        let is_there = |line: &&[u8]| !line.starts_with(b"?");
        let listed: Vec<&[u8]> = listed.split(|byte| *byte == b'\n').filter(is_there).collect();
        let objects = staging.directory("base")?;
        let packs = objects.join("pack");
        fs::create_dir(&packs).map_err(Failure::io("create", &packs))?;
        let name = packs.join("pack").to_string_lossy().into_owned();
        let arguments =
            ["pack-objects", "--delta-base-offset", "--no-use-bitmap-index", "-q", &name];
        let packed =
            theirs.command(&arguments).writes(&packs).input(listed.join(&b'\n')).output()?;
        let id = String::from_utf8_lossy(packed.trim_ascii()).into_owned();
        let pack = format!("{name}-{id}.pack");
        let index = format!("{name}-{id}.idx");
        fs::remove_file(&index).map_err(Failure::io("remove", Path::new(&index)))?;
        theirs.command(&["index-pack", &pack]).writes(&packs).output()?;
        Ok(Some(Self { objects, filter: None, shallow: vec![base.clone()] }))
    }
}

/// Gives everything beneath `from` a second name beneath `to`, or copies it.
fn link_objects(monitor: &Monitor, from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        monitor.check_stop().map_err(|_| io::Error::from(io::ErrorKind::Interrupted))?;
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if name.as_bytes().starts_with(b"tmp_") || name == "info" {
            continue;
        }
        let to = to.join(&name);
        if entry.file_type()?.is_dir() {
            fs::create_dir(&to)?;
            link_objects(monitor, &path, &to)?;
        } else if fs::hard_link(&path, &to).is_err() {
            fs::copy(&path, &to)?;
        }
    }
    Ok(())
}

fn read_shallow(mirror: &Path) -> io::Result<Vec<ObjectId>> {
    match fs::read(mirror.join("shallow")) {
        Ok(text) => Ok(text.split(|byte| *byte == b'\n').filter_map(ObjectId::parse).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
