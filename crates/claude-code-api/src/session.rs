//! The session of one run: the CLI writes what it remembers straight onto the volume, so that a conversation
//! survives its replica, however that dies, and any other can go on with it.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use contract::{Code, SessionId, WorkspacePath};
use serde::Deserialize;
use tracing::warn;
use workspace::{HeldTurn, Session, Workspace};

use crate::refusal::Refusal;

/// The longest name of a project's directory before the CLI cuts it.
const MAX_PROJECT: usize = 200;

/// How far into a transcript its first message is looked for, in bytes: past the longest prompt, escaped.
const MAX_HEAD: u64 = 64 << 20;

/// The file in a session's directory that says that its agent has answered. The CLI's own files cannot say so
/// when they are damaged.
const ANSWERED: &str = "answered";

/// A conversation, as one run continues or begins it.
#[derive(Debug)]
pub(crate) struct Conversation {
    session: Session,
    history: History,
    /// The turn of a session that this run has made; that of another is held by the replica.
    made: Option<HeldTurn>,
}

/// What there is of a conversation before a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum History {
    /// Nothing was ever said in it.
    None,
    /// A transcript.
    Transcript,
}

/// How the CLI is told which session is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Argument {
    pub(crate) history: History,
    pub(crate) id: SessionId,
}

impl Argument {
    /// The option that the id follows.
    pub(crate) fn option(self) -> &'static str {
        match self.history {
            History::None => "--session-id",
            History::Transcript => "--resume",
        }
    }
}

impl Conversation {
    /// Begins a new one. Blocking.
    pub(crate) fn begin(
        workspace: &Workspace,
        id: SessionId,
        place: &WorkspacePath,
    ) -> Result<Self, Refusal> {
        let (session, turn) =
            Session::create(workspace, id, place).map_err(|error| Refusal::volume(&error))?;
        Ok(Self { session, history: History::None, made: Some(turn) })
    }

    /// Finds one to continue. Blocking.
    ///
    /// Refuses one in which something was said and of which nothing is left that the CLI could continue: it would
    /// begin a new conversation without a word. Its files stay as they are.
    pub(crate) fn find(workspace: &Workspace, id: SessionId) -> Result<Self, Refusal> {
        let found = Session::open(workspace, id).map_err(|error| Refusal::volume(&error))?;
        let session = found.ok_or_else(|| {
            Refusal::new(
                Code::SessionNotFound,
                format!("there is no session {id}: leave resumeSessionId out to begin a new one"),
            )
        })?;
        let history = history(&session)?;
        Ok(Self { session, history, made: None })
    }

    pub(crate) fn id(&self) -> SessionId {
        self.session.id()
    }

    /// Whether something has been said in it before.
    pub(crate) fn is_resumed(&self) -> bool {
        self.history == History::Transcript
    }

    /// The CLI's option for it, and its id.
    pub(crate) fn argument(&self) -> Argument {
        Argument { history: self.history, id: self.id() }
    }

    /// Where it has worked before, relative to the volume.
    pub(crate) fn place(&self) -> Result<Option<WorkspacePath>, Refusal> {
        self.session.place().map_err(|error| Refusal::volume(&error))
    }

    /// Notes where it works now, and puts its files where a CLI that works in `cwd` looks for them. Blocking.
    pub(crate) fn open(
        &self,
        config: &Path,
        place: &WorkspacePath,
        cwd: &str,
    ) -> Result<(), Refusal> {
        self.session.touch(place).map_err(|error| Refusal::volume(&error))?;
        let projects = config.join("projects");
        fs::create_dir_all(&projects)
            .and_then(|()| symlink(self.session.project(), projects.join(project_name(cwd))))
            .map_err(|error| Refusal::io("open the session", &error))
    }
}

impl Conversation {
    /// The file that says that the agent has answered, for [`note_answer`].
    pub(crate) fn answered(&self) -> PathBuf {
        answered(&self.session)
    }
}

