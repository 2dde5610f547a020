//! A cgroup per job, if this machine delegates cgroups.
//!
//! A cgroup contains all processes started in it, whatever their session. Version 2 can kill a whole group in one
//! step (`cgroup.kill`, Linux 5.14), and the controller `pids`, in both versions, limits the number of processes in
//! it. The controller `cpu` gives the group no more processor time than one busy process of the stack, however many
//! processes it has. See cgroups(7) and the kernel's `admin-guide/cgroup-v2.rst`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use nix::unistd::{AccessFlags, access};

/// The prefix of our groups' names. The owner's pid namespace and pid and a number follow.
const PREFIX: &str = "stack-job-";

/// A group can be removed when its last process is gone, which takes a moment after the kill.
const REMOVAL_TRIES: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(2);

/// A group created by this process, its owner. Dropping it kills its processes and removes it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directory: PathBuf,
}

/// A cgroup hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    Version2,
    /// Version 1, the hierarchy of this controller.
    Version1(&'static str),
}

/// All hierarchies in which a job may have a group.
const HIERARCHIES: [Hierarchy; 3] = [Hierarchy::Version2, Hierarchy::PIDS, Hierarchy::CPU];

impl Hierarchy {
    /// Limits the number of processes.
    pub(crate) const PIDS: Self = Self::Version1("pids");
    /// Shares processor time between groups.
    pub(crate) const CPU: Self = Self::Version1("cpu");

    /// The directory of this process's own group, if the hierarchy is mounted and the group is visible in it.
    pub(crate) fn own(self) -> Option<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        self.own_in(&mounts, &groups)
    }

    /// Like [`own`](Self::own), from the contents of `/proc/self/mountinfo` and `/proc/self/cgroup`.
    fn own_in(self, mounts: &str, groups: &str) -> Option<PathBuf> {
        let path = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let is_it = match self {
                Self::Version2 => number == "0" && controllers.is_empty(),
                Self::Version1(name) => controllers.split(',').any(|it| it == name),
            };
            is_it.then_some(path)
        })?;
        mounts.lines().find_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let mut kind = kind.split(' ');
            let (kind, options) = (kind.next()?, kind.nth(1)?);
            let is_it = match self {
                Self::Version2 => kind == "cgroup2",
                Self::Version1(name) => kind == "cgroup" && options.split(',').any(|it| it == name),
            };
            let mut fields = mount.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            // Only a part of the hierarchy may be mounted, as in a container.
            let below = Path::new(path).strip_prefix(root).ok()?;
            is_it.then(|| Path::new(point).join(below))
        })
    }

    /// The directory of this process's own group, if this process may create groups in it and move its children into
    /// them.
    ///
    /// # Errors
    /// If it may not. The error is a clause that says why.
    pub(crate) fn delegated(self) -> Result<PathBuf, String> {
        let name = match self {
            Self::Version2 => "cgroup v2".to_owned(),
            Self::Version1(controller) => format!("the cgroup v1 controller {controller}"),
        };
        let own = self.own().ok_or_else(|| format!("{name} is not mounted"))?;
        for needed in [own.clone(), own.join("cgroup.procs")] {
            access(&needed, AccessFlags::W_OK)
                .map_err(|error| format!("{} cannot be written to: {error}", needed.display()))?;
        }
        Ok(own)
    }
}

impl Cgroup {
    /// Creates a group below this process's group, and removes groups that killed owners left there.
    ///
    /// # Errors
    /// If the hierarchy is not mounted, or not delegated to this process.
    pub(crate) fn create(hierarchy: Hierarchy) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let own = hierarchy.delegated().map_err(io::Error::other)?;
        end_orphaned_in(&own);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory =
            own.join(format!("{PREFIX}{}-{}-{number}", pid_namespace()?, process::id()));
        fs::create_dir(&directory)?;
        Ok(Self { directory })
    }

    /// Limits the number of its processes and threads.
    ///
    /// # Errors
    /// If the controller `pids` is not enabled for it.
    pub(crate) fn limit(&self, processes: u32) -> io::Result<()> {
        fs::write(self.directory.join("pids.max"), processes.to_string())
    }

    /// Whether it shares processor time with its siblings as one.
    pub(crate) fn shares_processor_time(&self) -> bool {
        ["cpu.weight", "cpu.shares"].iter().any(|file| self.directory.join(file).exists())
    }

    /// The file through which a process enters: it writes `0`.
    pub(crate) fn procs_file(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.directory.join("cgroup.procs"))
    }

    /// Kills everything in it, or, on older kernels, prevents everything in it from forking.
    pub(crate) fn kill(&self) {
        kill_in(&self.directory);
    }

    /// Removes it once it is empty. Blocks for at most a tenth of a second.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match fs::remove_dir(&self.directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(_) if tries < REMOVAL_TRIES => thread::sleep(REMOVAL_PAUSE),
                removed => return removed,
            }
            tries += 1;
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.directory.exists() {
            self.kill();
            // If this fails, the next owner with the same parent removes it.
            let _ = self.remove();
        }
    }
}

/// Kills the groups that killed owners left beside this one.
pub(crate) fn end_orphaned() {
    for hierarchy in HIERARCHIES {
        if let Ok(own) = hierarchy.delegated() {
            end_orphaned_in(&own);
        }
    }
}

fn end_orphaned_in(own: &Path) {
    let Ok(namespace) = pid_namespace() else { return };
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| {
            let mut parts = name.strip_prefix(PREFIX)?.split('-');
            // Skips pids of other namespaces.
            (parts.next()?.parse() == Ok(namespace)).then(|| parts.next()?.parse::<u32>().ok())?
        });
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            kill_in(&entry.path());
            // Fails as long as it is not empty, as intended.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn kill_in(directory: &Path) {
    for (file, text) in [("pids.max", b"0"), ("cgroup.kill", b"1")] {
        // An error means that the file does not exist: another version, an older kernel, or a disabled controller.
        // Files cannot be created in this file system.
        let opened = OpenOptions::new().write(true).open(directory.join(file));
        let _ = opened.and_then(|mut file| file.write_all(text));
    }
}

/// The inode of this process's pid namespace.
pub(crate) fn pid_namespace() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_in_both_versions_and_in_a_container() {
        let both = "36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
                    39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let groups =
            "9:name=systemd:/\n8:cpu,pids:/user.slice/a b\n0::/user.slice/session-1.scope\n";
        assert_eq!(
            Hierarchy::Version2.own_in(both, groups),
            Some("/sys/fs/cgroup/unified/user.slice/session-1.scope".into())
        );
        assert_eq!(
            Hierarchy::PIDS.own_in(both, groups),
            Some("/sys/fs/cgroup/pids/user.slice/a b".into())
        );
        let container = "9 8 0:1 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let own = |groups| Hierarchy::Version2.own_in(container, groups);
        assert_eq!(own("0::/docker/x/y\n"), Some("/sys/fs/cgroup/y".into()));
        assert_eq!(own("0::/elsewhere\n"), None);
        assert_eq!(own("1:pids:/docker/x\n"), None);
        assert_eq!(Hierarchy::Version2.own_in("", ""), None);
    }
}
