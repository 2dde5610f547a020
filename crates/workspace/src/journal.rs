//! `events.ndjson`: one event per line, one writer, append-only.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use contract::EventLine;

use crate::{Error, Result, write::without_waiting};

/// The write end of a journal.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    /// The offset of the end of the last complete line.
    length: u64,
}

impl Journal {
    /// Creates an empty journal. The claim ensures that no other process does.
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(Error::io("create the journal", &path))?;
        file.set_len(0).map_err(Error::io("create the journal", &path))?;
        Ok(Self { file, path, length: 0 })
    }

    /// Appends events with one write. The ID of an event is the offset of its end.
    ///
    /// A partial write is undone, so the journal ends with a complete line.
    pub(crate) fn append(&mut self, events: &[EventLine]) -> Result<()> {
        let size = events.iter().map(|event| event.as_bytes().len() + 1).sum();
        let mut lines = Vec::with_capacity(size);
        for event in events {
            lines.extend_from_slice(event.as_bytes());
            lines.push(b'\n');
        }
        if let Err(error) = self.file.write_all(&lines) {
            // If this fails too, the incomplete line remains after `length`, where it is ignored.
            let _ = self.file.set_len(self.length);
            return Err(Error::io("append to the journal", &self.path)(error));
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    /// The offset of the end of the last complete line.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Flushes everything appended so far to disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("flush the journal", &self.path))
    }
}

/// Opens a journal for reading. An agent may have put something else in its place, so this never blocks.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = without_waiting(OpenOptions::new().read(true)).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not a file of ours"))
    }
}

/// The offset of the end of the last complete line of the journal at `path`. If its writer died, part of a line may
/// follow.
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

/// The first event of the journal at `path`, if it has one that is whole and not longer than 64 KiB.
pub(crate) fn first_event(path: &Path) -> Result<Option<Vec<u8>>> {
    const LONGEST: u64 = 64 * 1024;
    let mut line = Vec::new();
    let read = open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut line));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::io("read the journal", path))?,
    };
    Ok(memchr::memchr(b'\n', &line).map(|at| {
        line.truncate(at);
        line
    }))
}

/// Whether `position` is the end of an event, or the start of the journal.
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
    fn an_incomplete_line_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.ndjson");
        assert_eq!(whole_length(&path).unwrap(), 0);
        assert_eq!(first_event(&path).unwrap(), None);
        let mut journal = Journal::create(path.clone()).unwrap();
        let line = EventLine::encode(&serde_json::json!({"type": "message"}));
        journal.append(std::slice::from_ref(&line)).unwrap();
        let first = journal.length();
        assert_eq!(whole_length(&path).unwrap(), first);
        journal.append(&[line]).unwrap();
        let second = journal.length();
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(&vec![b'x'; 200_000])
            .unwrap();
        assert_eq!(whole_length(&path).unwrap(), second);
        assert_eq!(first_event(&path).unwrap().unwrap(), br#"{"type":"message"}"#);
        assert!(is_boundary(&path, 0).unwrap() && is_boundary(&path, first).unwrap());
        assert!(!is_boundary(&path, first - 1).unwrap() && !is_boundary(&path, 1 << 40).unwrap());
    }
}
