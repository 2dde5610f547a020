//! The session of a run. The agent writes its conversation directly to the volume, so the conversation survives any
//! end of its replica and can continue on another one.

use std::{
    fs::{self, File},
    io,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use contract::{Code, SessionId, WorkspacePath};
use tracing::warn;
use workspace::{HeldTurn, Session, Workspace, remove_tree};

use super::Private;
use crate::{
    dialect::{Dialect, History, SessionArgument, Transcript},
    refusal::Refusal,
};

/// A file in a session's directory that records that the agent has answered. If the CLI's own files are damaged, they
/// cannot tell.
const ANSWERED: &str = "answered";

/// A conversation that a run starts or continues.
#[derive(Debug)]
pub(crate) struct Conversation<D: Dialect> {
    session: Session,
    history: History,
    /// The turn of a session that this run created. For an existing session, the replica holds the turn.
    created_turn: Option<HeldTurn>,
    dialect: PhantomData<fn() -> D>,
}

impl<D: Dialect> Conversation<D> {
    /// Starts a new one. Blocking.
    pub(crate) fn begin(
        workspace: &Workspace,
        id: SessionId,
        place: &WorkspacePath,
    ) -> Result<Self, Refusal> {
        let (session, turn) =
            Session::create(workspace, id, place).map_err(|error| Refusal::volume(&error))?;
        Ok(Self { session, history: History::None, created_turn: Some(turn), dialect: PhantomData })
    }

    /// Finds one to continue. Blocking.
    ///
    /// Fails if something was said in it but its transcript is missing or damaged: the agent would silently start a
    /// new conversation. The files stay unchanged.
    pub(crate) fn find(workspace: &Workspace, id: SessionId) -> Result<Self, Refusal> {
        let found = Session::open(workspace, id).map_err(|error| Refusal::volume(&error))?;
        let session = found.ok_or_else(|| {
            Refusal::new(
                Code::SessionNotFound,
                format!("there is no session {id}: leave resumeSessionId out to start a new one"),
            )
        })?;
        let history = history::<D>(&session)?;
        Ok(Self { session, history, created_turn: None, dialect: PhantomData })
    }

    pub(crate) fn id(&self) -> SessionId {
        self.session.id()
    }

    /// Whether anything was said in it before.
    pub(crate) fn is_resumed(&self) -> bool {
        self.history == History::Transcript
    }

    /// The directory that the agent writes its own files to.
    pub(crate) fn project(&self) -> PathBuf {
        self.session.project()
    }

    /// How to tell the agent about it.
    pub(crate) fn argument(&self) -> SessionArgument {
        SessionArgument { history: self.history, id: self.id() }
    }

    /// Where it last worked, relative to the volume.
    pub(crate) fn place(&self) -> Result<Option<WorkspacePath>, Refusal> {
        self.session.place().map_err(|error| Refusal::volume(&error))
    }

    /// Records where it works now, and links its files to where an agent working in `cwd` looks for them. Blocking.
    pub(crate) fn open(
        &self,
        private: &Private,
        place: &WorkspacePath,
        cwd: &str,
    ) -> Result<(), Refusal> {
        self.session.touch(place).map_err(|error| Refusal::volume(&error))?;
        D::open_conversation(&self.session.project(), private, cwd)
            .map_err(|error| Refusal::io("open the session", &error))
    }
}

impl<D: Dialect> Conversation<D> {
    /// The turn of the session, if this run created it, for a job that continues it. Something was said in it, so it stays.
    pub(crate) fn take_turn(&mut self) -> Option<HeldTurn> {
        self.created_turn.take()
    }

    /// The file that [`record_answer`] creates.
    pub(crate) fn answered(&self) -> PathBuf {
        answered(&self.session)
    }
}

/// Records in `file` that the agent has answered, for later runs of the session. Blocking.
pub(crate) fn record_answer(file: &Path) {
    // After an error, only the transcript shows it.
    let written = File::create(file).and_then(|file| file.sync_all()).and_then(|()| {
        // The file is empty; only its name matters, so sync the directory.
        file.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    });
    if let Err(error) = written {
        warn!(file = %file.display(), %error, "failed to note that the agent has answered");
    }
}

impl<D: Dialect> Drop for Conversation<D> {
    /// Removes a session that this run created and in which nothing was said.
    fn drop(&mut self) {
        if self.created_turn.is_none()
            || !matches!(D::read_transcript(&D::transcript(&self.session)), Ok(Transcript::Empty))
        {
            return;
        }
        if let Err(error) = self.session.remove() {
            warn!(session = %self.id(), error = &error as &dyn std::error::Error, "failed to remove an empty session");
        }
    }
}

fn answered(session: &Session) -> PathBuf {
    session.project().with_file_name(ANSWERED)
}

/// What the agent can continue from. If nothing was ever said, removes leftover files: the CLI treats an ID as in use
/// if a file with its name exists.
fn history<D: Dialect>(session: &Session) -> Result<History, Refusal> {
    let fault = |error| Refusal::io("read the session's transcript", &error);
    let id = session.id();
    let (project, transcript) = (session.project(), D::transcript(session));
    let was_answered = answered(session).try_exists().map_err(fault)?;
    // An agent may have put something else here.
    let has_project = is_directory(&project).map_err(fault)?;
    let found = if has_project {
        D::read_transcript(&transcript).map_err(fault)?
    } else {
        Transcript::Empty
    };
    match found {
        Transcript::Conversation => return Ok(History::Transcript),
        Transcript::Empty if was_answered && !transcript.exists() => {
            return Err(Refusal::new(
                Code::SessionNotFound,
                format!(
                    "session {id} cannot be continued: its transcript {} is missing; restore it, or leave \
                     resumeSessionId out to start a new conversation",
                    transcript.display()
                ),
            ));
        }
        Transcript::Empty if !was_answered => {}
        Transcript::Empty | Transcript::Damaged => {
            return Err(Refusal::new(
                Code::SessionDamaged,
                format!(
                    "session {id} cannot be continued: its transcript {} is damaged and was left unchanged; repair \
                     it, or leave resumeSessionId out to start a new conversation",
                    transcript.display()
                ),
            ));
        }
    }
    let make_room = || {
        if !has_project {
            remove_tree(&project)?;
            fs::create_dir(&project)?;
        }
        remove_tree(&transcript)
    };
    make_room().map_err(fault)?;
    Ok(History::None)
}

fn is_directory(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::claude::Claude;

    type Conversation = super::Conversation<Claude>;

    fn transcript(session: &Session) -> PathBuf {
        Claude::transcript(session)
    }

    struct Bench {
        _dir: tempfile::TempDir,
        workspace: Workspace,
        private: Private,
    }

    fn bench() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(&dir.path().join("volume")).unwrap();
        let private = Private::create(dir.path()).unwrap();
        Bench { _dir: dir, workspace, private }
    }

    fn place(path: &str) -> WorkspacePath {
        WorkspacePath::parse(path, "/w").unwrap()
    }

    const SAID: &str = "{\"type\":\"queue-operation\"}\n{\"type\":\"user\",\"x\":1}\n";

    #[test]
    fn what_the_cli_writes_is_on_the_volume_at_once_and_found_from_another_directory() {
        let bench = bench();
        let id = SessionId::new();
        assert_eq!(
            Conversation::find(&bench.workspace, id).unwrap_err().code,
            Code::SessionNotFound
        );
        let first = Conversation::begin(&bench.workspace, id, &place("app")).unwrap();
        assert_eq!((first.argument().history, first.is_resumed()), (History::None, false));
        first.open(&bench.private, &place("app"), "/w/app").unwrap();
        fs::write(bench.private.config().join(format!("projects/-w-app/{id}.jsonl")), SAID)
            .unwrap();
        drop(first);

        let second = Conversation::find(&bench.workspace, id).unwrap();
        assert_eq!(second.argument().history, History::Transcript);
        assert_eq!(second.place(), Ok(Some(place("app"))));
        let other = Private::create(&bench.private.home()).unwrap();
        second.open(&other, &place("app/src"), "/w/app/src").unwrap();
        let restored = other.config().join(format!("projects/-w-app-src/{id}.jsonl"));
        assert_eq!(fs::read_to_string(&restored).unwrap(), SAID);
        assert_eq!(second.place(), Ok(Some(place("app/src"))));
    }

    #[test]
    fn a_session_in_which_nothing_was_said_starts_again() {
        let bench = bench();
        let id = SessionId::new();
        drop(Session::create(&bench.workspace, id, &place("app")).unwrap());
        for left in ["", "{\"type\":\"queue-operation\"}\n", "{\"type\":\"user\",\"messa"] {
            let session = Session::open(&bench.workspace, id).unwrap().unwrap();
            fs::write(transcript(&session), left).unwrap();
            let found = Conversation::find(&bench.workspace, id).unwrap();
            assert!(!found.is_resumed(), "{left}");
            assert!(!transcript(&session).exists(), "the CLI would treat the ID as in use");
        }
        assert!(
            Session::open(&bench.workspace, id).unwrap().is_some(),
            "this run did not create it"
        );
    }

    #[test]
    fn a_lost_or_damaged_transcript_is_an_error_and_stays_unchanged() {
        let bench = bench();
        let id = SessionId::new();
        let run = Conversation::begin(&bench.workspace, id, &place("app")).unwrap();
        let path = transcript(&run.session);
        fs::write(&path, SAID).unwrap();
        record_answer(&run.answered());
        drop(run);
        let nul = "\0".repeat(5000);
        for damaged in
            ["", &nul, "garbage\n", "{\"type\":\"queue-operation\"}\n", &format!("{{{nul}")]
        {
            fs::write(&path, damaged).unwrap();
            let refusal = Conversation::find(&bench.workspace, id).unwrap_err();
            assert_eq!(refusal.code, Code::SessionDamaged, "{damaged}: {refusal}");
            assert!(refusal.to_string().contains(path.to_str().unwrap()), "{refusal}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged, "it must not change");
        }
        fs::remove_file(&path).unwrap();
        let refusal = Conversation::find(&bench.workspace, id).unwrap_err();
        assert_eq!(refusal.code, Code::SessionNotFound);
        fs::remove_dir(path.parent().unwrap()).unwrap();
        let refusal = Conversation::find(&bench.workspace, id).unwrap_err();
        assert_eq!(refusal.code, Code::SessionNotFound);
        // A restored transcript can be continued.
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("{nul}\n{SAID}")).unwrap();
        assert!(Conversation::find(&bench.workspace, id).unwrap().is_resumed());
    }

    #[test]
    fn content_the_cli_did_not_write_is_damage_even_before_an_answer() {
        let bench = bench();
        let id = SessionId::new();
        drop(Session::create(&bench.workspace, id, &place("app")).unwrap());
        let path = transcript(&Session::open(&bench.workspace, id).unwrap().unwrap());
        for damaged in ["\0\0\0\0", "garbage\n", "\0\n"] {
            fs::write(&path, damaged).unwrap();
            let refusal = Conversation::find(&bench.workspace, id).unwrap_err();
            assert_eq!(refusal.code, Code::SessionDamaged, "{damaged}");
            assert!(path.exists());
        }
    }

    #[test]
    fn a_run_without_messages_leaves_no_session() {
        let bench = bench();
        for said in [None, Some(SAID)] {
            let id = SessionId::new();
            let run = Conversation::begin(&bench.workspace, id, &place("app")).unwrap();
            run.open(&bench.private, &place("app"), &format!("/w/{id}")).unwrap();
            if let Some(said) = said {
                fs::write(transcript(&run.session), said).unwrap();
            }
            drop(run);
            assert_eq!(Session::open(&bench.workspace, id).unwrap().is_some(), said.is_some());
        }
    }

    #[test]
    fn other_files_are_not_used_as_transcripts() {
        let bench = bench();
        let id = SessionId::new();
        drop(Session::create(&bench.workspace, id, &place("app")).unwrap());
        let session = Session::open(&bench.workspace, id).unwrap().unwrap();
        let path = transcript(&session);
        let outside = bench.private.home().join("outside");
        fs::write(&outside, SAID).unwrap();
        symlink(&outside, &path).unwrap();
        let code = || Conversation::find(&bench.workspace, id).unwrap_err().code;
        assert_eq!(code(), Code::SessionDamaged);
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert_eq!(code(), Code::SessionDamaged);
        fs::remove_file(&path).unwrap();
        fs::remove_dir(session.project()).unwrap();
        symlink(bench.private.home(), session.project()).unwrap();
        assert!(!Conversation::find(&bench.workspace, id).unwrap().is_resumed());
        assert!(fs::symlink_metadata(session.project()).unwrap().is_dir());
        assert!(outside.exists(), "links are removed, not their targets");
    }
}
