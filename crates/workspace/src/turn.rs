//! Turns: exclusive access to a checkout or a session.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use contract::{DirectoryName, OwnId, SessionId};

use crate::{Error, FileLock, Result, Workspace};

/// The right to use something that only one job at a time may use.
///
/// The job that has the turn holds a lock, and the job that works there holds a second one: a workflow holds the
/// first for its jobs, and each of them holds the second while it runs. So if a workflow's process dies, the turn
/// lasts until its last job is gone too, and two jobs never work at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Turn {
    /// A conversation.
    Session(SessionId),
    /// A shared checkout.
    Directory(DirectoryName),
    /// The own directory of a job or a session, `jobs/<id>`, which later jobs may name.
    Own(OwnId),
}

/// Names the resource, for people.
impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(id) => write!(f, "session {id}"),
            Self::Directory(name) => write!(f, "directory '{name}'"),
            Self::Own(id) => write!(f, "directory 'jobs/{id}'"),
        }
    }
}

impl Turn {
    /// The field of a request that needs the turn.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Session(_) => "resumeSessionId",
            Self::Directory(_) => "directory",
            Self::Own(_) => "workspace",
        }
    }
}

/// How a job uses a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnUse {
    /// The job works there itself.
    Work,
    /// The jobs that it starts work there, one after another.
    Lend,
}

/// A turn that is held until this is dropped or its process ends. For a session or a job that does not exist, it holds
/// no lock.
#[derive(Debug)]
pub struct HeldTurn(Vec<FileLock>);

impl From<FileLock> for HeldTurn {
    fn from(lock: FileLock) -> Self {
        Self(vec![lock])
    }
}

impl Workspace {
    /// Takes a turn, unless a job has it, or a job of its former workflow is still running.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn take_turn(&self, turn: &Turn, turn_use: TurnUse) -> Result<Option<HeldTurn>> {
        let Some(mut held) = lock(turn, &self.turn_lock(turn))? else { return Ok(None) };
        let work = self.work_lock(turn);
        match turn_use {
            TurnUse::Work => {
                let Some(work) = lock(turn, &work)? else { return Ok(None) };
                held.0.extend(work.0);
            }
            TurnUse::Lend if FileLock::is_held(&work)? => return Ok(None),
            TurnUse::Lend => {}
        }
        Ok(Some(held))
    }

    /// Joins the turn that the parent of a job has, unless another job of it is still running.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn join_turn(&self, turn: &Turn) -> Result<Option<HeldTurn>> {
        lock(turn, &self.work_lock(turn))
    }

    pub(crate) fn turn_lock(&self, turn: &Turn) -> PathBuf {
        match turn {
            Turn::Session(id) => self.session(*id).join("lock"),
            Turn::Directory(name) => self.turns().join(name.as_str()),
            Turn::Own(id) => self.beside_own(*id).join("turn"),
        }
    }

    /// Where the locks of an own directory go away with its owner: in the record of the job, or in the session.
    fn beside_own(&self, id: OwnId) -> PathBuf {
        let job = self.jobs().join(id.to_string());
        if job.is_dir() { job } else { self.sessions().join(id.to_string()) }
    }

    /// The lock of the job that works there. Its name on the volume stays "guest": during an update, replicas of two
    /// versions must agree on it.
    fn work_lock(&self, turn: &Turn) -> PathBuf {
        match turn {
            Turn::Session(id) => self.session(*id).join("guest"),
            // In a separate directory, because the names have no room for a suffix.
            Turn::Directory(name) => self.guests().join(name.as_str()),
            Turn::Own(id) => self.beside_own(*id).join("turn.guest"),
        }
    }
}

