//! The directory in which a pull makes things before it puts them in place.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Job, lock::Lock};
use crate::failure::{Failure, Result};

/// Held for as long as the pull lives; it is how others know that it does.
const LOCK: &str = "pull.lock";

/// Directories of dead pulls are left alone for so long, so that nobody takes a pull that is just
/// about to take its lock for a dead one.
const YOUNG: Duration = Duration::from_secs(600);

/// A directory that is removed with everything in it when the pull ends.
#[derive(Debug)]
pub(super) struct Aside {
    path: PathBuf,
    _lock: Lock,
}

impl Aside {
    /// Makes the directory of `job`, and removes those of pulls that were killed.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn create(job: &Job) -> Result<Self> {
        sweep(&job.workspace.temporary());
        let path = job.aside();
        super::create_dir(&path)?;
        let lock = Lock::take(job, &path.join(LOCK), "Waiting for another pull of this job")?;
        let aside = Self { path, _lock: lock };
        aside.clear()?;
        Ok(aside)
    }

    /// A path in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes everything in it.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub(super) fn clear(&self) -> Result<()> {
        let entries = fs::read_dir(&self.path).map_err(Failure::io("list", &self.path))?;
        for entry in entries.flatten().filter(|entry| entry.file_name() != LOCK) {
            let path = entry.path();
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            removed.map_err(Failure::io("remove", &path))?;
        }
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a directory, however full; what cannot be removed now is removed by a later pull.
pub(super) fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove what a pull left");
        }
        _ => {}
    }
}

/// Removes the directories of pulls whose process was killed.
fn sweep(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let lock = path.join(LOCK);
        let is_old = fs::symlink_metadata(&lock)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > YOUNG));
        if is_old && Lock::try_take(&lock).is_ok_and(|lock| lock.is_some()) {
            tracing::info!(path = %path.display(), "removing what a killed pull left");
            remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, time::SystemTime};

    use super::*;

    #[test]
    fn only_old_directories_of_dead_pulls_are_swept() {
        let temporary = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - 2 * YOUNG;
        let make = |name: &str, time: SystemTime| {
            let path = temporary.path().join(name);
            fs::create_dir_all(path.join("half/a/clone")).unwrap();
            let file = File::create(path.join(LOCK)).unwrap();
            file.set_modified(time).unwrap();
            (path, file)
        };
        let (dead, _) = make("dead", old);
        let (young, _) = make("young", SystemTime::now());
        let (alive, alive_lock) = make("alive", old);
        alive_lock.try_lock().unwrap();
        let foreign = temporary.path().join("of-another-service");
        fs::create_dir(&foreign).unwrap();
        sweep(temporary.path());
        assert_eq!(
            [dead, young, alive, foreign].map(|path| path.exists()),
            [false, true, true, true]
        );
    }
}
