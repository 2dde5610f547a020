//! Sessions: conversations on the volume, which any replica can resume.
//!
//! `<volume>/.stack/sessions/<id>/` contains `meta.json` (where the session works, and when it was created and used),
//! `project/` (the CLI's own files), and the locks of its turn. The directory is put in place complete.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use contract::{CallerName, SessionId, SessionView, Timestamp, WorkspacePath};
use serde::{Deserialize, Serialize};

use crate::{
    Error, FileLock, HeldTurn, Result, Turn, TurnUse, UnprovenRecord, Workspace,
    layout::parsed_names,
    proof::{About, RawRecord},
    write::{modified, write_synced},
};

/// The longest `meta.json` that is read, in bytes: many times the longest path.
const MAX_META: u64 = 64 * 1024;

/// A session on the volume.
#[derive(Clone, Debug)]
pub struct Session {
    workspace: Workspace,
    id: SessionId,
}

/// The result of deleting a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It was deleted.
    Done,
    /// A job is using it.
    Busy,
    /// It does not exist.
    Unknown,
}

/// `meta.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    /// The path relative to the volume.
    workspace: String,
    created: Timestamp,
    updated: Timestamp,
    /// Whose it is. Sessions that were made before there were callers belong to `anonymous`.
    #[serde(default)]
    caller: CallerName,
}

impl Session {
    /// Creates a session that works in `place`, and takes its turn. It belongs to the owner of the place.
    ///
    /// # Errors
    /// If the volume cannot be read or written, or the session already exists.
    pub fn create(
        workspace: &Workspace,
        id: SessionId,
        place: &WorkspacePath,
    ) -> Result<(Self, HeldTurn)> {
        let owner = workspace.owner_of_place(place)?.unwrap_or_default();
        Self::create_for(workspace, id, place, &owner)
    }

