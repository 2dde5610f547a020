//! References of a checkout, written as git writes them: beside, under a lock, renamed into place.

use std::{
    io::{self, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use cap_std::fs::{Dir, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use contract::Code;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use sha2::{Digest as _, Sha256};

use super::{Refusal, config_file, files, files::path};
use crate::{
    failure::{Failure, Result},
    remote::{LARGEST_REFS, Mirror, ObjectId, Refs, pack_refs, parse_refs, read_refs},
};

/// Where a pull keeps a second name of each lock that it holds. So the next pull can tell the locks of a
/// pull that was killed from those of a git that is at work.
const HELD: &str = "pull-locks";

/// A file of `.git` that is being written, under the lock that every git respects.
pub(super) struct Locked<'a> {
    git: &'a Dir,
    name: PathBuf,
    placed: bool,
}

impl<'a> Locked<'a> {
    /// Takes the lock of `name`. Pulls into one checkout exclude each other before they come here, so a lock that is a
    /// pull's is one whose process was killed, and is taken over.
    ///
    /// # Errors
    /// If somebody else has it.
    pub(super) fn take(git: &'a Dir, name: &Path) -> Result<Self> {
        let failed = |error| Failure::io("lock in .git", name)(error);
        if let Some(directory) = name.parent().filter(|it| !it.as_os_str().is_empty()) {
            git.create_dir_all(directory).map_err(failed)?;
        }
        let (lock, held) = (lock_name(name), held_name(name));
        git.create_dir_all(HELD).map_err(failed)?;
        if is_one_file(git, &lock, Path::new(&held)) {
            tracing::warn!(lock = %lock.display(), "removing the lock of a pull that was killed");
            git.remove_file(&lock).map_err(failed)?;
        }
        let _ = git.remove_file(&held);
        // Under its second name first: a lock that is there always has one.
        git.open_with(&held, OpenOptions::new().write(true).create_new(true)).map_err(failed)?;
        match git.hard_link(&held, git, &lock) {
            Ok(()) => Ok(Self { git, name: name.to_owned(), placed: false }),
            Err(error) => {
                release(git, &held);
                if error.kind() != io::ErrorKind::AlreadyExists {
                    return Err(failed(error));
                }
                Err(Failure::told(
                    Code::CheckoutConflict,
                    format!(
                        "git is at work in the directory: send the job again, or remove .git/{} if \
                         nothing is",
                        lock.display()
                    ),
                ))
            }
        }
    }

    /// Writes what the file is to hold.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write(&self, content: &[u8]) -> Result<()> {
        let failed = |error| Failure::io("write in .git", &self.name)(error);
        let mut file = self
            .git
            .open_with(lock_name(&self.name), OpenOptions::new().write(true).truncate(true))
            .map_err(failed)?;
        file.write_all(content).map_err(failed)
    }

    /// Gives the file the time of `metadata`: with an index it says which files git must look into.
    pub(super) fn set_time(&self, time: std::time::SystemTime) -> Result<()> {
        let failed = |error| Failure::io("date in .git", &self.name)(error);
        let options = OpenOptions::new().write(true).to_owned();
        let file = self.git.open_with(lock_name(&self.name), &options).map_err(failed)?;
        file.into_std().set_modified(time).map_err(failed)
    }

    /// Puts the file in place.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub(super) fn place(&mut self) -> Result<()> {
        let lock = lock_name(&self.name);
        let placed = self.git.rename(&lock, self.git, &self.name).or_else(|error| {
            // What is left of a branch `name/other` that was deleted.
            self.git.remove_dir(&self.name).map_err(|_| error)?;
            self.git.rename(&lock, self.git, &self.name)
        });
        placed.map_err(Failure::io("put in place in .git", &self.name))?;
        self.placed = true;
        release(self.git, &held_name(&self.name));
        Ok(())
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if !self.placed {
            let _ = self.git.remove_file(lock_name(&self.name));
            release(self.git, &held_name(&self.name));
        }
    }
}

