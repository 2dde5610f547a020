//! `events.ndjson`: one event a line, one writer, append only.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use contract::EventLine;

use crate::{Error, Result, write::without_waiting};

/// The writing end of a journal.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    /// Where the last whole line ends.
    length: u64,
}

impl Journal {
    /// Creates an empty journal. The claim makes sure that no other process does.
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(Error::io("create the journal", &path))?;
        file.set_len(0).map_err(Error::io("create the journal", &path))?;
        Ok(Self { file, path, length: 0 })
    }

    /// Appends one event and returns its id: where it ends.
    ///
    /// A write that fails half way is undone, so the journal ends with a whole line.
    pub(crate) fn append(&mut self, event: &EventLine) -> Result<u64> {
        let mut line = Vec::with_capacity(event.as_bytes().len() + 1);
        line.extend_from_slice(event.as_bytes());
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // If this fails too, the incomplete line stays behind `length`, where nobody reads.
            let _ = self.file.set_len(self.length);
            return Err(Error::io("append to the journal", &self.path)(error));
        }
        self.length += line.len() as u64;
        Ok(self.length)
    }

    /// Where the last whole line ends.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Flushes everything appended so far to disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("flush the journal", &self.path))
    }
}

/// Opens a journal to read it. Anything but a file, which an agent may have put in its place, is not waited for.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = without_waiting(OpenOptions::new().read(true)).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not a file of ours"))
    }
}

/// Where the last whole line of the journal at `path` ends; behind it there may be part of one, if its writer died.
pub(crate) fn whole_length(path: &Path) -> Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let error = || Error::io("read the journal", path);
    let mut file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(source) => return Err(error()(source)),
    };
    let mut end = file.metadata().map_err(error())?.len();
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start)).map_err(error())?;
        block.clear();
        (&file).take(end - start).read_to_end(&mut block).map_err(error())?;
        if let Some(at) = memchr::memrchr(b'\n', &block) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Whether an event of the journal ends at `position`, or the journal begins there.
pub(crate) fn is_boundary(path: &Path, position: u64) -> Result<bool> {
    if position == 0 {
        return Ok(true);
    }
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io("read the journal", path)(error)),
    };
    let mut byte = [0];
    match file.read_at(&mut byte, position - 1) {
        Ok(read) => Ok(read == 1 && byte == *b"\n"),
        Err(error) => Err(Error::io("read the journal", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.ndjson");
        assert_eq!(whole_length(&path).unwrap(), 0);
        let mut journal = Journal::create(path.clone()).unwrap();
        let line = EventLine::encode(&serde_json::json!({"type": "message"}));
        let first = journal.append(&line).unwrap();
        assert_eq!(whole_length(&path).unwrap(), first);
        let second = journal.append(&line).unwrap();
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(&vec![b'x'; 200_000])
            .unwrap();
        assert_eq!(whole_length(&path).unwrap(), second);
        assert!(is_boundary(&path, 0).unwrap() && is_boundary(&path, first).unwrap());
        assert!(!is_boundary(&path, first - 1).unwrap() && !is_boundary(&path, 1 << 40).unwrap());
    }
}
