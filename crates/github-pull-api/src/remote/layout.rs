//! A mirror on the volume, and the control directory in which git works on it.
//!
//! On the volume are `objects`, `packed-refs`, `HEAD`, `shallow` if the history is not whole, `lfs`, and the mark `unreachable`.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use cap_std::{ambient_authority, fs::Dir};

use super::{Mirror, ObjectFormat, Refs, Transport, configuration::configuration, refs};
use crate::{
    failure::{Failure, Result},
    git::Command,
};

/// Is there if the mirror may hold objects that no reference leads to any more.
pub(super) const UNREACHABLE: &str = "unreachable";

impl Mirror<'_> {
    /// Has `command` work on the mirror.
    pub(super) fn place<'c>(&self, command: Command<'c>) -> Command<'c> {
        borrow_objects(command.git_dir(&self.control), &self.path)
    }

    /// Makes the control directory one of the mirror with `refs`.
    pub(super) fn write_control(
        &self,
        transport: &Transport<'_>,
        format: ObjectFormat,
        refs: &Refs,
        shallow: Option<&[u8]>,
    ) -> Result<()> {
        let write = |name: &str, content: &[u8]| {
            let path = self.control.join(name);
            fs::write(&path, content).map_err(Failure::io("write", &path))
        };
        let config = configuration(transport.repo, format, self.extent);
        write("config", config.as_bytes())?;
        write("HEAD", &self.head)?;
        write("packed-refs", &refs::pack(refs))?;
        shallow.map_or(Ok(()), |shallow| write("shallow", shallow))?;
        let refs = self.control.join("refs");
        match fs::create_dir(&refs) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Failure::io("create", &refs)(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes beside the objects in `mirror` what refers to them now.
    pub(super) fn publish(&self, mirror: &Path) -> Result<()> {
        let shallow = read_if_there(&self.control.join("shallow"))?;
        let refs = refs::pack(&self.refs);
        for (name, content) in [
            ("shallow", shallow.as_deref()),
            ("packed-refs", Some(refs.as_slice())),
            ("HEAD", Some(self.head.as_slice())),
        ] {
            let path = mirror.join(name);
            // Most of the time, it is what it was.
            if read_if_there(&path)?.as_deref() == content {
                continue;
            }
            let put = match content {
                Some(content) => {
                    let new = mirror.join(format!("{name}.lock"));
                    write_new(&new, content).and_then(|()| fs::rename(&new, &path))
                }
                None => fs::remove_file(&path),
            };
            put.map_err(Failure::io("put in place", &path))?;
        }
        // Earlier versions kept some references there. git takes the directory for that of a repository only with this one.
        let loose = mirror.join("refs");
        workspace::remove_tree(&loose)
            .and_then(|()| fs::create_dir(&loose))
            .map_err(Failure::io("empty", &loose))
    }

    /// Leaves a mark that the mirror may hold objects that no reference leads to. Whether it was there before.
    pub(super) fn mark_unreachable(&self) -> Result<bool> {
        let marker = self.path.join(UNREACHABLE);
        match write_new(&marker, b"") {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            written => written.map(|()| false).map_err(Failure::io("write", &marker)),
        }
    }

    pub(super) fn unmark_unreachable(&self) -> Result<()> {
        let marker = self.path.join(UNREACHABLE);
        match fs::remove_file(&marker) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::io("remove", &marker)(error))
            }
            _ => Ok(()),
        }
    }

    /// The references in a directory.
    pub(super) fn read_refs(&self, directory: &Path) -> Result<Refs> {
        let failed = |error| Failure::io("read the references of", &self.path)(error);
        let directory = Dir::open_ambient_dir(directory, ambient_authority()).map_err(failed)?;
        let read = |name: &Path, _| match directory.read(name) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        };
        // Whatever is wrong with them, a new mirror has better ones.
        let refs = refs::read(&directory, &read);
        let refs = refs.map_err(|failure| Failure::Git(failure.to_string()))?;
        let is_ours =
            |name: &Vec<u8>| name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/");
        match refs.keys().find(|name| !is_ours(name)) {
            // What it leads to would be taken for the remote's.
            Some(name) => {
                Err(Failure::Git(format!("{} is not of a mirror", String::from_utf8_lossy(name))))
            }
            None => Ok(refs),
        }
    }
}

/// Has `command` read and write the objects of the mirror at `path`.
pub(super) fn borrow_objects<'c>(command: Command<'c>, path: &Path) -> Command<'c> {
    let objects = path.join("objects");
    command.env("GIT_OBJECT_DIRECTORY", &objects).writes(objects)
}

/// Writes a file that is not there. A link that somebody put there is not followed.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).open(path)?.write_all(content)
}

/// The content of a file of ours, if it is there.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io("read", path)(error)),
    }
}
