//! The staging directory: a pull makes things there before it puts them in place.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    failure::{Failure, Result},
    lock::Lock,
    monitor::Monitor,
};

/// Held for as long as the pull lives: that is how other pulls know that it does.
const LOCK: &str = "pull.lock";

/// A directory whose lock is free is left alone for so long: its pull may be about to take the lock.
const YOUNG: Duration = Duration::from_secs(600);

/// A directory that is removed with everything in it when the pull ends.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    _lock: Lock,
}

impl Staging {
    /// Makes the directory `path`, and removes those of pulls that were killed.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn create(monitor: &Monitor, path: PathBuf) -> Result<Self> {
        if let Some(temporary) = path.parent() {
            sweep(temporary);
        }
        fs::create_dir_all(&path).map_err(Failure::io("create", &path))?;
        let lock = Lock::take(monitor, &path.join(LOCK), "Waiting for another pull of this job")?;
        let staging = Self { path, _lock: lock };
        staging.clear()?;
        Ok(staging)
    }

    /// Makes an empty directory `name` in it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        remove(&path);
        fs::create_dir(&path).map_err(Failure::io("create", &path))?;
        Ok(path)
    }

    /// A path in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes everything in it.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub(crate) fn clear(&self) -> Result<()> {
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

impl Drop for Staging {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a directory with everything in it. What cannot be removed now, a later pull removes.
fn remove(path: &Path) {
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
