//! What the kernel says in files.

use std::path::Path;

/// `/proc` and `/sys`, or a map in a test.
pub(super) trait Files {
    /// The text of a file, or `None` if it does not exist or may not be read.
    fn read(&self, path: &str) -> Option<String>;
}

/// Those of this machine.
pub(super) struct RealFiles;

impl Files for RealFiles {
    fn read(&self, path: &str) -> Option<String> {
        std::fs::read(Path::new(path)).ok().map(|text| String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
impl<const N: usize> Files for [(&str, &str); N] {
    fn read(&self, path: &str) -> Option<String> {
        self.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
    }
}

/// A file that contains one number.
pub(super) fn number(files: &dyn Files, path: &str) -> Option<u64> {
    files.read(path)?.trim().parse().ok()
}
