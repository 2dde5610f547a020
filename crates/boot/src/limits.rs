//! Limits that the system sets for this process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More is of no use, and makes programs slow that close every descriptor they might have.
const ENOUGH: u64 = 65_536;

/// Raises the limit of open files of this process and its children as far as allowed: each caller takes a socket and
/// usually an open journal, and each replica a pipe.
pub fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard.min(ENOUGH)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard.min(ENOUGH), hard)
    {
        tracing::warn!(%error, soft, "cannot raise the limit of open files");
    }
}
