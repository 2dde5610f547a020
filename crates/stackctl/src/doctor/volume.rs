//! Whether the workspace's file system can do what the stack relies on. The doctor tries it in a directory that it
//! removes again.

use std::{
    fs::{self, File, TryLockError},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, statfs};

use super::finding::{Finding, State};
use crate::program;

const GIB: u64 = 1 << 30;
/// Below this, a few clones fill the disk.
const LITTLE: u64 = 2 * GIB;

/// What was tried, and how it went.
#[derive(Debug)]
pub(super) struct Volume {
    /// The future workspace.
    pub(super) path: PathBuf,
    /// Whether a file could be created there.
    pub(super) write: io::Result<()>,
    /// `link(2)`, which ensures that a job starts and ends once.
    pub(super) link: io::Result<()>,
    /// `flock(2)`, which shows that a process has ended.
    pub(super) lock: io::Result<()>,
    pub(super) place: Place,
    /// For users other than root, in bytes, if it is known.
    pub(super) free: Option<u64>,
}

/// Whether callers need a token, judged by what is on the volume and in the settings.
pub(super) fn callers(path: &Path, has_admin_token: bool, is_ajar: bool, bind: IpAddr) -> Finding {
    const NAME: &str = "callers";
    let is_closed = has_admin_token || path.join(".stack/tokens/closed").exists();
    if is_closed && !is_ajar {
        return Finding::ok(NAME, "need a token");
    }
    if bind.is_loopback() {
        return Finding::ok(NAME, "need no token; the stack listens on this machine only");
    }
    let found = format!("need no token: whoever can reach {bind} may run agents and read all jobs");
    let fix = if is_ajar {
        "unset ALLOW_ANONYMOUS".to_owned()
    } else {
        format!("after the first start: {} token create --admin > admin.token", program::name())
    };
    Finding::advice(NAME, found, fix)
}

/// Where the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Local,
    /// The kernel does not report changes that other machines make.
    Network,
}

impl Volume {
    /// Tries it. If the directory does not exist yet, it tries the one in which it would be created.
    pub(super) fn look(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let there = path.ancestors().find(|path| path.exists()).unwrap_or(&path);
        let remote = [NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, FUSE_SUPER_MAGIC];
        let is_remote = statfs(there).is_ok_and(|it| remote.contains(&it.filesystem_type()));
        let free = nix::sys::statvfs::statvfs(there)
            .ok()
            .map(|it| it.blocks_available().saturating_mul(it.fragment_size()));
        let scratch = tempfile::Builder::new().prefix(".stackctl-doctor-").tempdir_in(there);
        let (write, link, lock) = match &scratch {
            Ok(scratch) => attempts(scratch.path()),
            // Its message names the scratch directory, which does not matter to anybody.
            Err(error) => (Err(error.kind().into()), Ok(()), Ok(())),
        };
        let place = if is_remote { Place::Network } else { Place::Local };
        Self { write, link, lock, place, free, path }
    }
}

fn attempts(directory: &Path) -> (io::Result<()>, io::Result<()>, io::Result<()>) {
    let file = directory.join("file");
    let write = fs::write(&file, "x");
    let link = fs::hard_link(&file, directory.join("link")).and_then(|()| {
        match fs::hard_link(&file, directory.join("link")) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(io::Error::other("the same name can be taken twice")),
        }
    });
    let lock = File::open(&file).and_then(|first| {
        first.try_lock()?;
        match File::open(&file)?.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(()),
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Err(io::Error::other("two hold the same lock")),
        }
    });
    (write, link, lock)
}

pub(super) fn workspace(volume: &Volume) -> Finding {
    const NAME: &str = "workspace";
    let elsewhere = || format!("{} up --workspace /var/tmp/workspace", program::name());
    let path = volume.path.display();
    let problem = [
        (&volume.write, "cannot be written"),
        (&volume.link, "does not support hard links"),
        (&volume.lock, "does not support file locks"),
    ]
    .into_iter()
    .find_map(|(attempt, what)| Some((attempt.as_ref().err()?, what)));
    match (problem, volume.place) {
        (Some((error, what)), _) => {
            Finding::missing(NAME, format!("{path} {what}: {error}"), elsewhere())
        }
        (None, Place::Network) => Finding::advice(
            NAME,
            format!(
                "{path} is on a network file system, so the stack looks for changes ten times a second"
            ),
            elsewhere(),
        ),
        (None, Place::Local) => {
            Finding::ok(NAME, format!("{path}: writable, with hard links and file locks"))
        }
    }
}