fn lock_name(name: &Path) -> PathBuf {
    let mut name = name.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Of a fixed length, since a branch's name with the rest of a path may be longer than a name may be.
fn held_name(name: &Path) -> String {
    let digest: String = Sha256::digest(name.as_os_str().as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{HELD}/{digest}")
}

/// Removes a second name, and with the last one their directory.
fn release(git: &Dir, held: &str) {
    let _ = git.remove_file(held);
    let _ = git.remove_dir(HELD);
}

fn is_one_file(git: &Dir, one: &Path, other: &Path) -> bool {
    let identity = |name: &Path| git.symlink_metadata(name).map(|it| (it.dev(), it.ino())).ok();
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// Reads every reference of a checkout, symbolic ones left out.
///
/// # Errors
/// If one of them is not a regular file, or cannot be read.
pub(super) fn read(git: &Dir, refusal: &Refusal<'_>) -> Result<Refs> {
    read_refs(git, &|name, most| files::read(git, name, most, refusal))
}

/// Makes the branches of `origin` and the tags those of the mirror. Tags that are there stay as they
/// are, and so does everything else. `current` is what [`read`] returned.
///
/// # Errors
/// If they cannot be written.
pub(super) fn publish(
    git: &Dir,
    refusal: &Refusal<'_>,
    mirror: &Mirror<'_>,
    current: &Refs,
) -> Result<()> {
    const ORIGIN: &[u8] = b"refs/remotes/origin/";
    const HEAD: &str = "refs/remotes/origin/HEAD";
    let failed = |error| Failure::io("read in .git", Path::new("packed-refs"))(error);
    let mut wanted: Refs =
        current.iter().filter(|(name, _)| !name.starts_with(ORIGIN)).map(owned).collect();
    for (name, id) in mirror.refs() {
        if let Some(branch) = name.strip_prefix(b"refs/heads/") {
            wanted.insert([ORIGIN, branch].concat(), id.clone());
        } else {
            wanted.entry(name.clone()).or_insert_with(|| id.clone());
        }
    }
    if wanted != *current {
        let mut lock = Locked::take(git, Path::new("packed-refs"))?;
        let mut packed = parse_refs(
            &files::read(git, Path::new("packed-refs"), LARGEST_REFS, refusal)?.unwrap_or_default(),
            b' ',
        );
        packed.retain(|name, _| !name.starts_with(ORIGIN));
        let new = wanted
            .iter()
            .filter(|(name, _)| name.starts_with(ORIGIN) || !current.contains_key(name.as_slice()));
        packed.extend(new.map(owned));
        lock.write(&pack_refs(&packed))?;
        lock.place()?;
        // A loose reference hides a packed one of its name.
        match git.remove_dir_all("refs/remotes/origin") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    if let Some(default) = mirror.default() {
        let text = [b"ref: ".as_slice(), ORIGIN, default, b"\n"].concat();
        if files::read(git, Path::new(HEAD), 8192, refusal)?.as_deref() != Some(&text) {
            let mut head = Locked::take(git, Path::new(HEAD))?;
            head.write(&text)?;
            head.place()?;
        }
    }
    Ok(())
}

fn owned((name, id): (&Vec<u8>, &ObjectId)) -> (Vec<u8>, ObjectId) {
    (name.clone(), id.clone())
}

/// Notes in the logs of `HEAD` and of the branch where they came from.
pub(super) fn log(git: &Dir, branch: Option<&[u8]>, old: Option<&ObjectId>, new: &ObjectId) {
    let old = old.map_or_else(|| new.zero(), |old| old.as_str().to_owned());
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let line =
        format!("{old} {new} github-pull-api <github-pull-api@localhost> {seconds} +0000\tpull\n");
    let branch = branch.map(|branch| [b"logs/refs/heads/", branch].concat());
    for name in [Some(b"logs/HEAD".to_vec()), branch].into_iter().flatten() {
        let name = path(&name);
        // Only where git keeps one: `core.logAllRefUpdates` may be off. What is no file is left alone.
        if !git.symlink_metadata(name).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let mut options = OpenOptions::new();
        options.append(true).custom_flags(O_NOFOLLOW | O_NONBLOCK);
        let appended =
            git.open_with(name, &options).and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = appended {
            tracing::warn!(name = %name.display(), %error, "cannot write a log of references");
        }
    }
}

/// Makes `git pull` and `git push` work on a branch that is new here.
pub(super) fn track(git: &Dir, branch: &[u8]) {
    let written = (|| {
        let mut lock = Locked::take(git, Path::new("config"))?;
        let failed = |error| Failure::io("read in .git", Path::new("config"))(error);
        let mut config = git.read("config").map_err(failed)?;
        if !config.ends_with(b"\n") {
            config.push(b'\n');
        }
        config.extend_from_slice(&config_file::branch_section(branch));
        lock.write(&config)?;
        lock.place()
    })();
    if let Err(error) = written {
        let branch = String::from_utf8_lossy(branch);
        tracing::warn!(%branch, %error, "cannot note the upstream of a branch");
    }
}

#[cfg(test)]
mod tests {
    use cap_std::ambient_authority;

    use super::*;

    fn git(directory: &tempfile::TempDir) -> Dir {
        Dir::open_ambient_dir(directory.path(), ambient_authority()).unwrap()
    }

    #[test]
    fn the_lock_of_a_pull_that_was_killed_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let git = git(&directory);
        // As a kill leaves it: nothing of its end is run.
        for name in ["packed-refs", "refs/remotes/origin/HEAD"].map(Path::new) {
            let killed = std::mem::ManuallyDrop::new(Locked::take(&git, name).unwrap());
            killed.write(b"half").unwrap();
            assert!(git.exists(lock_name(name)));
        }
        for name in ["packed-refs", "refs/remotes/origin/HEAD"].map(Path::new) {
            let mut lock = Locked::take(&git, name).unwrap();
            lock.write(b"whole").unwrap();
            lock.place().unwrap();
            assert_eq!(git.read(name).unwrap(), b"whole");
            assert!(!git.exists(lock_name(name)));
        }
        // Killed after the file was put in place, it has left a second name of it.
        git.create_dir(HELD).unwrap();
        git.hard_link("packed-refs", &git, held_name(Path::new("packed-refs"))).unwrap();
        drop(Locked::take(&git, Path::new("packed-refs")).unwrap());
        assert_eq!(git.read("packed-refs").unwrap(), b"whole");
        assert!(!git.exists(HELD));
    }

    #[test]
    fn the_lock_of_a_git_at_work_is_respected() {
        let directory = tempfile::tempdir().unwrap();
        let git = git(&directory);
        git.write("index.lock", "git's").unwrap();
        let failure = Locked::take(&git, Path::new("index")).err().unwrap();
        assert!(format!("{failure:?}").contains("index.lock"), "{failure:?}");
        assert_eq!(git.read("index.lock").unwrap(), b"git's");
        assert!(!git.exists(HELD));
    }
}
