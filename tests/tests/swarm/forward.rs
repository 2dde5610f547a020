//! A port that containers can reach, in front of one that only this machine can reach.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::network::HERE;

/// Forwards connections until it is dropped.
#[derive(Debug)]
pub(crate) struct Forward {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Forward {
    /// Forwards to `target`, which listens on loopback.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((HERE, 0)).await.expect("the engine's network exists");
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(target).await {
                        // When either side closes, both connections end.
                        let _ended = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Self { address, _task: AbortOnDropHandle::new(task) }
    }

    /// Its URL, without a trailing slash.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