/// Notes in `file` that the agent has answered, for whoever finds the session later. Blocking.
pub(crate) fn note_answer(file: &Path) {
    // An error leaves the transcript as the only witness.
    let written = File::create(file).and_then(|file| file.sync_all()).and_then(|()| {
        // The name of the file is its only content.
        file.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    });
    if let Err(error) = written {
        warn!(file = %file.display(), %error, "failed to note that the agent has answered");
    }
}

impl Drop for Conversation {
    /// A session that this run has begun, and in which nothing was said, does not stay.
    fn drop(&mut self) {
        if self.made.is_none() || !matches!(read(&transcript(&self.session)), Ok(Transcript::Empty))
        {
            return;
        }
        if let Err(error) = self.session.remove() {
            warn!(session = %self.id(), error = &error as &dyn std::error::Error, "failed to remove an empty session");
        }
    }
}

fn transcript(session: &Session) -> PathBuf {
    session.project().join(format!("{}.jsonl", session.id()))
}

fn answered(session: &Session) -> PathBuf {
    session.project().with_file_name(ANSWERED)
}

/// What is at the place of a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transcript {
    /// A conversation that the CLI can continue.
    Conversation,
    /// Nothing, or what a CLI leaves that was killed before anything was said.
    Empty,
    /// Something that the CLI has not written: bytes that are no text, lines that are no JSON, another kind of file.
    Damaged,
}

/// What the CLI can do with the session. Where nothing was ever said, what is left of its files is put out of the
/// way of a new start: the CLI takes an id to be in use as soon as there is a file of its name.
fn history(session: &Session) -> Result<History, Refusal> {
    let fault = |error| Refusal::io("read the session's transcript", &error);
    let id = session.id();
    let (project, transcript) = (session.project(), transcript(session));
    let was_answered = answered(session).try_exists().map_err(fault)?;
    // An agent could have put something else in these places.
    let has_project = is_directory(&project).map_err(fault)?;
    let found = if has_project { read(&transcript).map_err(fault)? } else { Transcript::Empty };
    match found {
        Transcript::Conversation => return Ok(History::Transcript),
        Transcript::Empty if was_answered && !transcript.exists() => {
            return Err(Refusal::new(
                Code::SessionNotFound,
                format!(
                    "what was said in session {id} is gone: its transcript {} is missing; restore it, or leave \
                     resumeSessionId out to begin a new conversation",
                    transcript.display()
                ),
            ));
        }
        Transcript::Empty if !was_answered => {}
        Transcript::Empty | Transcript::Damaged => {
            return Err(Refusal::new(
                Code::SessionDamaged,
                format!(
                    "session {id} cannot be continued: its transcript {} is damaged, and was left as it is; repair \
                     it, or leave resumeSessionId out to begin a new conversation",
                    transcript.display()
                ),
            ));
        }
    }
    let make_room = || {
        if !has_project {
            remove(&project)?;
            fs::create_dir(&project)?;
        }
        remove(&transcript)
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

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reads a transcript. With no message in it the CLI does not take it up, as version 2.1.197 behaves; a process that
/// was killed early leaves such a file, with lines of other kinds, the last of them cut off.
fn read(path: &Path) -> io::Result<Transcript> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow, rename = "type")]
        kind: Option<std::borrow::Cow<'a, str>>,
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => {}
        // Not opened: a pipe in its place would never answer.
        Ok(_) => return Ok(Transcript::Damaged),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Transcript::Empty),
        Err(error) => return Err(error),
    }
    let mut lines = BufReader::new(File::open(path)?.take(MAX_HEAD));
    let mut line = Vec::new();
    let mut is_damaged = false;
    while lines.read_until(b'\n', &mut line)? > 0 {
        let is_whole = line.ends_with(b"\n");
        match serde_json::from_slice::<Line<'_>>(&line) {
            Ok(Line { kind: Some(kind) }) if matches!(&*kind, "user" | "assistant") => {
                return Ok(Transcript::Conversation);
            }
            Ok(_) => {}
            // The end of a line may be missing, but not its beginning.
            Err(_) => is_damaged |= is_whole || !line.starts_with(b"{") || line.contains(&0),
        }
        line.clear();
    }
    Ok(if is_damaged { Transcript::Damaged } else { Transcript::Empty })
}

