//! The control interface of a running supervisor: a Unix socket beneath its workspace. A client sends the key that lies
//! beside the socket, and a request; each of them is one line. A request is JSON, and so is each reply.
//!
//! Any process that can read the stack's own files can use it. An agent cannot.

mod client;
mod key;
mod protocol;
mod server;

use std::{
    fs, io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

pub use client::{Connection, ConnectionError, Replies};
pub use protocol::{ControlRequest, FailureView, Reply, SlotState, SlotView, StackView};
pub(crate) use server::{Control, Socket, serve};

/// The socket's name, beside the stack's other files on the volume.
const SOCKET: &str = "up.sock";

fn socket(workspace: &Path) -> PathBuf {
    workspace.join(".stack").join(SOCKET)
}

/// A socket's address has room for 107 bytes, and a workspace's path may be longer. So the socket is addressed
/// through an open directory.
fn by_directory<T>(workspace: &Path, action: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let directory = fs::File::open(workspace.join(".stack"))?;
    action(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(SOCKET))
}
