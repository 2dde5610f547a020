//! Watches the volume. A task that waits for a change in a directory wakes at once if this process makes the change,
//! promptly if another process does, and at the latest at the next poll.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;

/// The poll interval if the kernel reports changes: it may miss some, and it does not report released locks.
const POLL_LOCAL: Duration = Duration::from_millis(500);
/// The poll interval of those who only wait for changes that the kernel reports.
const POLL_RARELY: Duration = Duration::from_secs(5);
/// The poll interval if it does not (network file systems, or no inotify instances left).
const POLL_REMOTE: Duration = Duration::from_millis(100);

/// Watches directories of the volume. A process has only one: many machines allow only 128 inotify instances per
/// user, but many more watches.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    poll: Duration,
}

/// The kernel watcher has its own thread, which runs callbacks and also serves requests. So a lock that the callback
/// needs must not be held during a request. Hence two locks: `kernel` is taken first and held during requests,
/// `directories` only briefly.
#[derive(Debug)]
struct Shared {
    kernel: Mutex<Kernel>,
    directories: Mutex<Directories>,
}

/// What is watched.
#[derive(Debug, Default)]
struct Directories {
    /// Whose changes someone waits for: a directory, or a file in one.
    watched: HashMap<PathBuf, Watched>,
    /// How many of these are in each directory that the kernel watches.
    users: HashMap<PathBuf, usize>,
}

#[derive(Debug)]
enum Kernel {
    /// No directory was watched yet.
    Unused,
    Watching(RecommendedWatcher),
    /// The kernel provided no watcher, so there are only polls.
    Unavailable,
}

#[derive(Debug)]
struct Watched {
    changes: watch::Sender<u64>,
    users: usize,
}

/// A watched directory, or a file in one.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    directory: PathBuf,
    path: PathBuf,
    changes: watch::Receiver<u64>,
    is_told: bool,
    poll: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The value stays usable after a panic in another thread.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watcher {
    pub(crate) fn new(root: &Path) -> Self {
        let (poll, kernel) = if is_remote(root) {
            (POLL_REMOTE, Kernel::Unavailable)
        } else {
            (POLL_LOCAL, Kernel::Unused)
        };
        let shared = Shared { kernel: Mutex::new(kernel), directories: Mutex::default() };
        Self { shared: Arc::new(shared), poll }
    }

    /// Starts watching `directory`. No change after this call is missed.
    #[must_use]
    pub fn watch(&self, directory: &Path) -> Watch {
        self.watch_path(directory, directory.to_owned())
    }

    /// Starts watching the file `name` in `directory`, which need not exist yet. Other files there wake nobody.
    #[must_use]
    pub fn watch_file(&self, directory: &Path, name: &str) -> Watch {
        self.watch_path(directory, directory.join(name))
    }

    fn watch_path(&self, directory: &Path, path: PathBuf) -> Watch {
        let mut kernel = lock(&self.shared.kernel);
        let (changes, is_new) = self.shared.subscribe(directory, &path);
        if matches!(*kernel, Kernel::Unused) {
            *kernel = self.connect();
        }
        let is_told = match &mut *kernel {
            Kernel::Watching(_) if !is_new => true,
            Kernel::Watching(watcher) => {
                watcher.watch(directory, RecursiveMode::NonRecursive).is_ok()
            }
            Kernel::Unused | Kernel::Unavailable => false,
        };
        let poll = if is_told { self.poll } else { POLL_REMOTE };
        let (shared, directory) = (Arc::clone(&self.shared), directory.to_owned());
        Watch { shared, directory, path, changes, is_told, poll }
    }

    fn connect(&self) -> Kernel {
        // Weak, because the kernel watcher is inside the value that it would keep alive.
        let shared = Arc::downgrade(&self.shared);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let (Some(shared), Ok(event)) = (shared.upgrade(), event) else { return };
            // Reading a file is an event too. A reader that woke and read again because of it would never stop.
            if matches!(event.kind, EventKind::Access(_)) {
                return;
            }
            if event.need_rescan() {
                return shared.wake_all();
            }
            for path in &event.paths {
                for directory in [Some(path.as_path()), path.parent()].into_iter().flatten() {
                    shared.wake(directory);
                }
            }
        });
        watcher.map(Kernel::Watching).unwrap_or_else(|error| {
            tracing::warn!(%error, "inotify is not available: polling instead");
            Kernel::Unavailable
        })
    }

    /// Wakes the tasks of this process that watch `directory`.
    pub fn wake(&self, directory: &Path) {
        self.shared.wake(directory);
    }
}

impl Shared {
    /// A receiver of changes of `path`, and whether it is the first in this directory.
    fn subscribe(&self, directory: &Path, path: &Path) -> (watch::Receiver<u64>, bool) {
        let mut directories = lock(&self.directories);
        let users = directories.users.entry(directory.to_owned()).or_default();
        *users += 1;
        let is_new = *users == 1;
        let watched = directories
            .watched
            .entry(path.to_owned())
            .or_insert_with(|| Watched { changes: watch::Sender::new(0), users: 0 });
        watched.users += 1;
        (watched.changes.subscribe(), is_new)
    }

