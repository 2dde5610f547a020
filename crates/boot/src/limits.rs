//! System limits of this process, and the modes of its files.

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
};

/// A higher limit is useless, and slows down programs that close every possible descriptor.
const ENOUGH: u64 = 65_536;

/// Raises the limit of open files of this process and its children as far as allowed: each caller needs a socket and
/// usually an open journal, and each replica needs a pipe.
pub fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard.min(ENOUGH)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard.min(ENOUGH), hard)
    {
        tracing::warn!(%error, soft, "failed to raise the limit of open files");
    }
}

/// Lets only this user reach the files and directories that this process and its children create from here on: they
/// contain what callers, repositories and agents have said.
pub fn keep_files_private() {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
}