    /// The same for a session of `caller`.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_for(
        workspace: &Workspace,
        id: SessionId,
        place: &WorkspacePath,
        caller: &CallerName,
    ) -> Result<(Self, HeldTurn)> {
        let session = Self { workspace: workspace.clone(), id };
        let scratch = workspace.scratch();
        let made = session.fill(&scratch, place, caller);
        if made.is_err() {
            let _ = fs::remove_dir_all(&scratch);
        }
        made.map(|turn| (session, turn))
    }

    fn fill(&self, scratch: &Path, place: &WorkspacePath, caller: &CallerName) -> Result<HeldTurn> {
        let project = scratch.join("project");
        fs::create_dir_all(&project).map_err(Error::io("create", &project))?;
        let now = Timestamp::now();
        let (workspace, caller) = (place.to_string(), caller.clone());
        let meta = Meta { workspace, created: now, updated: now, caller };
        let path = scratch.join("meta.json");
        let content = self.workspace.seal(About::Session(self.id), &meta);
        let content = content.map_err(Error::malformed(&path))?;
        write_synced(&path, &content).map_err(Error::io("write", &path))?;
        // Locked before it is renamed into place, so that no other job can enter before its creator.
        let lock = scratch.join("lock");
        let lock = FileLock::create(&scratch.join("unlocked"), &lock, b"")?;
        let directory = self.directory();
        fs::rename(scratch, &directory).map_err(Error::io("create", directory))?;
        Ok(lock.into())
    }

    /// The session with this ID; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::SessionDamaged`] if its record is damaged, or another if the volume cannot be read.
    pub fn open(workspace: &Workspace, id: SessionId) -> Result<Option<Self>> {
        let session = Self { workspace: workspace.clone(), id };
        Ok(session.meta()?.is_some().then_some(session))
    }

    /// All sessions, newest first. Damaged ones are logged once and omitted.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn list(workspace: &Workspace) -> Result<Vec<SessionView>> {
        Self::list_of(workspace, |_| true)
    }

    /// The sessions of the callers that are `wanted`, newest first. Damaged ones are logged once and omitted.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn list_of(
        workspace: &Workspace,
        wanted: impl Fn(&CallerName) -> bool,
    ) -> Result<Vec<SessionView>> {
        let mut views = Vec::new();
        for id in parsed_names(&workspace.sessions())? {
            let session = Self { workspace: workspace.clone(), id };
            match session.meta() {
                Ok(Some((meta, place))) if wanted(&meta.caller) => {
                    views.push(session.view_of(&meta, &place));
                }
                Ok(_) => {}
                Err(error) if error.is_damage() => {
                    workspace.report_once(&session.directory(), &error);
                }
                Err(error) => return Err(error),
            }
        }
        views.sort_by_key(|view| std::cmp::Reverse((view.created, view.session_id)));
        Ok(views)
    }

    /// Removes a session, even a damaged one, unless a job is using it. If its own workspace is empty, the workspace
    /// is removed too.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn delete(workspace: &Workspace, id: SessionId) -> Result<Deleted> {
        let session = Self { workspace: workspace.clone(), id };
        if session.place_or_damage()?.is_none() {
            return Ok(Deleted::Unknown);
        }
        let Some(turn) = workspace.take_turn(&session.turn(), TurnUse::Work)? else {
            return Ok(Deleted::Busy);
        };
        // Another process may have deleted it meanwhile.
        let Some(place) = session.place_or_damage()? else { return Ok(Deleted::Unknown) };
        session.remove()?;
        drop(turn);
        if place.is_some_and(|place| place.as_str() == own_place(id)) {
            let place = own_place(id);
            let own = workspace.root().join(place);
            // Fails if it is not empty, as intended.
            if fs::remove_dir(&own).is_ok() {
                let _ = own.parent().map(fs::remove_dir);
            }
        }
        Ok(Deleted::Done)
    }

    /// Removes its files. Only for the holder of its turn.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn remove(&self) -> Result<()> {
        let path = Path::new(".stack/sessions").join(self.id.to_string());
        self.workspace.take_away(&path)?.map_or(Ok(()), |taken| taken.destroy())
    }

    /// The session's ID.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The right to work in it.
    #[must_use]
    pub fn turn(&self) -> Turn {
        Turn::Session(self.id)
    }

    fn directory(&self) -> PathBuf {
        self.workspace.session(self.id)
    }

    /// The CLI's own files of the session.
    #[must_use]
    pub fn project(&self) -> PathBuf {
        self.directory().join("project")
    }

    fn meta_path(&self) -> PathBuf {
        self.directory().join("meta.json")
    }

    fn parse(&self, content: &[u8]) -> Result<(Meta, WorkspacePath)> {
        let path = self.meta_path();
        let meta: Meta = serde_json::from_slice(content).map_err(Error::malformed(&path))?;
        let place = WorkspacePath::parse(&meta.workspace, self.workspace.root_text())
            .map_err(Error::malformed(path))?;
        Ok((meta, place))
    }

    /// The record and the workspace in it.
    fn meta(&self) -> Result<Option<(Meta, WorkspacePath)>> {
        let read = || {
            let about = About::Session(self.id);
            let content = self.workspace.read_record(about, &self.meta_path(), MAX_META)?;
            content.map(|content| self.parse(&content)).transpose()
        };
        read().map_err(|error: Error| match error {
            error @ (Error::Malformed { .. } | Error::Forged { .. }) => {
                Error::SessionDamaged { id: self.id, source: Box::new(error) }
            }
            error => error,
        })
    }

    /// Where it last worked, relative to the volume; `None` if the session does not exist any more.
    ///
    /// # Errors
    /// [`Error::SessionDamaged`] if its record is damaged, or another if the volume cannot be read.
    pub fn place(&self) -> Result<Option<WorkspacePath>> {
        Ok(self.meta()?.map(|(_, place)| place))
    }

    /// Where it works and when it was last used, as far as its record can be understood, whoever wrote it: only for deciding what
    /// to keep.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub(crate) fn last_use(
        workspace: &Workspace,
        id: SessionId,
    ) -> Result<Option<(Option<WorkspacePath>, Timestamp)>> {
        let session = Self { workspace: workspace.clone(), id };
        let path = session.meta_path();
        let read = || {
            let found = RawRecord::read(&path, MAX_META)?;
            found.map(|found| session.parse(found.unchecked())).transpose()
        };
        match read() {
            Ok(found) => Ok(found.map(|(meta, place)| (Some(place), meta.updated))),
            Err(error) if error.is_damage() => Ok(Some((None, modified(&path)))),
            Err(error) => Err(error),
        }
    }

    /// Like [`place`](Self::place), but if the session is damaged, returns an inner `None` instead of an error.
    #[expect(clippy::option_option, reason = "no session, a damaged one, or a valid one")]
    fn place_or_damage(&self) -> Result<Option<Option<WorkspacePath>>> {
        match self.place() {
            Err(Error::SessionDamaged { .. }) => Ok(Some(None)),
            place => Ok(place?.map(Some)),
        }
    }

    /// Records that a job works in it now, and where. Only for the job that has its turn.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn touch(&self, place: &WorkspacePath) -> Result<()> {
        let now = Timestamp::now();
        let (created, caller) = match self.meta() {
            Ok(Some((meta, _))) => (meta.created, meta.caller),
            // The damaged record is replaced.
            Ok(None) | Err(Error::SessionDamaged { .. }) => {
                (now, self.workspace.owner_of_place(place)?.unwrap_or_default())
            }
            Err(error) => return Err(error),
        };
        let meta = Meta { workspace: place.to_string(), created, updated: now, caller };
        let path = self.meta_path();
        let content = self.workspace.seal(About::Session(self.id), &meta);
        self.workspace.replace(&path, &content.map_err(Error::malformed(&path))?, None)
    }

    /// Whose it is; `None` if the session does not exist any more.
    ///
    /// # Errors
    /// [`Error::SessionDamaged`] if its record is damaged, or another if the volume cannot be read.
    pub fn owner(&self) -> Result<Option<CallerName>> {
        Ok(self.meta()?.map(|(meta, _)| meta.caller))
    }

    /// The caller's view of it; `None` if it does not exist any more.
    ///
    /// # Errors
    /// [`Error::SessionDamaged`] if its record is damaged, or another if the volume cannot be read.
    pub fn view(&self) -> Result<Option<SessionView>> {
        Ok(self.meta()?.map(|(meta, place)| self.view_of(&meta, &place)))
    }

    fn view_of(&self, meta: &Meta, place: &WorkspacePath) -> SessionView {
        SessionView {
            session_id: self.id,
            workspace: format!("{}/{place}", self.workspace.root_text()),
            created: meta.created,
            updated: meta.updated,
        }
    }
}

