//! The agent's standard input.

use tokio::{io::AsyncWriteExt as _, process::ChildStdin};

/// The pipe and the bytes not yet written to it. It stays open until [`close`](Self::close): the agent treats end of
/// file as a request to exit.
#[derive(Debug)]
pub(crate) struct Input {
    pipe: Option<ChildStdin>,
    pending: Vec<u8>,
    written: usize,
}

impl Input {
    pub(crate) fn new(pipe: Option<ChildStdin>, first: Vec<u8>) -> Self {
        Self { pipe, pending: first, written: 0 }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Closes the pipe and discards unwritten bytes.
    pub(crate) fn close(&mut self) {
        self.pipe = None;
        self.pending = Vec::new();
        self.written = 0;
    }

    /// Writes some of the pending bytes. Stays pending if there are none. Cancel-safe.
    pub(crate) async fn write(&mut self) {
        let rest = self.pending.get(self.written..).unwrap_or_default();
        match &mut self.pipe {
            Some(pipe) if !rest.is_empty() => match pipe.write(rest).await {
                Ok(bytes @ 1..) => {
                    self.written += bytes;
                    if self.written >= self.pending.len() {
                        self.pending = Vec::new();
                        self.written = 0;
                    }
                }
                // The agent closed its end. Its exit status will say why.
                Ok(_) | Err(_) => self.close(),
            },
            _ => std::future::pending().await,
        }
    }
}