    /// Returns whether that was the last user of this directory.
    fn unsubscribe(&self, directory: &Path, path: &Path) -> bool {
        let mut directories = lock(&self.directories);
        if let Some(watched) = directories.watched.get_mut(path) {
            watched.users -= 1;
            if watched.users == 0 {
                directories.watched.remove(path);
            }
        }
        let Some(users) = directories.users.get_mut(directory) else { return false };
        *users -= 1;
        let is_last = *users == 0;
        if is_last {
            directories.users.remove(directory);
        }
        is_last
    }

    fn wake(&self, path: &Path) {
        if let Some(watched) = lock(&self.directories).watched.get(path) {
            watched.wake();
        }
    }

    /// The kernel has dropped events.
    fn wake_all(&self) {
        lock(&self.directories).watched.values().for_each(Watched::wake);
    }
}

impl Watched {
    fn wake(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Watch {
    /// Waits until something has changed since the last call (or since the watch started), or until the next poll.
    pub async fn changed(&mut self) {
        // The sender is in the map as long as this watch exists, so the channel cannot close.
        let _ = tokio::time::timeout(self.poll, self.changes.changed()).await;
    }

    /// The same, but polls rarely if the kernel reports changes: for those who do not wait for a lock.
    pub async fn reported(&mut self) {
        let poll = if self.is_told { POLL_RARELY } else { self.poll };
        let _ = tokio::time::timeout(poll, self.changes.changed()).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut kernel = lock(&self.shared.kernel);
        if self.shared.unsubscribe(&self.directory, &self.path)
            && let Kernel::Watching(watcher) = &mut *kernel
        {
            // Fails if the directory, and so its watch, is gone.
            let _ = watcher.unwatch(&self.directory);
        }
    }
}

/// Whether other machines can change this directory without the kernel noticing.
#[cfg(target_os = "linux")]
fn is_remote(path: &Path) -> bool {
    /// From linux/magic.h: NFS, SMB (version 1, CIFS, version 2 and later), FUSE, 9p, Ceph.
    const REMOTE: [u64; 7] =
        [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x6573_5546, 0x0102_1997, 0x00C3_6400];
    nix::sys::statfs::statfs(path).is_ok_and(|stat| {
        // The type is signed on some machines and has 32 bits on others. The magic number has 32 bits.
        let magic = u64::try_from(stat.filesystem_type().0 & 0xFFFF_FFFF).unwrap_or_default();
        REMOTE.contains(&magic)
    })
}

#[cfg(not(target_os = "linux"))]
fn is_remote(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_change_by_another_process_wakes_and_a_read_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let watcher = Watcher::new(dir.path());
        let mut watch = watcher.watch(dir.path());
        let start = Instant::now();
        std::fs::write(dir.path().join("x"), "1").unwrap();
        watch.changed().await;
        assert!(start.elapsed() < POLL_LOCAL, "{:?}", start.elapsed());
        // The write causes several events. Wait until all of them have arrived.
        while tokio::time::timeout(Duration::from_millis(100), watch.changes.changed())
            .await
            .is_ok()
        {}
        std::fs::read(dir.path().join("x")).unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(200), watch.changes.changed())
                .await
                .is_err()
        );
    }

    /// The kernel watcher once waited for a lock that was held while requesting another watch.
    #[test]
    fn watches_are_added_and_removed_while_files_change() {
        let dir = tempfile::tempdir().unwrap();
        let watcher = Arc::new(Watcher::new(dir.path()));
        let (done, finished) = std::sync::mpsc::channel();
        for n in 0..4 {
            let (watcher, done) = (Arc::clone(&watcher), done.clone());
            let path = dir.path().join(n.to_string());
            std::fs::create_dir(&path).unwrap();
            std::thread::spawn(move || {
                for round in 0..200 {
                    let _watch = watcher.watch(&path);
                    std::fs::write(path.join("x"), round.to_string()).unwrap();
                }
                done.send(()).unwrap();
            });
        }
        for _ in 0..4 {
            finished.recv_timeout(Duration::from_secs(30)).expect("a deadlock");
        }
    }

    #[tokio::test]
    async fn a_wake_is_kept_for_later_waiters() {
        let dir = tempfile::tempdir().unwrap();
        let watcher = Watcher::new(dir.path());
        let mut watches: Vec<_> = (0..3).map(|_| watcher.watch(dir.path())).collect();
        watcher.wake(dir.path());
        for watch in &mut watches {
            assert!(watch.changes.has_changed().unwrap());
        }
        drop(watches);
        let directories = lock(&watcher.shared.directories);
        assert!(directories.watched.is_empty() && directories.users.is_empty());
    }

    #[tokio::test]
    async fn another_file_does_not_wake() {
        let dir = tempfile::tempdir().unwrap();
        let watcher = Watcher::new(dir.path());
        let mut directory = watcher.watch(dir.path());
        let mut file = watcher.watch_file(dir.path(), "x");
        std::fs::write(dir.path().join("y"), "1").unwrap();
        directory.changed().await;
        assert!(!file.changes.has_changed().unwrap());
        // The other watch does not end the kernel's.
        drop(directory);
        let start = Instant::now();
        std::fs::write(dir.path().join("x"), "1").unwrap();
        file.reported().await;
        assert!(start.elapsed() < POLL_LOCAL, "{:?}", start.elapsed());
    }
}
