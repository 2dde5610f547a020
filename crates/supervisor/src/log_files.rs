//! The logs of a stack on its volume, which outlive the supervisor. There are two files; the older one is removed
//! when the newer one is full.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::history::Entry;

/// The maximum size of each file, in bytes.
const FILE_LIMIT: u64 = 8 << 20;

/// The two files. Only the process that holds the lock of the control socket may open them.
#[derive(Debug)]
pub(crate) struct LogFiles {
    current_path: PathBuf,
    older_path: PathBuf,
    current: File,
    length: u64,
    limit: u64,
}

impl LogFiles {
    /// Opens the logs of this workspace's stack, and returns their content.
    ///
    /// # Errors
    /// If they cannot be read or created.
    pub(crate) fn open(workspace: &Path) -> io::Result<(Self, Vec<Entry>)> {
        Self::with_limit(workspace, FILE_LIMIT)
    }

    fn with_limit(workspace: &Path, limit: u64) -> io::Result<(Self, Vec<Entry>)> {
        let directory = workspace.join(".stack").join("logs");
        fs::create_dir_all(&directory)?;
        let (current_path, older_path) =
            (directory.join("up.ndjson"), directory.join("up.older.ndjson"));
        let mut past = Vec::new();
        match fs::read(&older_path) {
            Ok(text) => past.extend(entries(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut current = create(&current_path)?;
        let mut text = Vec::new();
        current.read_to_end(&mut text)?;
        past.extend(entries(&text));
        if text.last().is_some_and(|byte| *byte != b'\n') {
            // A supervisor was killed, or the volume was full, in the middle of a line.
            current.write_all(b"\n")?;
        }
        let length = current.seek(SeekFrom::End(0))?;
        Ok((Self { current_path, older_path, current, length, limit }, past))
    }

    /// Writes lines.
    ///
    /// # Errors
    /// If the volume is full or broken. The lines are then lost, and later ones may be written.
    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.length + lines.len() as u64 > self.limit {
            fs::rename(&self.current_path, &self.older_path)?;
            self.current = create(&self.current_path)?;
            self.length = 0;
        }
        let written = self.current.write_all(lines);
        self.length = self.current.seek(SeekFrom::End(0))?;
        written
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// The lines of a file. Invalid lines were being written when a supervisor was killed.
fn entries(text: &[u8]) -> impl Iterator<Item = Entry> {
    text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

#[cfg(test)]
mod tests {
    use contract::Timestamp;

    use super::*;

    fn entry(number: u16) -> Entry {
        Entry { part: "gateway".into(), number, at: Timestamp::now(), text: "x".repeat(100) }
    }

    fn line(number: u16) -> Vec<u8> {
        let mut line = serde_json::to_vec(&entry(number)).unwrap();
        line.push(b'\n');
        line
    }

    #[test]
    fn the_newest_lines_outlive_the_process_and_are_limited() {
        let directory = tempfile::tempdir().unwrap();
        let open = || LogFiles::with_limit(directory.path(), 2000).unwrap();
        let numbers = |past: Vec<Entry>| past.iter().map(|it| it.number).collect::<Vec<_>>();
        let (mut files, past) = open();
        assert!(past.is_empty());
        for number in 0..100 {
            files.append(&line(number)).unwrap();
        }
        drop(files);
        let (mut files, past) = open();
        let kept = numbers(past);
        assert!(kept.len() >= 10 && kept.is_sorted() && kept.last() == Some(&99), "{kept:?}");
        let logs = directory.path().join(".stack/logs");
        let sizes =
            fs::read_dir(&logs).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
        assert!(sizes.sum::<u64>() <= 4000);
        // Killed in the middle of a line.
        files.append(&line(100)[..20]).unwrap();
        drop(files);
        let (mut files, _) = open();
        files.append(&line(101)).unwrap();
        drop(files);
        assert_eq!(numbers(open().1).last(), Some(&101));
    }
}
