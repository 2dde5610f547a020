//! What stays closed although it lies below a directory that agents can reach.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tracing::warn;

/// What is at and below `path`, without what is at and below any of `excluded`: `path` itself, or else the entries
/// beside the way to what is excluded. A directory on this way that cannot be listed is left out, with a warning.
///
/// The paths in `excluded` must be [resolved](resolved).
pub(super) fn without(path: &Path, excluded: &[PathBuf]) -> Vec<PathBuf> {
    // Links, such as /bin, are resolved, because what they lead to decides.
    let Ok(real) = path.canonicalize() else { return Vec::new() };
    let mut found = Vec::new();
    let mut left = vec![real];
    while let Some(path) = left.pop() {
        if excluded.contains(&path) {
            continue;
        }
        if !excluded.iter().any(|excluded| excluded.starts_with(&path)) {
            found.push(path);
            continue;
        }
        match entries(&path) {
            Ok(entries) => left.extend(entries),
            Err(error) => warn!(
                directory = %path.display(), %error,
                "agents cannot reach this directory: something in it must stay closed, and it cannot be listed"
            ),
        }
    }
    found
}

/// The entries of a directory, without links: what a link leads to has a path of its own.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_symlink() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A path without links in it, or `path` itself if it does not lead anywhere.
pub(super) fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Those of the user's `homes` that lie below one of the system's directories and are none of these. Some users of the
/// system have such a directory as their home, such as `/bin`.
pub(super) fn homes_below(homes: &[PathBuf], system: &[PathBuf]) -> Vec<PathBuf> {
    let system: Vec<_> = system.iter().map(|path| resolved(path)).collect();
    let is_below = |home: &PathBuf| {
        !system.contains(home) && system.iter().any(|directory| home.starts_with(directory))
    };
    homes.iter().filter(|home| is_below(home)).cloned().collect()
}
