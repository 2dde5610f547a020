//! Opening a file of a checkout for a reader, although an agent may have made it.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
};

use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use contract::WorkspacePath;
use nix::libc::{O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK};

use crate::{Error, Job, Result, Workspace};

/// What is at a path in a checkout.
#[derive(Debug)]
pub enum CheckoutFile {
    /// A regular file, open for reading.
    File(File),
    /// Something else, which was not opened: what it is, for a sentence.
    Other(&'static str),
    /// Nothing, or nothing that a reader may see.
    Nothing,
}

impl Workspace {
    /// Opens the file `path` of a checkout. No link is followed, on the way or at the end, and nothing in a `.git` or a `.stack`
    /// is opened. The path is bytes, because names of files need not be UTF-8. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn open_checkout_file(
        &self,
        checkout: &WorkspacePath,
        path: &[u8],
    ) -> Result<CheckoutFile> {
        let shown = self.root().join(checkout.as_str()).join(OsStr::from_bytes(path));
        let failed = |error| Error::io("open", &shown)(error);
        let mut directory = match self.open_directory(checkout) {
            Ok(directory) => directory,
            Err(error) if error.is_missing() => return Ok(CheckoutFile::Nothing),
            Err(error) => return Err(error),
        };
        let is_hidden = |name: &[u8]| {
            matches!(name, b"" | b"." | b"..")
                || name.contains(&0)
                || name.eq_ignore_ascii_case(b".git")
                || name.eq_ignore_ascii_case(b".stack")
        };
        let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        if names.iter().any(|name| is_hidden(name)) {
            return Ok(CheckoutFile::Nothing);
        }
        let Some(last) = names.pop() else { return Ok(CheckoutFile::Nothing) };
        for name in names {
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(O_DIRECTORY | O_NOFOLLOW);
            match directory.open_with(OsStr::from_bytes(name), &options) {
                Ok(opened) => directory = Dir::from_std_file(opened.into_std()),
                Err(error) if is_absent(&error) => return Ok(CheckoutFile::Nothing),
                Err(error) => return Err(failed(error)),
            }
        }
        let name = OsStr::from_bytes(last);
        let kind = match directory.symlink_metadata(name) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if is_absent(&error) => return Ok(CheckoutFile::Nothing),
            Err(error) => return Err(failed(error)),
        };
        if !kind.is_file() {
            return Ok(CheckoutFile::Other(match kind {
                kind if kind.is_dir() => "a directory",
                kind if kind.is_symlink() => "a symbolic link",
                _ => "a pipe, a socket or a device",
            }));
        }
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK);
        match directory.open_with(name, &options) {
            Ok(file) => Ok(CheckoutFile::File(file.into_std())),
            Err(error) if is_absent(&error) => Ok(CheckoutFile::Nothing),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(CheckoutFile::Other("a file that the stack's user cannot read"))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// Whether there is nothing at a path: also if a link or a file is where a directory would have to be.
fn is_absent(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || matches!(
            error.raw_os_error().map(Errno::from_raw),
            Some(Errno::ELOOP | Errno::ENAMETOOLONG)
        )
}

impl Job {
    /// Opens a file that describes what the job has left: `patch` or `summary.json`. `None` if nobody has asked for it yet.
    /// Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub fn open_changes(&self, name: &str) -> Result<Option<File>> {
        let path = self.changes().join(name);
        let mut options = std::fs::OpenOptions::new();
        let file = match options.read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", path)(error)),
        };
        let is_file = file.metadata().map_err(Error::io("look at", &path))?.is_file();
        if is_file { Ok(Some(file)) } else { Err(Error::malformed(path)("it is no regular file")) }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read as _, os::unix::fs::symlink};

    use super::*;
    use crate::fixtures;

    #[test]
    fn an_answer_that_is_no_file_makes_nobody_wait() {
        let (_dir, workspace) = fixtures::workspace();
        let job = fixtures::job(&workspace);
        assert!(job.open_changes("patch").unwrap().is_none());
        fs::create_dir(job.changes()).unwrap();
        nix::unistd::mkfifo(&job.changes().join("patch"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(job.open_changes("patch").unwrap_err().is_damage());
    }

    #[test]
    fn only_regular_files_of_the_checkout_are_opened() {
        let (_dir, workspace) = fixtures::workspace();
        let root = workspace.root().join("app");
        fs::create_dir_all(root.join("src/.git")).unwrap();
        fs::create_dir_all(root.join(".git")).unwrap();
        for name in ["a", "src/b", ".git/config", "src/.git/config"] {
            fs::write(root.join(name), name).unwrap();
        }
        fs::write(root.join(OsStr::from_bytes(b"\xff")), "odd").unwrap();
        fs::write(workspace.root().join("secret"), "secret").unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("a", root.join("inner")).unwrap();
        symlink(".git", root.join("git")).unwrap();
        symlink("..", root.join("up")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let app = WorkspacePath::parse("app", workspace.root_text()).unwrap();
        let open = |path: &[u8]| match workspace.open_checkout_file(&app, path).unwrap() {
            CheckoutFile::File(mut file) => {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                text
            }
            CheckoutFile::Other(what) => what.to_owned(),
            CheckoutFile::Nothing => "nothing".to_owned(),
        };
        assert_eq!(
            (open(b"a"), open(b"src/b"), open(b"\xff")),
            ("a".into(), "src/b".into(), "odd".into())
        );
        for hidden in [
            ".git/config",
            "src/.git/config",
            ".GIT/config",
            "git/config",
            "up/secret",
            "../secret",
            "/etc/passwd",
            "a/b",
            "",
            "./a",
            "src//b",
            ".stack/secret",
            "none",
            "a\0",
        ] {
            assert_eq!(open(hidden.as_bytes()), "nothing", "{hidden}");
        }
        for link in ["out", "inner", "up", "git"] {
            assert_eq!(open(link.as_bytes()), "a symbolic link", "{link}");
        }
        assert_eq!(
            (open(b"src").as_str(), open(b"pipe").as_str()),
            ("a directory", "a pipe, a socket or a device")
        );
    }
}
