//! Sessions: what the CLI remembers of a conversation, kept on the volume so that any replica can go on
//! with it.
//!
//! `<volume>/.stack/sessions/<id>/` holds `meta.json` (where the session works, and when it was made and
//! used) and, once the agent has run, `transcript.jsonl`. A session with the first alone is one that was
//! made ahead of its first run.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use contract::{Code, SessionId, Timestamp, WorkspacePath};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;

const TRANSCRIPT: &str = "transcript.jsonl";
const META: &str = "meta.json";

/// The longest name of a project's directory before the CLI cuts it.
const MAX_PROJECT: usize = 200;

/// The session of one run.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    directory: PathBuf,
    start: Start,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// The agent has not run in it.
    Fresh,
    /// There is a transcript.
    Resumed,
}

/// `meta.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    /// Relative to the volume.
    workspace: String,
    created: Timestamp,
    updated: Timestamp,
}

impl Session {
    pub(crate) fn fresh(id: SessionId, directory: PathBuf) -> Self {
        Self { id, directory, start: Start::Fresh }
    }

    pub(crate) fn resumed(id: SessionId, directory: PathBuf) -> Self {
        Self { id, directory, start: Start::Resumed }
    }

    /// Finds a session that is to be gone on with.
    pub(crate) fn find(id: SessionId, directory: PathBuf) -> Result<Self, Refusal> {
        let has = |name| fs::metadata(directory.join(name)).is_ok_and(|file| file.len() > 0);
        if has(TRANSCRIPT) {
            Ok(Self::resumed(id, directory))
        } else if has(META) {
            Ok(Self::fresh(id, directory))
        } else {
            Err(Refusal::new(
                Code::SessionNotFound,
                format!("there is no session {id}: leave resumeSessionId out to begin a new one"),
            ))
        }
    }

    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// The CLI's option that its id follows.
    pub(crate) fn option(&self) -> &'static str {
        match self.start {
            Start::Fresh => "--session-id",
            Start::Resumed => "--resume",
        }
    }

    /// Where it has worked before, relative to the volume, if that is known.
    pub(crate) fn workspace(&self, root: &str) -> Option<WorkspacePath> {
        WorkspacePath::parse(&self.meta()?.workspace, root).ok()
    }

    fn meta(&self) -> Option<Meta> {
        serde_json::from_slice(&fs::read(self.directory.join(META)).ok()?).ok()
    }

    /// Puts the transcript where a CLI that works in `cwd` looks for it.
    pub(crate) fn restore(&self, config: &Path, cwd: &str) -> io::Result<()> {
        if self.start == Start::Fresh {
            return Ok(());
        }
        let project = config.join("projects").join(project_name(cwd));
        fs::create_dir_all(&project)?;
        fs::copy(self.directory.join(TRANSCRIPT), project.join(self.file_name()))?;
        Ok(())
    }

    /// Keeps what the CLI has written, whatever became of the run.
    pub(crate) fn save(&self, config: &Path, workspace: &WorkspacePath) -> io::Result<()> {
        let Some(transcript) = self.written(config) else { return Ok(()) };
        fs::create_dir_all(&self.directory)?;
        self.put(TRANSCRIPT, |file| io::copy(&mut &transcript, file).map(drop))?;
        let now = Timestamp::now();
        let created = self.meta().map_or(now, |meta| meta.created);
        let meta = Meta { workspace: workspace.to_string(), created, updated: now };
        let json = serde_json::to_vec(&meta)?;
        self.put(META, |file| io::Write::write_all(file, &json))
    }

    /// Writes a file aside and renames it into place.
    fn put(&self, name: &str, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let aside = self.directory.join(format!("{name}.{}", SessionId::new()));
        let written = File::create_new(&aside)
            .and_then(|mut file| {
                write(&mut file)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&aside, self.directory.join(name)));
        if written.is_err() {
            let _ = fs::remove_file(&aside);
        }
        written
    }

    /// The transcript that the CLI wrote, in whatever project's directory. The agent could have put
    /// something else there: what is not a regular file is not taken.
    fn written(&self, config: &Path) -> Option<File> {
        let projects = fs::read_dir(config.join("projects")).ok()?;
        let mut found: Vec<(u64, File)> = projects
            .flatten()
            .filter_map(|project| {
                let mut options = OpenOptions::new();
                options.read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK);
                let file = options.open(project.path().join(self.file_name())).ok()?;
                let metadata = file.metadata().ok()?;
                (metadata.is_file() && metadata.len() > 0).then_some((metadata.len(), file))
            })
            .collect();
        found.sort_by_key(|(length, _)| *length);
        found.pop().map(|(_, file)| file)
    }

    fn file_name(&self) -> String {
        format!("{}.jsonl", self.id)
    }
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

    fn workspace(path: &str) -> WorkspacePath {
        WorkspacePath::parse(path, "/w").unwrap()
    }

    #[test]
    fn a_transcript_comes_back_under_the_name_of_the_new_directory() {
        let root = tempfile::tempdir().unwrap();
        let (config, directory) = (root.path().join("config"), root.path().join("session"));
        let id = SessionId::new();
        assert_eq!(Session::find(id, directory.clone()).unwrap_err().code, Code::SessionNotFound);

        let first = Session::fresh(id, directory.clone());
        let project = config.join("projects/-somewhere");
        fs::create_dir_all(&project).unwrap();
        first.save(&config, &workspace("app")).unwrap();
        assert!(!directory.exists(), "the CLI has written nothing");
        fs::write(project.join(format!("{id}.jsonl")), "one\n").unwrap();
        first.save(&config, &workspace("app")).unwrap();

        let second = Session::find(id, directory.clone()).unwrap();
        assert_eq!(second.option(), "--resume");
        assert_eq!(second.workspace("/w"), Some(workspace("app")));
        let created = second.meta().unwrap().created;
        let config = root.path().join("other");
        second.restore(&config, "/w/app").unwrap();
        let restored = config.join(format!("projects/-w-app/{id}.jsonl"));
        assert_eq!(fs::read_to_string(&restored).unwrap(), "one\n");
        fs::write(&restored, "one\ntwo\n").unwrap();
        second.save(&config, &workspace("app/src")).unwrap();
        assert_eq!(fs::read_to_string(directory.join(TRANSCRIPT)).unwrap(), "one\ntwo\n");
        assert_eq!(second.meta().unwrap().created, created);
        assert_eq!(second.workspace("/w"), Some(workspace("app/src")));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "nothing is left aside");
    }

    #[test]
    fn a_session_made_ahead_of_its_first_run_is_begun() {
        let root = tempfile::tempdir().unwrap();
        let meta = r#"{"workspace":"app","created":"2026-01-31T12:00:00.000Z","updated":"2026-01-31T12:00:00.000Z"}"#;
        fs::write(root.path().join(META), meta).unwrap();
        let session = Session::find(SessionId::new(), root.path().to_owned()).unwrap();
        assert_eq!(session.option(), "--session-id");
        assert_eq!(session.workspace("/w"), Some(workspace("app")));
    }

    #[test]
    fn what_is_not_a_transcript_is_not_taken() {
        let root = tempfile::tempdir().unwrap();
        let session = Session::fresh(SessionId::new(), root.path().join("session"));
        fs::write(root.path().join("secret"), "s3cret").unwrap();
        let project = root.path().join("projects/-x");
        fs::create_dir_all(&project).unwrap();
        let file = project.join(session.file_name());
        std::os::unix::fs::symlink(root.path().join("secret"), &file).unwrap();
        session.save(root.path(), &workspace("app")).unwrap();
        fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        session.save(root.path(), &workspace("app")).unwrap();
        assert!(!root.path().join("session").exists());
    }
}
