//! References of a checkout, written as git writes them: beside, under a lock, renamed into place.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
};

use cap_std::fs::{Dir, MetadataExt as _, OpenOptions};
use contract::Code;
use git2::Oid;
use sha2::{Digest as _, Sha256};

use super::mirror::Mirror;
use crate::failure::{Failure, Result};

/// The first line of a `packed-refs` that is in order and holds no peeled tags.
pub(super) const PACKED_HEADER: &str = "# pack-refs with: sorted \n";

/// Where a pull keeps a second name of each lock it holds, so that the next one knows the locks of a pull that was
/// killed from those of a git that is at work.
const HELD: &str = "pull-locks";

/// A file of `.git` in the making, under the lock every git respects.
pub(super) struct Locked<'a> {
    git: &'a Dir,
    name: String,
    placed: bool,
}

impl<'a> Locked<'a> {
    /// Takes the lock of `name`. Pulls into one checkout exclude each other before they come here, so a lock that is a
    /// pull's is one whose process was killed, and is taken over.
    ///
    /// # Errors
    /// If somebody else has it.
    pub(super) fn take(git: &'a Dir, name: &str) -> Result<Self> {
        let failed = |error| Failure::io("lock in .git", Path::new(name))(error);
        if let Some((directory, _)) = name.rsplit_once('/') {
            git.create_dir_all(directory).map_err(failed)?;
        }
        let (lock, held) = (lock_name(name), held_name(name));
        git.create_dir_all(HELD).map_err(failed)?;
        if is_one_file(git, &lock, &held) {
            tracing::warn!(lock, "removing the lock of a pull that was killed");
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
                        "git is at work in the directory: send the job again, or remove .git/{lock} if \
                         nothing is"
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
        let failed = |error| Failure::io("write in .git", Path::new(&self.name))(error);
        let mut file = self
            .git
            .open_with(lock_name(&self.name), OpenOptions::new().write(true).truncate(true))
            .map_err(failed)?;
        file.write_all(content).map_err(failed)
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
        placed.map_err(Failure::io("put in place in .git", Path::new(&self.name)))?;
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

fn lock_name(name: &str) -> String {
    format!("{name}.lock")
}

/// Of a fixed length, since a branch's name with the rest of a path may be longer than a name may be.
fn held_name(name: &str) -> String {
    let digest: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{HELD}/{digest}")
}

/// Removes a second name, and with the last one their directory.
fn release(git: &Dir, held: &str) {
    let _ = git.remove_file(held);
    let _ = git.remove_dir(HELD);
}

fn is_one_file(git: &Dir, one: &str, other: &str) -> bool {
    let identity = |name| git.symlink_metadata(name).map(|it| (it.dev(), it.ino())).ok();
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// Makes the branches of `origin` and the tags those of the mirror. Tags that are there stay as they
/// are; so does everything else.
///
/// # Errors
/// If they cannot be written.
pub(super) fn publish(git: &Dir, mirror: &Mirror) -> Result<()> {
    let failed = |error| Failure::io("read in .git", Path::new("packed-refs"))(error);
    let mut lock = Locked::take(git, "packed-refs")?;
    let packed = match git.read_to_string("packed-refs") {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(error)),
    };
    let mut lines: Vec<(String, String)> = packed
        .lines()
        .filter(|line| !line.starts_with(['#', '^']))
        .filter_map(|line| line.split_once(' '))
        .map(|(id, name)| (name.to_owned(), id.to_owned()))
        .filter(|(name, _)| !name.starts_with("refs/remotes/origin/"))
        .collect();
    let tagged: std::collections::HashSet<_> = lines
        .iter()
        .map(|(name, _)| name.clone())
        .filter(|name| name.starts_with("refs/tags/"))
        .collect();
    let add = |(name, id): (String, Oid)| (name, id.to_string());
    for (name, id) in mirror.tags()? {
        let name = format!("refs/tags/{name}");
        if !tagged.contains(&name) && !git.exists(&name) {
            lines.push((name, id.to_string()));
        }
    }
    lines.extend(
        mirror
            .branches()?
            .into_iter()
            .map(|(name, id)| (format!("refs/remotes/origin/{name}"), id))
            .map(add),
    );
    lines.sort();
    let mut text = PACKED_HEADER.to_owned();
    for (name, id) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{id} {name}");
    }
    lock.write(text.as_bytes())?;
    lock.place()?;
    // A loose reference hides a packed one of its name.
    match git.remove_dir_all("refs/remotes/origin") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    if let Some(default) = mirror.default() {
        let mut head = Locked::take(git, "refs/remotes/origin/HEAD")?;
        head.write(format!("ref: refs/remotes/origin/{default}\n").as_bytes())?;
        head.place()?;
    }
    Ok(())
}

/// Notes in the logs of `HEAD` and of the branch where they came from.
pub(super) fn log(git: &Dir, branch: &str, old: Option<Oid>, new: Oid) {
    let old = old.unwrap_or(Oid::ZERO_SHA1);
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let line =
        format!("{old} {new} github-pull-api <github-pull-api@localhost> {seconds} +0000\tpull\n");
    for name in ["logs/HEAD".to_owned(), format!("logs/refs/heads/{branch}")] {
        // Only where git keeps one: `core.logAllRefUpdates` may be off.
        let appended = git
            .open_with(&name, OpenOptions::new().append(true))
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = appended
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(name, %error, "cannot write a log of references");
        }
    }
}

/// Makes `git pull` and `git push` work on a branch that is new here.
pub(super) fn track(git: &Dir, branch: &str) {
    let quoted = branch.replace('"', "\\\"");
    let section =
        format!("\n[branch \"{quoted}\"]\n\tremote = origin\n\tmerge = refs/heads/{branch}\n");
    let written = (|| {
        let mut lock = Locked::take(git, "config")?;
        let failed = |error| Failure::io("read in .git", Path::new("config"))(error);
        let mut config = git.read("config").map_err(failed)?;
        config.extend_from_slice(section.as_bytes());
        lock.write(&config)?;
        lock.place()
    })();
    if let Err(error) = written {
        tracing::warn!(branch, %error, "cannot note the upstream of a branch");
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
        for name in ["packed-refs", "refs/remotes/origin/HEAD"] {
            let killed = std::mem::ManuallyDrop::new(Locked::take(&git, name).unwrap());
            killed.write(b"half").unwrap();
            assert!(git.exists(lock_name(name)));
        }
        for name in ["packed-refs", "refs/remotes/origin/HEAD"] {
            let mut lock = Locked::take(&git, name).unwrap();
            lock.write(b"whole").unwrap();
            lock.place().unwrap();
            assert_eq!(git.read(name).unwrap(), b"whole");
            assert!(!git.exists(lock_name(name)));
        }
        // Killed after the file was put in place, it has left a second name of it.
        git.create_dir(HELD).unwrap();
        git.hard_link("packed-refs", &git, held_name("packed-refs")).unwrap();
        drop(Locked::take(&git, "packed-refs").unwrap());
        assert_eq!(git.read("packed-refs").unwrap(), b"whole");
        assert!(!git.exists(HELD));
    }

    #[test]
    fn the_lock_of_a_git_at_work_is_respected() {
        let directory = tempfile::tempdir().unwrap();
        let git = git(&directory);
        git.write("index.lock", "git's").unwrap();
        let failure = Locked::take(&git, "index").err().unwrap();
        assert!(format!("{failure:?}").contains("index.lock"), "{failure:?}");
        assert_eq!(git.read("index.lock").unwrap(), b"git's");
        assert!(!git.exists(HELD));
    }
}
