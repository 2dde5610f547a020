//! What the system lets this process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More is of no use, and programs that walk through all descriptors they might have take their time.
const ENOUGH: u64 = 65_536;

/// Lets this process, and those it starts, have as many open files as they may: each caller costs a socket and
/// mostly an open journal, each replica a pipe.
pub fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard.min(ENOUGH)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard.min(ENOUGH), hard)
    {
        tracing::warn!(%error, soft, "cannot raise the limit of open files");
    }
}
