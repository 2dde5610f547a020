//! The key of the control socket: a random secret in a file beside it, which only the user can read.
//!
//! The permissions of a socket do not keep out a confined agent, which has the same user: Landlock decides about files,
//! but before Linux 7.1 not about connections. An agent cannot read the key, because it is a file of the stack.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use subtle::ConstantTimeEq as _;

/// The file's name.
const FILE: &str = "up.key";
/// The number of random bytes. The file has two digits for each.
const BYTES: usize = 32;

/// The key of one socket.
pub(super) struct Key(String);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(***)")
    }
}

impl Key {
    /// Writes a new key for the socket of this workspace. The caller holds the lock of the socket.
    ///
    /// # Errors
    /// If there are no random numbers, or the file cannot be written.
    pub(super) fn create(workspace: &Path) -> io::Result<Self> {
        let mut bytes = [0; BYTES];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = path(workspace);
        // Not overwritten, so that its mode is that of a new file.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        Ok(Self(text))
    }

    /// Reads the key of the socket of this workspace.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn read(workspace: &Path) -> io::Result<Self> {
        fs::read_to_string(path(workspace)).map(Self)
    }

    /// The line that a client sends before its request.
    pub(super) fn line(&self) -> String {
        format!("{}\n", self.0)
    }

    /// Whether a client has sent this key. Takes the same time for every wrong key of the same length.
    pub(super) fn is(&self, line: &str) -> bool {
        let said = line.strip_suffix('\n').unwrap_or(line);
        said.as_bytes().ct_eq(self.0.as_bytes()).into()
    }

    /// Removes the file.
    pub(super) fn remove(workspace: &Path) {
        // If this fails, the next owner of the socket replaces it.
        let _ = fs::remove_file(path(workspace));
    }
}

fn path(workspace: &Path) -> PathBuf {
    workspace.join(".stack").join(FILE)
}