pub(super) fn disk(volume: &Volume) -> Finding {
    const NAME: &str = "disk";
    let Some(free) = volume.free else {
        return Finding::unknown(NAME, "cannot tell how much is free");
    };
    let amount =
        if free < GIB { format!("{} MiB", free >> 20) } else { format!("{} GiB", free / GIB) };
    let found = format!("{amount} free for the workspace");
    let fix = "free some: du -xh --max-depth=2 / | sort -h | tail";
    Finding::judge(NAME, found, free >= LITTLE, State::Advice, fix)
}

/// Each agent gets a private directory there.
pub(super) fn temporary(directory: &Path, attempt: &io::Result<()>) -> Finding {
    const NAME: &str = "temporary files";
    match attempt {
        Ok(()) => Finding::ok(NAME, format!("{} can be written", directory.display())),
        Err(error) => Finding::missing(
            NAME,
            format!("{} cannot be written: {error}", directory.display()),
            "export TMPDIR=/var/tmp",
        ),
    }
}

/// Creates a directory there and removes it again.
pub(super) fn try_temporary(directory: &Path) -> io::Result<()> {
    // Its message names a file that does not matter to anybody.
    tempfile::tempdir_in(directory)
        .and_then(tempfile::TempDir::close)
        .map_err(|error| error.kind().into())
}

#[cfg(test)]
mod tests {
    use super::{
        super::finding::State::{Advice, Missing, Ok as Fine, Unknown},
        *,
    };

    #[test]
    fn an_open_stack_that_others_can_reach_is_worth_a_word() {
        let dir = tempfile::tempdir().unwrap();
        let [near, far] = ["127.0.0.1", "0.0.0.0"].map(|bind| bind.parse().unwrap());
        let state = |token, ajar, bind| callers(dir.path(), token, ajar, bind).state;
        assert_eq!(state(false, false, near), Fine);
        assert_eq!(state(false, false, far), Advice);
        assert_eq!(state(true, false, far), Fine);
        assert_eq!(state(true, true, far), Advice);
        fs::create_dir_all(dir.path().join(".stack/tokens")).unwrap();
        fs::write(dir.path().join(".stack/tokens/closed"), "").unwrap();
        assert_eq!(state(false, false, far), Fine);
    }

    fn volume() -> Volume {
        let (path, place) = ("/w".into(), Place::Local);
        Volume { path, write: Ok(()), link: Ok(()), lock: Ok(()), place, free: Some(3 * GIB) }
    }

    fn failed() -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[test]
    fn a_file_system_that_cannot_do_what_the_stack_needs() {
        assert_eq!(workspace(&volume()).state, Fine);
        for (volume, word) in [
            (Volume { write: failed(), ..volume() }, "written"),
            (Volume { link: failed(), ..volume() }, "hard links"),
            (Volume { lock: failed(), ..volume() }, "file locks"),
        ] {
            let finding = workspace(&volume);
            assert_eq!(finding.state, Missing);
            assert!(finding.found.contains(word), "{}", finding.found);
            assert!(finding.fix.unwrap().contains("--workspace"));
        }
        assert_eq!(workspace(&Volume { place: Place::Network, ..volume() }).state, Advice);
    }

    #[test]
    fn a_disk_that_is_almost_full() {
        assert_eq!(disk(&volume()), Finding::ok("disk", "3 GiB free for the workspace"));
        assert_eq!(disk(&Volume { free: Some(GIB), ..volume() }).state, Advice);
        let little = disk(&Volume { free: Some(10 << 20), ..volume() });
        assert_eq!(little.found, "10 MiB free for the workspace");
        assert_eq!(disk(&Volume { free: None, ..volume() }).state, Unknown);
    }

    #[test]
    fn this_machines_own_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let volume = Volume::look(&directory.path().join("not/yet/there"));
        assert_eq!(workspace(&volume).state, Fine, "{volume:?}");
        assert!(volume.free.is_some());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(workspace(&Volume::look(&file.join("below"))).state, Missing);
    }

    #[test]
    fn temporary_files() {
        let directory = tempfile::tempdir().unwrap();
        let there = try_temporary(directory.path());
        assert_eq!(temporary(directory.path(), &there).state, Fine);
        let gone = directory.path().join("gone");
        assert_eq!(temporary(&gone, &try_temporary(&gone)).state, Missing);
    }
}