impl Workspace {
    /// The sessions whose records have no proof.
    pub(crate) fn unproven_sessions(&self) -> Result<Vec<UnprovenRecord>> {
        let mut found = Vec::new();
        for id in parsed_names(&self.sessions())? {
            let session = Session { workspace: self.clone(), id };
            let describe = |content: &[u8]| {
                let (meta, place) = session.parse(content).ok()?;
                let Meta { caller, created, updated, .. } = meta;
                Some(format!(
                    "session {id} of '{caller}' in {place}, created {created}, used {updated}"
                ))
            };
            let unproven =
                self.unproven(About::Session(id), &session.meta_path(), MAX_META, describe)?;
            found.extend(unproven.map(|it| it.in_turn(session.turn())));
        }
        Ok(found)
    }

    /// Creates the workspace of a session that was created without one.
    ///
    /// # Errors
    /// If the volume cannot be written.
    pub fn make_session_place(&self, id: SessionId) -> Result<WorkspacePath> {
        let own = own_place(id);
        let path = self.root().join(&own);
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        WorkspacePath::parse(&own, self.root_text())
            .map_err(|why| Error::io("create", path)(io::Error::other(why)))
    }
}

fn own_place(id: SessionId) -> String {
    format!("jobs/{id}/work")
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn place(text: &str) -> WorkspacePath {
        WorkspacePath::parse(text, "/w").unwrap()
    }

    #[test]
    fn a_session_from_its_creation_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let id = SessionId::new();
        assert!(Session::open(&workspace, id).unwrap().is_none());
        assert_eq!(Session::delete(&workspace, id).unwrap(), Deleted::Unknown);
        let (session, turn) = Session::create(&workspace, id, &place("app")).unwrap();
        assert!(Session::create(&workspace, id, &place("other")).is_err(), "it already exists");
        assert_eq!(Session::delete(&workspace, id).unwrap(), Deleted::Busy);
        assert!(workspace.take_turn(&session.turn(), TurnUse::Work).unwrap().is_none());
        drop(turn);
        let created = session.view().unwrap().unwrap().created;
        session.touch(&place("app/src")).unwrap();
        let view = Session::open(&workspace, id).unwrap().unwrap().view().unwrap().unwrap();
        assert_eq!(view.workspace, format!("{}/app/src", workspace.root_text()));
        assert_eq!(view.created, created);
        fs::write(session.project().join("kept"), "x").unwrap();
        assert_eq!(Session::list(&workspace).unwrap(), [view]);
        assert_eq!(Session::delete(&workspace, id).unwrap(), Deleted::Done);
        assert!(Session::list(&workspace).unwrap().is_empty());
        assert_eq!(fs::read_dir(workspace.temporary()).unwrap().count(), 0, "files are left");
    }

    #[test]
    fn only_its_own_empty_workspace_is_removed_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        for (file, is_left) in [(None, false), (Some("work.txt"), true)] {
            let id = SessionId::new();
            let own = workspace.make_session_place(id).unwrap();
            let path = dir.path().join(own.as_str());
            if let Some(file) = file {
                fs::write(path.join(file), "").unwrap();
            }
            drop(Session::create(&workspace, id, &own).unwrap());
            assert_eq!(Session::delete(&workspace, id).unwrap(), Deleted::Done);
            assert_eq!(path.parent().unwrap().exists(), is_left);
        }
        fs::create_dir(dir.path().join("app")).unwrap();
        let id = SessionId::new();
        drop(Session::create(&workspace, id, &place("app")).unwrap());
        Session::delete(&workspace, id).unwrap();
        assert!(dir.path().join("app").exists());
    }

    #[test]
    fn a_pipe_that_an_agent_put_in_place_of_a_file_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let id = SessionId::new();
        let (session, turn) = Session::create(&workspace, id, &place("app")).unwrap();
        drop(turn);
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::unistd::mkfifo(&session.directory().join("guest"), mode).unwrap();
        let meta = session.directory().join("meta.json");
        fs::remove_file(&meta).unwrap();
        nix::unistd::mkfifo(&meta, mode).unwrap();
        let (done, heard) = std::sync::mpsc::channel();
        let others = workspace.clone();
        std::thread::spawn(move || {
            let turn = others.take_turn(&Turn::Session(id), TurnUse::Lend).unwrap();
            let _ = done.send((Session::list(&others).unwrap().len(), turn.is_some()));
        });
        let heard = heard.recv_timeout(std::time::Duration::from_secs(5));
        assert_eq!(heard, Ok((0, true)), "a pipe without a writer must not block");
        fs::remove_file(&meta).unwrap();
        File::create(&meta).unwrap().set_len(1 << 40).unwrap();
        let error = Session::open(&workspace, id).unwrap_err();
        assert!(error.is_damage(), "a file that is too large to be read: {error}");
    }

    #[test]
    fn a_file_that_an_agent_overwrote_is_damaged_and_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let id = SessionId::new();
        let (session, turn) = Session::create(&workspace, id, &place("app")).unwrap();
        let meta = session.directory().join("meta.json");
        for bad in ["", "{}", "[1]"] {
            fs::write(&meta, bad).unwrap();
            let error = Session::open(&workspace, id).unwrap_err();
            assert_eq!(error.refusal().code, contract::Code::SessionDamaged, "{bad}");
        }
        let escaping = r#"{"workspace":"../etc","created":"2026-01-31T12:00:00.000Z","updated":"2026-01-31T12:00:00.000Z"}"#;
        fs::write(&meta, escaping).unwrap();
        assert!(session.place().unwrap_err().is_damage());
        assert!(Session::list(&workspace).unwrap().is_empty());
        drop(turn);
        assert_eq!(Session::delete(&workspace, id).unwrap(), Deleted::Done);
    }

    /// An error of the volume was once reported as "no such session".
    #[test]
    fn a_session_that_cannot_be_read_is_an_error_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(dir.path()).unwrap();
        let id = SessionId::new();
        let (session, turn) = Session::create(&workspace, id, &place("app")).unwrap();
        drop(turn);
        let meta = session.directory().join("meta.json");
        fs::remove_file(&meta).unwrap();
        // Opening it fails with ELOOP, even for root.
        std::os::unix::fs::symlink(&meta, &meta).unwrap();
        for failed in [
            Session::open(&workspace, id).map(drop),
            session.view().map(drop),
            session.place().map(drop),
            Session::list(&workspace).map(drop),
            Session::delete(&workspace, id).map(drop),
            session.touch(&place("app")),
        ] {
            assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
        }
    }
}