fn lock(turn: &Turn, path: &Path) -> Result<Option<HeldTurn>> {
    match FileLock::try_acquire(path) {
        Ok(lock) => Ok(lock.map(HeldTurn::from)),
        // Not for a shared checkout: if its lock cannot be taken, it is not free.
        Err(Error::Io { source, .. })
            if !matches!(turn, Turn::Directory(_)) && source.kind() == io::ErrorKind::NotFound =>
        {
            Ok(Some(HeldTurn(Vec::new())))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_lasts_as_long_as_any_job_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let turn = Turn::Directory(DirectoryName::parse("app").unwrap());
        let workflow = workspace.take_turn(&turn, TurnUse::Lend).unwrap().unwrap();
        assert!(workspace.take_turn(&turn, TurnUse::Lend).unwrap().is_none());
        let child = workspace.join_turn(&turn).unwrap().unwrap();
        assert!(workspace.join_turn(&turn).unwrap().is_none(), "one job of a workflow at a time");
        drop(workflow);
        assert!(
            workspace.take_turn(&turn, TurnUse::Lend).unwrap().is_none(),
            "its child still works there"
        );
        drop(child);
        assert!(workspace.take_turn(&turn, TurnUse::Lend).unwrap().is_some());
        let work = workspace.take_turn(&turn, TurnUse::Work).unwrap().unwrap();
        assert!(
            workspace.join_turn(&turn).unwrap().is_none(),
            "a late job of the previous workflow"
        );
        drop(work);
        let other = Turn::Directory(DirectoryName::parse("app-guest").unwrap());
        let _held = workspace.join_turn(&turn).unwrap().unwrap();
        assert!(workspace.take_turn(&other, TurnUse::Lend).unwrap().is_some());
    }

    #[test]
    fn the_longest_name_has_a_turn() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let name = "a".repeat(DirectoryName::MAX_BYTES);
        let turn = Turn::Directory(DirectoryName::parse(&name).unwrap());
        let held = workspace.take_turn(&turn, TurnUse::Lend).unwrap().unwrap();
        let child = workspace.join_turn(&turn).unwrap().unwrap();
        drop(held);
        assert!(workspace.take_turn(&turn, TurnUse::Lend).unwrap().is_none());
        drop(child);
        assert!(workspace.take_turn(&turn, TurnUse::Lend).unwrap().is_some());
    }

    #[test]
    fn a_directory_whose_lock_cannot_be_created_is_not_free() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let turn = Turn::Directory(DirectoryName::parse("app").unwrap());
        std::fs::remove_dir_all(workspace.turns()).unwrap();
        assert!(workspace.take_turn(&turn, TurnUse::Lend).is_err());
        assert!(workspace.join_turn(&turn).is_err());
    }

    #[test]
    fn what_is_missing_has_no_turn() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        for turn in [Turn::Session(SessionId::new()), Turn::Own(OwnId::new())] {
            let _first = workspace.take_turn(&turn, TurnUse::Lend).unwrap().unwrap();
            assert!(workspace.take_turn(&turn, TurnUse::Lend).unwrap().is_some());
        }
    }

    #[test]
    fn the_own_directory_of_a_job_or_a_session_has_a_turn_that_is_deleted_with_it() {
        let (_dir, workspace) = crate::fixtures::workspace();
        let job = crate::fixtures::job(&workspace);
        let session = SessionId::new();
        let place = workspace.make_session_place(session).unwrap();
        drop(crate::Session::create(&workspace, session, &place).unwrap());
        for id in [job.id().into(), place.own_id().unwrap()] {
            let turn = Turn::Own(id);
            let held = workspace.take_turn(&turn, TurnUse::Work).unwrap().unwrap();
            assert!(workspace.take_turn(&turn, TurnUse::Lend).unwrap().is_none(), "{turn}");
            assert!(workspace.join_turn(&turn).unwrap().is_none(), "{turn}");
            drop(held);
            assert!(workspace.take_turn(&turn, TurnUse::Work).unwrap().is_some(), "{turn}");
        }
        assert!(
            workspace.turns().read_dir().unwrap().all(|it| it.unwrap().file_name() == ".guests")
        );
    }
}
