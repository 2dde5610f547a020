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

/// A conversation, as one run goes on with it or begins it.
#[derive(Debug)]
pub(crate) struct Conversation {
    session: Session,
    start: Start,
    /// The turn of a session that this run has made; that of another is held by the replica.
    made: Option<HeldTurn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nothing has been said in it.
    Fresh,
    /// There is a transcript.
    Resumed,
}

/// How the CLI is told which session is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Argument {
    pub(crate) start: Start,
    pub(crate) id: SessionId,
}

impl Argument {
    /// The option that the id follows.
    pub(crate) fn option(self) -> &'static str {
        match self.start {
            Start::Fresh => "--session-id",
            Start::Resumed => "--resume",
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
        Ok(Self { session, start: Start::Fresh, made: Some(turn) })
    }

    /// Finds one that is to be gone on with. Blocking.
    pub(crate) fn find(workspace: &Workspace, id: SessionId) -> Result<Self, Refusal> {
        let found = Session::open(workspace, id).map_err(|error| Refusal::volume(&error))?;
        let session = found.ok_or_else(|| {
            Refusal::new(
                Code::SessionNotFound,
                format!("there is no session {id}: leave resumeSessionId out to begin a new one"),
            )
        })?;
        let start = start(&session)
            .map_err(|error| Refusal::io("read the session's transcript", &error))?;
        Ok(Self { session, start, made: None })
    }

    pub(crate) fn id(&self) -> SessionId {
        self.session.id()
    }

    /// Whether something has been said in it before.
    pub(crate) fn is_resumed(&self) -> bool {
        self.start == Start::Resumed
    }

    /// The CLI's option for it, and its id.
    pub(crate) fn argument(&self) -> Argument {
        Argument { start: self.start, id: self.id() }
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

impl Drop for Conversation {
    /// One that this run has begun, and in which nothing was said, is none.
    fn drop(&mut self) {
        if self.made.is_none() || has_conversation(&transcript(&self.session)).unwrap_or(true) {
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

/// Whether the CLI can go on with the session. If it cannot, what is left of its files is out of the way of a
/// new start: the CLI takes an id to be in use as soon as there is a file of its name.
fn start(session: &Session) -> io::Result<Start> {
    // An agent could have put something else in these places.
    let project = session.project();
    if !fs::symlink_metadata(&project).is_ok_and(|found| found.is_dir()) {
        remove(&project)?;
        fs::create_dir(&project)?;
    }
    let transcript = transcript(session);
    if has_conversation(&transcript)? {
        return Ok(Start::Resumed);
    }
    remove(&transcript)?;
    Ok(Start::Fresh)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a transcript holds a message: without one the CLI does not take it up, as version 2.1.197 behaves.
/// A process that was killed early leaves such a file.
fn has_conversation(path: &Path) -> io::Result<bool> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow, rename = "type")]
        kind: Option<std::borrow::Cow<'a, str>>,
    }
    // Not opened unless it is a file: a pipe in its place would never answer.
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
        return Ok(false);
    }
    let mut lines = BufReader::new(File::open(path)?.take(MAX_HEAD));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        // One that was cut off does not parse.
        let kind = serde_json::from_slice::<Line<'_>>(&line).ok().and_then(|line| line.kind);
        if matches!(kind.as_deref(), Some("user" | "assistant")) {
            return Ok(true);
        }
        line.clear();
    }
    Ok(false)
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
        for left in
            ["", "{\"type\":\"queue-operation\"}\n", "{\"type\":\"user\",\"messa", "garbage\n"]
        {
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
        assert!(!Conversation::find(&bench.workspace, id).unwrap().is_resumed());
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(!Conversation::find(&bench.workspace, id).unwrap().is_resumed());
        fs::remove_dir(session.project()).unwrap();
        symlink(&bench.config, session.project()).unwrap();
        assert!(!Conversation::find(&bench.workspace, id).unwrap().is_resumed());
        assert!(fs::symlink_metadata(session.project()).unwrap().is_dir());
        assert!(outside.exists(), "links are removed, not what they lead to");
    }
}