/// How the CLI names a project's directory after its path: as version 2.1.197 does it, counting in UTF-16
/// as JavaScript does.
fn project_name(path: &str) -> String {
    let units: Vec<u16> = path.encode_utf16().collect();
    let name: String = units
        .iter()
        .map(|unit| match char::from_u32(u32::from(*unit)) {
            Some(c) if c.is_ascii_alphanumeric() => c,
            _ => '-',
        })
        .collect();
    if name.len() <= MAX_PROJECT {
        return name;
    }
    let hash =
        units.iter().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(*unit)));
    let begin = name.get(..MAX_PROJECT).unwrap_or(&name);
    format!("{begin}-{}", base36(hash.unsigned_abs()))
}

fn base36(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit(number % 36, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_named_as_the_cli_names_them() {
        assert_eq!(project_name("/workspace/jobs/é.x_1"), "-workspace-jobs---x-1");
        assert_eq!(project_name("/a🦀b"), "-a--b", "two units of UTF-16");
        // Both seen with the real CLI.
        for (path, end) in [
            (
                format!("/tmp/tmp.tQNF5xxlXn/{}bbbbbbb", "aaaaaaaaa/".repeat(20)),
                "aaaaaaaaa--4cac63",
            ),
            (
                format!("/tmp/tmp.IQOJ3n8QS6/{}ccccccc", "aaaaaaaaa/".repeat(19)),
                "aaaaaaaaa--tz8so2",
            ),
        ] {
            let name = project_name(&path);
            assert!(name.ends_with(end) && name.len() == 207, "{name}");
        }
        assert_eq!(project_name(&"a".repeat(200)).len(), 200);
        assert_eq!((base36(0), base36(35), base36(36)), ("0".into(), "z".into(), "10".into()));
    }

    struct Bench {
        _dir: tempfile::TempDir,
        workspace: Workspace,
        config: PathBuf,
    }

    fn bench() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::open(&dir.path().join("volume")).unwrap();
        let config = dir.path().join("config");
        fs::create_dir(&config).unwrap();
        Bench { _dir: dir, workspace, config }
    }

    fn place(path: &str) -> WorkspacePath {
        WorkspacePath::parse(path, "/w").unwrap()
    }

    const SAID: &str = "{\"type\":\"queue-operation\"}\n{\"type\":\"user\",\"x\":1}\n";

    #[test]
    fn what_the_cli_writes_is_on_the_volume_at_once_and_comes_back_elsewhere() {
        let bench = bench();
        let id = SessionId::new();
        assert_eq!(
            Conversation::find(&bench.workspace, id).unwrap_err().code,
            Code::SessionNotFound
        );
        let first = Conversation::begin(&bench.workspace, id, &place("app")).unwrap();
        assert_eq!((first.argument().option(), first.is_resumed()), ("--session-id", false));
        first.open(&bench.config, &place("app"), "/w/app").unwrap();
        fs::write(bench.config.join(format!("projects/-w-app/{id}.jsonl")), SAID).unwrap();
        drop(first);

        let second = Conversation::find(&bench.workspace, id).unwrap();
        assert_eq!(second.argument().option(), "--resume");
        assert_eq!(second.place(), Ok(Some(place("app"))));
        let config = bench.config.join("other");
        second.open(&config, &place("app/src"), "/w/app/src").unwrap();
        let restored = config.join(format!("projects/-w-app-src/{id}.jsonl"));
        assert_eq!(fs::read_to_string(&restored).unwrap(), SAID);
        assert_eq!(second.place(), Ok(Some(place("app/src"))));
    }

    #[test]
    fn a_session_in_which_nothing_was_said_is_begun_again() {
        let bench = bench();
        let id = SessionId::new();
        drop(Session::create(&bench.workspace, id, &place("app")).unwrap());
        for left in ["", "{\"type\":\"queue-operation\"}\n", "{\"type\":\"user\",\"messa"] {
            let session = Session::open(&bench.workspace, id).unwrap().unwrap();
            fs::write(transcript(&session), left).unwrap();
            let found = Conversation::find(&bench.workspace, id).unwrap();
            assert_eq!(found.argument().option(), "--session-id", "{left}");
            assert!(!transcript(&session).exists(), "the CLI would take the id to be in use");
        }
        assert!(
            Session::open(&bench.workspace, id).unwrap().is_some(),
            "made by somebody else: it stays"
        );
    }

    #[test]
    fn a_transcript_that_was_lost_is_no_new_beginning_and_stays_as_it_is() {
        let bench = bench();
        let id = SessionId::new();
        let run = Conversation::begin(&bench.workspace, id, &place("app")).unwrap();
        let path = transcript(&run.session);
        fs::write(&path, SAID).unwrap();
        note_answer(&run.answered());
        drop(run);
        let nul = "\0".repeat(5000);
        for damaged in
            ["", &nul, "garbage\n", "{\"type\":\"queue-operation\"}\n", &format!("{{{nul}")]
        {
            fs::write(&path, damaged).unwrap();
            let refusal = Conversation::find(&bench.workspace, id).unwrap_err();
            assert_eq!(refusal.code, Code::SessionDamaged, "{damaged}: {refusal}");
            assert!(refusal.to_string().contains(path.to_str().unwrap()), "{refusal}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged, "it is kept");
        }
        fs::remove_file(&path).unwrap();
        let refusal = Conversation::find(&bench.workspace, id).unwrap_err();
        assert_eq!(refusal.code, Code::SessionNotFound);
        fs::remove_dir(path.parent().unwrap()).unwrap();
        let refusal = Conversation::find(&bench.workspace, id).unwrap_err();
        assert_eq!(refusal.code, Code::SessionNotFound);
        // What somebody has restored is continued.
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("{nul}\n{SAID}")).unwrap();
        assert!(Conversation::find(&bench.workspace, id).unwrap().is_resumed());
    }

    #[test]
    fn what_the_cli_has_not_written_is_damage_even_before_an_answer() {
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
    fn a_run_that_says_nothing_leaves_no_session() {
        let bench = bench();
        for said in [None, Some(SAID)] {
            let id = SessionId::new();
            let run = Conversation::begin(&bench.workspace, id, &place("app")).unwrap();
            run.open(&bench.config, &place("app"), &format!("/w/{id}")).unwrap();
            if let Some(said) = said {
                fs::write(transcript(&run.session), said).unwrap();
            }
            drop(run);
            assert_eq!(Session::open(&bench.workspace, id).unwrap().is_some(), said.is_some());
        }
    }

    #[test]
    fn what_is_not_a_transcript_is_not_taken() {
        let bench = bench();
        let id = SessionId::new();
        drop(Session::create(&bench.workspace, id, &place("app")).unwrap());
        let session = Session::open(&bench.workspace, id).unwrap().unwrap();
        let path = transcript(&session);
        let outside = bench.config.join("outside");
        fs::write(&outside, SAID).unwrap();
        symlink(&outside, &path).unwrap();
        let code = || Conversation::find(&bench.workspace, id).unwrap_err().code;
        assert_eq!(code(), Code::SessionDamaged);
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert_eq!(code(), Code::SessionDamaged);
        fs::remove_file(&path).unwrap();
        fs::remove_dir(session.project()).unwrap();
        symlink(&bench.config, session.project()).unwrap();
        assert!(!Conversation::find(&bench.workspace, id).unwrap().is_resumed());
        assert!(fs::symlink_metadata(session.project()).unwrap().is_dir());
        assert!(outside.exists(), "links are removed, not what they lead to");
    }
}
