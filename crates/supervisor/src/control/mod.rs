//! How others reach a running supervisor: a Unix socket beneath its workspace. One line of JSON asks, lines of JSON
//! answer.
//!
//! Whoever may write to the workspace may ask anything here, which gives them less than the files already do.

mod client;
mod protocol;
mod server;

use std::{
    fs, io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

pub use client::{Connection, ConnectionError, Replies};
pub use protocol::{Ask, FailureView, Reply, SlotState, SlotView, StackView};
pub(crate) use server::{Control, Socket, serve};

/// The socket's name, beside the rest of what a stack keeps on its volume.
const SOCKET: &str = "up.sock";

fn socket(workspace: &Path) -> PathBuf {
    workspace.join(".stack").join(SOCKET)
}

/// A socket's address holds 107 bytes, and a workspace's path may be longer. So the socket is named through an open
/// directory.
fn by_directory<T>(workspace: &Path, action: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let directory = fs::File::open(workspace.join(".stack"))?;
    action(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(SOCKET))
}
